"""Every task, trained by its default command, reaches the level that it promises."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest
from forked import create, work_on

from unrolled.run.directory import RunDirectory

pytestmark = pytest.mark.learn


def train(*typed: str, cwd: Path) -> dict[str, dict[str, float]]:
    """The scores of `python train.py ...`."""
    with chdir(cwd):
        run = create([*typed, "logger=none"], cwd / "run")
    assert work_on(run) == [0], run.status().get("error")
    result = run.read_json("metrics.json")
    scores: dict[str, dict[str, float]] = result["metrics"]
    return scores | {"steps": {"value": result["steps"]}}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bitcount_makes_no_mistake_on_the_strings_it_has_not_seen(
    seed: int, tmp_path: Path
) -> None:
    scores = train("task=bitcount", f"seed={seed}", cwd=tmp_path)
    assert scores["test/sequences"]["value"] == 2**20 - 10_000 - 2_000
    assert scores["test/mistakes"]["value"] == 0
    assert scores["steps"]["value"] <= 3_000
    assert scores["test/error"]["trivial"] == pytest.approx(0.8238, abs=2e-4)


@pytest.mark.parametrize(("model", "error"), [("gru", 0.0), ("rnn", 0.001)])
def test_bitcount_is_learnt_by_the_other_encoders(model: str, error: float, tmp_path: Path) -> None:
    scores = train("task=bitcount", f"model={model}", cwd=tmp_path)
    assert scores["test/error"]["value"] <= error


def test_purchase_intent_on_generated_sessions_beats_the_trivial_score(tmp_path: Path) -> None:
    scores = train("task=purchase_intent", "data=shop", cwd=tmp_path)
    auroc = scores["test/auroc"]
    # Boosted trees on counts of events and gaps reach .71.
    assert auroc["best"] - 0.03 < auroc["value"] < auroc["best"] + 0.005
    assert scores["test/log_loss"]["value"] > scores["test/log_loss"]["best"]
    assert (
        scores["test/average_precision"]["value"] > 6 * scores["test/average_precision"]["trivial"]
    )
    assert scores["test/log_loss"]["value"] < 0.8 * scores["test/log_loss"]["trivial"]


def test_a_small_log_with_many_items_is_not_learnt_by_heart(tmp_path: Path) -> None:
    typed = ["data.source.sessions=4000", "data.source.intent=0.3"]
    scores = train("task=purchase_intent", "data=shop", *typed, cwd=tmp_path)
    # 15 epochs of 3,200 sessions.
    assert scores["steps"]["value"] == 375
    # Wide vectors of its 1,000 items and 1,000 updates end at .75.
    assert scores["test/auroc"]["value"] > scores["test/auroc"]["best"] - 0.07


def test_purchase_intent_on_real_sessions_is_as_good_as_boosted_trees(
    data_dir: Path, tmp_path: Path
) -> None:
    scores = train("task=purchase_intent", "data=clickstream", cwd=tmp_path)
    assert scores["test/sequences"]["value"] == 5_256
    assert scores["test/auroc"]["value"] > 0.925
    assert scores["test/average_precision"]["value"] > 0.715
    assert scores["test/log_loss"]["value"] < 0.28 < scores["test/log_loss"]["trivial"]
    assert scores["test/calibration_error_scaled"]["value"] < 0.03


def test_purchase_intent_by_the_first_five_pages_of_real_sessions(
    data_dir: Path, tmp_path: Path
) -> None:
    typed = ["experiment=purchase_intent_first_pages", "data=clickstream"]
    scores = train(*typed, "task.reference=boosted_trees", "task.events_seen=[]", cwd=tmp_path)
    assert scores["test/sequences"]["value"] == 5_256
    assert scores["test/auroc"]["value"] > 0.715
    assert scores["test/average_precision"]["value"] > 0.445
    result = RunDirectory(tmp_path / "run").read_json("metrics.json")
    assert result["protocol"]["asked after"] == "the first 5 events of the session"
    trees = result["references"]["boosted_trees"]
    assert 0.70 < trees["test/auroc"] < 0.74


def test_the_tutorial_learns_to_the_letter_at_a_fiftieth_of_its_epochs(tmp_path: Path) -> None:
    scores = train("experiment=seed3_bitcount", "trainer.max_epochs=100", cwd=tmp_path)
    assert scores["steps"]["value"] == 1_000
    assert scores["test/sequences"]["value"] == 1_038_576
    assert scores["test/error"]["value"] < 0.75 < scores["test/error"]["trivial"]


LEVELS = {
    "memorize": ("test/loss", 0.0011),
    "wave_inverse": ("test/mse", 1.10 * 0.466),
    "next_word": ("test/perplexity", 1.06 * 3.41928),
    "parity": ("test/error", 0.0),
    "adding": ("test/mse", 1e-3),
    "multiplication": ("test/mse", 1e-3),
    "temporal_order": ("test/error", 0.001),
    "copy": ("test/loss", 0.001),
    "seq_images": ("test/error", 0.04),
    "recall": ("test/error", 0.001),
}
"""What the default of each task promises of a test metric that is better when less."""
SHORTER = {
    "wave_inverse": ("trainer.max_steps=1500", "data.test_size=100000"),
    "temporal_order": ("trainer.max_steps=550",),
}
"""Where a part of the default's updates is enough for the level."""


@pytest.mark.parametrize("task", LEVELS)
def test_a_task_reaches_its_level_by_its_defaults(task: str, tmp_path: Path) -> None:
    metric, level = LEVELS[task]
    score = train(f"task={task}", *SHORTER.get(task, ()), cwd=tmp_path)[metric]
    assert score["value"] <= level
    assert score["trivial"] is None or score["value"] < 0.8 * score["trivial"]


def test_a_cosine_goes_on_by_itself_for_a_thousand_steps(tmp_path: Path) -> None:
    scores = train("task=cosine", cwd=tmp_path)
    assert scores["test/free_run"]["value"] >= 1_000
    assert (tmp_path / "run" / "plots" / "free_run.png").stat().st_size > 20_000


def test_the_phase_of_three_noisy_values_is_found_as_well_as_it_can_be(tmp_path: Path) -> None:
    # The tutorial's numbers of sequences.
    typed = ["model=lstm", "model.num_layers=2", "optimizer.lr=0.01", "trainer.max_steps=3000",
             "data.train_size=140000", "data.test_size=60000"]  # fmt: skip
    scores = train("task=wave_inverse", "data.source.lengths=[3]", *typed, cwd=tmp_path)
    assert scores["test/mse"]["value"] < 0.035
    assert scores["test/mse"]["best"] == pytest.approx(0.0303, rel=0.05)


def test_an_lstm_does_not_recall_what_a_transformer_of_its_size_does(tmp_path: Path) -> None:
    scores = train("experiment=recall_lstm", "trainer.max_steps=300", cwd=tmp_path)
    assert scores["test/error"]["value"] > 0.2


def test_bits_are_counted_in_strings_twice_as_long(tmp_path: Path) -> None:
    scores = train("experiment=bitcount_lengths", cwd=tmp_path)
    assert scores["test/mistakes"]["value"] == 0
    assert scores["length_40/mistakes"]["value"] == 0


def test_the_next_event_is_foretold_almost_as_well_as_it_can_be(tmp_path: Path) -> None:
    score = train("task=next_event", "trainer.max_steps=250", cwd=tmp_path)["test/log_likelihood"]
    assert score["best"] - 0.04 < score["value"] < score["best"] + 0.01
    assert score["trivial"] < score["best"] - 1.0

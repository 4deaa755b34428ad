"""A run with `data.hpo_val`: what is apart changes nothing but its own numbers."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

import pytest
import torch
from training import Run

from unrolled.data.events import EventData
from unrolled.data.tuning import divide
from unrolled.run import training
from unrolled.run.checkpoint_files import read_checkpoint
from unrolled.run.directory import RunDirectory
from unrolled.run.evaluate import evaluate

TYPED = ["task=purchase_intent", "data.source.sessions=1500", "model.hidden_size=8", "test=false",
         "trainer.max_steps=24", "trainer.val_check_interval=6", "data.hpo_val=0.4",
         "trainer.log_every_n_steps=6"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunDirectory]:
    """The run, trained once as it is, and once with other labels in the part that is apart."""
    folder, made = tmp_path_factory.mktemp("runs"), dict[str, RunDirectory]()

    def make(name: str) -> RunDirectory:
        if name not in made:
            directory = Run(folder / name, f"data.store_dir={folder}/stores", *TYPED).directory
            with pytest.MonkeyPatch.context() as patch:
                if name == "other labels":
                    patch.setattr(EventData, "test_sources", flipped)
                training.train(directory)
            made[name] = directory
        return made[name]

    return make


def flipped(self: EventData, original: Any = EventData.test_sources) -> Any:
    sources = original(self)
    # Only here: by its labels the part was chosen.
    sources["hpo_val"].labels = 1 - sources["hpo_val"].labels
    return sources


def scores(run: RunDirectory) -> dict[str, float]:
    return {name: s["value"] for name, s in run.read_json("metrics.json")["metrics"].items()}


def rows(run: RunDirectory) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_part_is_judged_once_at_the_end_by_the_names_of_the_validation(
    trained: Callable[[str], RunDirectory],
) -> None:
    run = trained("as it is")
    logged = rows(run)
    names = {name.removeprefix("val/") for name in logged[0] if name.startswith("val/")}
    assert {"auroc", "log_loss", "loss", "sequences"} <= names
    assert {f"hpo_val/{name}" for name in names} <= scores(run).keys()
    assert all(name.startswith("hpo_val/") for name in scores(run))
    assert [row["step"] for row in logged if row["hpo_val/auroc"]] == ["24"]
    whole = int(float(logged[0]["val/sequences"])) + int(scores(run)["hpo_val/sequences"])
    assert scores(run)["hpo_val/sequences"] == round(0.4 * whole)
    assert run.read_json("metrics.json")["seconds"]["test"] > 0


def test_its_labels_change_only_its_own_numbers(
    trained: Callable[[str], RunDirectory],
) -> None:
    run, other = trained("as it is"), trained("other labels")
    # The temperature is among the weights, and the best value among the callbacks' states.
    best, same = (read_checkpoint(r.best_checkpoint()) for r in (run, other))
    assert best["state_dict"].keys() == same["state_dict"].keys()
    assert all(torch.equal(v, same["state_dict"][k]) for k, v in best["state_dict"].items())
    assert best["state_dict"]["temperature"] != 1
    assert best["global_step"] == same["global_step"]
    for row, copy in zip(rows(run), rows(other), strict=True):
        differ = {name for name in row if row[name] != copy[name]}
        assert all(name.startswith("hpo_val/") for name in differ)
    assert scores(other)["hpo_val/auroc"] == pytest.approx(1 - scores(run)["hpo_val/auroc"])


def test_the_value_is_that_of_the_best_checkpoint_on_those_rows(
    trained: Callable[[str], RunDirectory],
) -> None:
    run = trained("as it is")
    by_hand = Run(run.path.parent / "by_hand", f"data.store_dir={run.path.parent}/stores", *TYPED)
    by_hand.task.load_state_dict(read_checkpoint(run.best_checkpoint())["state_dict"])
    source = by_hand.data.source("val")
    batch = source.gather(divide(len(source), 0.4, source.targets())[1])
    by_hand.task.eval()
    with torch.no_grad():
        buys = by_hand.task.model.head.expectation(by_hand.task(batch)).double()
    yes, no = buys[batch.targets == 1], buys[batch.targets == 0]
    pairs = (yes[:, None] > no).double() + 0.5 * (yes[:, None] == no)
    chosen = buys.where(batch.targets == 1, 1 - buys)
    assert scores(run)["hpo_val/auroc"] == pytest.approx(float(pairs.mean()), abs=1e-6)
    assert scores(run)["hpo_val/log_loss"] == pytest.approx(float(-chosen.log().mean()), rel=1e-5)


def test_evaluate_gives_it_too_but_not_of_other_data(
    trained: Callable[[str], RunDirectory],
) -> None:
    run = trained("as it is")
    again = evaluate(run.path, [])
    own = {name: score["value"] for name, score in again.items() if name.startswith("hpo_val/")}
    assert own == pytest.approx(scores(run))
    assert again["test/auroc"]["value"] > 0.4
    changed = evaluate(run.path, ["data.eval_batch_size=100"])
    assert {name.partition("/")[0] for name in changed} == {"test"}
    assert changed["test/auroc"]["value"] == pytest.approx(again["test/auroc"]["value"])

"""What chooses the checkpoint has a value; what has none is nowhere a number."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from training import Run

from unrolled.data.events import EventData
from unrolled.errors import UserError
from unrolled.run import training
from unrolled.run.checkpoint_files import read_checkpoint
from unrolled.run.directory import RunDirectory
from unrolled.run.show import show_result
from unrolled.sweep.space import Sweep
from unrolled.sweep.value import value_of

TYPED = ["task=purchase_intent", "data.source.sessions=900", "model.hidden_size=4",
         "trainer.max_steps=9", "trainer.val_check_interval=3", "data.hpo_val=0.4",
         "trainer.log_every_n_steps=3"]  # fmt: skip


def nobody_buys(self: EventData, split: Any, original: Any = EventData.source) -> Any:
    source = original(self, split)
    if split != "train":
        source.labels = source.labels * 0
    return source


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, list[str]]:
    """A run whose validation and test sessions do not buy, and its warnings."""
    folder, told = tmp_path_factory.mktemp("runs"), list[str]()
    noting = logging.Handler()
    noting.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventData, "source", nobody_buys)
        run = Run(folder / "run", f"data.store_dir={folder}/stores", *TYPED).directory
        logging.getLogger("unrolled").addHandler(noting)
        training.train(run)
        logging.getLogger("unrolled").removeHandler(noting)
    return run, told


def test_the_loss_chooses_the_checkpoint_where_the_metric_has_no_value_and_that_is_told(
    trained: tuple[RunDirectory, list[str]],
) -> None:
    run, told = trained
    count = int(next(iter(rows(run)))["val/sequences"].partition(".")[0])
    said = next(words for words in told if words.startswith("val/auroc"))
    assert said == (
        f"val/auroc is undefined on the sequences that choose the checkpoint (all {count} targets "
        "are 0): val/loss chooses it instead"
    )
    assert any("hpo_val/auroc is undefined on the sequences that are set" in said for said in told)
    losses = {int(row["step"]): float(row["val/loss"]) for row in rows(run) if row["val/loss"]}
    saved = read_checkpoint(run.best_checkpoint())
    assert saved["global_step"] == min(losses, key=lambda step: losses[step])
    assert run.read_json("metrics.json")["remarks"][0] == (
        "val/loss chose the checkpoint: val/auroc is undefined on the validation sequences."
    )


def rows(run: RunDirectory) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["val/loss"]]


def test_what_is_undefined_is_empty_in_the_csv_and_null_with_the_reason_in_the_json(
    trained: tuple[RunDirectory, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = trained
    assert not any(row.get("val/auroc") for row in rows(run))
    assert not any("nan" in row.values() for row in rows(run))

    def no_constant(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    result = json.loads((run.path / "metrics.json").read_text(), parse_constant=no_constant)
    count = result["metrics"]["test/sequences"]["value"]
    assert result["metrics"]["test/auroc"] == {
        "value": None, "undefined": f"all {count:.0f} targets are 0",
        "trivial": None, "best": None, "better": "max",
    }  # fmt: skip
    assert result["metrics"]["test/log_loss"]["value"] > 0
    assert result["undefined"].keys() == {"val/auroc", "val/average_precision"}
    show_result(run)
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "test/auroc ↑" in line)
    assert row.replace("│", " ").split() == ["test/auroc", "↑", "-", "undefined", "-"]
    assert f"undefined, all {count:.0f} targets are 0" in " ".join(shown.split())


@pytest.mark.parametrize("name", ["val/auroc", "hpo_val/auroc"])
def test_a_trial_whose_metric_has_no_value_is_told_so(
    trained: tuple[RunDirectory, list[str]], name: str
) -> None:
    metric = SimpleNamespace(name=name, goal="maximize")
    sweep = cast(Sweep, SimpleNamespace(metric=metric, watched="val/auroc"))
    with pytest.raises(UserError, match=rf"{name} is undefined: all \d+ targets are 0"):
        value_of(sweep, trained[0], [])


def test_a_callback_that_goes_by_a_metric_without_a_value_is_refused(
    trained: tuple[RunDirectory, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventData, "source", nobody_buys)
    stores = trained[0].path.parent / "stores"
    stop = "+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping"
    with pytest.raises(UserError) as error:
        Run(tmp_path / "a", f"data.store_dir={stores}", *TYPED, stop + ", monitor: val/auroc}")
    assert (
        "callbacks.stop.monitor=val/auroc: it is undefined on the validation sequences (all "
        in str(error.value)
    )
    # Without a monitor of its own it takes the run's, in its direction.
    run = Run(tmp_path / "b", f"data.store_dir={stores}", *TYPED, stop + "}")
    stopping = next(c for c in run.trainer.callbacks if type(c).__name__ == "EarlyStopping")  # type: ignore[attr-defined]
    assert (stopping.monitor, stopping.mode) == ("val/loss", "min")

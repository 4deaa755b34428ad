"""The end of a sweep: what is told, and that it is told whatever becomes of the pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from unrolled.sweep import summary
from unrolled.sweep.engine import sum_up
from unrolled.sweep.folder import SweepFolder
from unrolled.sweep.ledger import Ledger
from unrolled.sweep.points import text_of
from unrolled.sweep.space import Values
from unrolled.terminal import Terminal

PARAMETERS: dict[str, Any] = {
    "task": {"value": "bitcount"},
    # Rounding makes 0 of what is below 50.
    "data.train_size": {"distribution": "q_log_uniform_values", "min": 10, "max": 1000, "q": 100},
    "model": {"values": ["lstm", "gru"]},
}


def over(
    path: Path,
    trials: int,
    parameters: dict[str, Any] = PARAMETERS,
    identify: Callable[[Values], str] = lambda values: text_of(values)[:60],
) -> tuple[SweepFolder, Ledger]:
    """A sweep whose trials are finished; none was computed."""
    path.mkdir(parents=True)
    content = {
        "program": "train.py",
        "method": "random",
        "metric": {"name": "val/loss"},
        "parameters": parameters,
    }
    (path / "sweep.yaml").write_text(yaml.safe_dump(content))
    (path / "plan.json").write_text(json.dumps({"trials": trials}))
    folder = SweepFolder(path)
    ledger = Ledger(folder.path, folder.sweep, identify, trials)
    for number in range(trials):
        claim = ledger.claim()
        assert claim is not None
        ledger.finish(claim.trial, float(number), [float(number)])
        claim.release()
    return folder, ledger


def told(folder: SweepFolder, ledger: Ledger) -> str:
    console = Terminal(file=io.StringIO(), width=160, soft_wrap=True, record=True)
    assert sum_up(folder, ledger, console) == 0
    return console.export_text()


def test_a_value_that_was_rounded_to_zero_ends_nothing(tmp_path: Path) -> None:
    parameters = {**PARAMETERS, "seed": {"min": 0, "max": 999}}
    folder, ledger = over(tmp_path / "s", 12, parameters)
    assert 0 in [trial.values["data.train_size"] for trial in ledger.trials()]
    text = told(folder, ledger)
    assert text.index("best: ") < text.index("what made the difference: ")
    assert (tmp_path / "s" / "summary" / "slices.png").is_file()


def test_points_that_were_the_same_trial_are_counted(tmp_path: Path) -> None:
    same = {"task": {"value": "bitcount"}, "seed": {"min": 1, "max": 30}}
    folder, ledger = over(tmp_path / "s", 2, same, lambda values: str(values["seed"] % 2))
    known = [note for t in ledger.study.trials if (note := t.user_attrs["unrolled"])]
    further = len(known) - 2
    assert further > 0
    assert f"{further} further points were a trial that was there already" in told(folder, ledger)


def test_the_best_command_is_told_though_nothing_can_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("no such [font]")

    monkeypatch.setattr(summary, "write_plots", fail)
    folder, ledger = over(tmp_path / "s", 2)
    text = told(folder, ledger)
    (line,) = [line for line in text.splitlines() if line.startswith("best: ")]
    typed = {f"{key}={value}" for key, value in ledger.trials()[0].values.items()}
    threads = f"OMP_NUM_THREADS={folder.plan.threads}"
    assert {"best:", threads, "python", "train.py", *typed} == set(line.split())
    assert "no plots: ValueError: no such [font]" in text

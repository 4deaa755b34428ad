"""The table at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from unrolled.run.directory import RunDirectory
from unrolled.run.show import show_result, show_scores


@pytest.mark.parametrize("best", [None, 0.97])
def test_the_best_possible_value_has_a_column_where_it_is_known(
    best: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    score = {"value": 0.91234, "trivial": 0.5, "best": best, "better": "max"}
    show_scores({"test/auroc": score, "test/sequences": {"value": 5256.0}})
    shown = capsys.readouterr().out
    assert ("best possible" in shown) == (best is not None)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    end = [] if best is None else ["0.97"]
    assert ["test/auroc ↑", "0.5", "0.9123", *end] in rows
    assert ["test/sequences", "-", "5,256", *["-" for _ in end]] in rows


@pytest.mark.parametrize(("steps", "told"), [(1, "1 step, 7"), (2_000, "2,000 steps, 7")])
def test_one_step_is_a_step(
    tmp_path: Path, steps: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path)
    run.write_json("metrics.json", {"steps": steps, "parameters": 7, "seconds": {"fit": 0.4}})
    show_result(run)
    assert capsys.readouterr().out.startswith(f"{told} parameters, fit 0.4 s\n")

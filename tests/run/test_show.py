"""The table at the end of a run."""

from __future__ import annotations

import pytest

from unrolled.run.show import show_scores


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

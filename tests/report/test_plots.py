"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from unrolled.report.plots import _times


def test_times_are_drawn_where_there_are_any(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    _times(tmp_path, pa.table({"target_time": [[0.0]], "median_time": [[1.0]]}))
    assert not (tmp_path / "plots" / "times.png").exists()
    times = [[0.1, 2.0, 30.0], [5.0]]
    _times(tmp_path, pa.table({"target_time": times, "median_time": times}))
    assert (tmp_path / "plots" / "times.png").stat().st_size > 5_000

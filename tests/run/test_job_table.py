from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from unrolled.run.job_table import Job, JobTable


def test_jobs_stand_in_their_order_as_they_were_told_last_by_any_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = JobTable()
    elsewhere: JobTable = pickle.loads(pickle.dumps(table))
    first, second = Job(0, ["seed=1"], "/a/0", None), Job(1, ["seed=2"], "/a/1", None)
    with table.open():
        assert table.jobs() == []
        elsewhere.add(second)
        table.add(first)
        elsewhere.add(replace(second, code=0))
        assert table.jobs() == [first, replace(second, code=0)]
    # A job that goes on when nobody waits for it leaves nothing behind.
    elsewhere.add(replace(first, code=0))
    assert list(tmp_path.iterdir()) == []

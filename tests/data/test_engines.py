"""What an engine makes of the columns of a log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unrolled.data.log import EventLog
from unrolled.data.prepare import prepare
from unrolled.errors import UserError

SECONDS = [1_760_000_000 + 3600 * index for index in range(10)]


def _times(folder: Path, times: Any, **given: Any) -> list[float]:
    """The times of a log of ten events of two sequences, in the order of the file."""
    table = pa.table({"s": list("ababababab"), "t": times, "i": list("xyzxyzxyzx")})
    pq.write_table(table, folder / "log.parquet")
    log = EventLog(path=folder / "log.parquet", sequence="s", time="t", item="i",
                   val_fraction=0, test_fraction=0, **given)  # fmt: skip
    store = prepare(log, folder / "stores")
    with pa.memory_map(str(store / "train-00000.arrow")) as file:
        lists = pa.ipc.open_file(file).read_all()["event_time"].to_pylist()
    return sorted(time for times in lists for time in times)


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_timestamp_of_any_unit_and_zone_is_the_same_instant(
    tmp_path: Path, unit: str, zone: str | None
) -> None:
    # Nanoseconds with a zone are what pandas writes.
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    times = pa.array([second * factor for second in SECONDS], pa.timestamp(unit, zone))
    assert _times(tmp_path, times) == SECONDS


@pytest.mark.parametrize(
    "text",
    ["2025-10-09 08:53:20", "2025-10-09T08:53:20Z", "2025-10-09 08:53:20 UTC", "2025/10/09 8:53:20",
     "2025-10-09 10:53:20+02", "2025-10-09T10:53:20.000000001+02:00", "2025-10-09 03:23:20-0530"],
)  # fmt: skip
def test_a_text_in_iso_8601_is_a_time(tmp_path: Path, text: str) -> None:
    zone = "Z" if text.endswith(("Z", "UTC", "+02", "+02:00", "-0530")) else ""
    rest = [f"2025-10-0{day} 00:00:00{zone}" for day in range(1, 9)]
    found = _times(tmp_path, [text, *rest, f"2025-10-01 00:00{zone}"])
    assert found[-1] == 1_760_000_000


@pytest.mark.parametrize(
    "text",
    ["epoch", "10:00:00", "2025-10-09 24:00:00", "2025-02-30", "0044-03-15 (BC)",
     "infinity", "2025-10-26 02:30:00 Europe/Berlin", "2025-10-26 02:30:00 EST", "10000-01-01",
     "2025-10-09\n"],
)  # fmt: skip
def test_a_text_that_is_not_one_instant_is_no_time(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="column 't' is not a time in 1 rows") as caught:
        _times(tmp_path, [*(f"2025-10-0{day} 00:00:00" for day in range(1, 10)), text])
    assert repr(text) in str(caught.value)


def test_an_order_of_text_is_that_of_numbers_when_all_are(tmp_path: Path) -> None:
    table = pa.table({"s": ["a"] * 4, "n": ["10", "9", "1e1", "-1"], "i": list("wxyz")})
    pq.write_table(table, tmp_path / "log.parquet")
    log = EventLog(path=tmp_path / "log.parquet", sequence="s", order="n", item="i",
                   split_by="user", val_fraction=0, test_fraction=0)  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    words = pq.read_table(store / "vocab" / "i.parquet")["value"].to_pylist()
    with pa.memory_map(str(store / "train-00000.arrow")) as file:
        ids = pa.ipc.open_file(file).read_all()["i"].to_pylist()[0]
    assert [words[index - 2] for index in ids] == ["z", "x", "w", "y"]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (
            ["1", "x", "10", "y"],
            "is not a number in 2 rows, for example 'x' in row 2 while 2 rows are; write all in "
            "one way",
        ),
        (
            ["2026-01-01 10:00", "2026-01-02 10:00", "03/01/2026", "2026-01-04 10:00"],
            "is not a timestamp in 1 rows, for example '03/01/2026' in row 3 while 3 rows are; "
            "write all in one way",
        ),
        (
            [1.0, float("nan"), 2.0, 3.0],
            "is empty in 1 rows, for example row 2; the events can't be ordered",
        ),
    ],
)
def test_an_order_that_is_of_one_kind_in_some_rows_only_is_refused(
    tmp_path: Path, order: list[object], message: str
) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"s": ["a"] * 4, "n": order, "i": list("wxyz")}), path)
    log = EventLog(path=path, sequence="s", order="n", item="i", split_by="user")
    with pytest.raises(UserError) as caught:
        prepare(log, tmp_path / "stores")
    assert str(caught.value) == f"{path}: column 'n' {message}"


def test_an_order_of_words_is_alphabetical(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"s": ["a"] * 3, "n": ["c", "b", "a"], "i": list("xyz")}), path)
    log = EventLog(path=path, sequence="s", order="n", item="i", split_by="user",
                   val_fraction=0, test_fraction=0)  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    words = pq.read_table(store / "vocab" / "i.parquet")["value"].to_pylist()
    with pa.memory_map(str(store / "train-00000.arrow")) as file:
        ids = pa.ipc.open_file(file).read_all()["i"].to_pylist()[0]
    assert [words[index - 2] for index in ids] == ["z", "y", "x"]

"""Times mean the same however a log writes them, or the log is refused."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unrolled.data.check_time import date_checks
from unrolled.data.files import LogFiles
from unrolled.data.log import EventLog, LogColumns
from unrolled.data.new_events import encode
from unrolled.data.prepare import prepare
from unrolled.data.sql import Column
from unrolled.data.store import read_meta
from unrolled.data.time_format import format_problem, iso_text
from unrolled.errors import UserError

DAY = dt.datetime(2023, 1, 15, 9, 30, 5)
TOLD: dict[str, Any] = {
    "sequence": "session", "time": "at", "categorical": ["page"], "split_by": "user",
    "val_fraction": 0.25, "test_fraction": 0.25,
}  # fmt: skip


def _log(folder: Path, times: Any, kind: str = "parquet", **changes: Any) -> EventLog:
    """A log of three events for each of eight sessions, in the order of the times."""
    count = len(times)
    table = pa.table({
        "session": [i // 3 for i in range(count)],
        "at": times,
        "page": [f"p{i % 5}" for i in range(count)],
    })  # fmt: skip
    path = folder / f"log.{kind}"
    if kind == "csv":
        rows = [",".join(map(str, row.values())) for row in table.to_pylist()]
        path.write_text("\n".join(["session,at,page", *rows]) + "\n")
    else:
        pq.write_table(table, path)
    return EventLog(path=path, **TOLD | changes)


def _times(store: Path) -> list[float]:
    """The times of all splits by session."""
    found = []
    for split in ("train", "val", "test"):
        with pa.memory_map(str(store / f"{split}-00000.arrow")) as file:
            table = pa.ipc.open_file(file).read_all()
        found += zip(table["id"].to_pylist(), table["event_time"].to_pylist(), strict=True)
    return [second for _, times in sorted(found, key=lambda pair: int(pair[0])) for second in times]


def _stamps(step: dt.timedelta) -> list[dt.datetime]:
    return [DAY + i * step for i in range(24)]


def _seconds(stamps: list[dt.datetime]) -> list[float]:
    return [stamp.replace(tzinfo=dt.UTC).timestamp() for stamp in stamps]


@pytest.mark.parametrize("spelled", ["integer", "float", "text", "csv"])
@pytest.mark.parametrize(
    ("form", "digits", "step"),
    [
        ("%Y%m%d", "%Y%m%d", dt.timedelta(days=1)),
        ("%Y%m%d%H", "%Y%m%d%H", dt.timedelta(hours=1)),
        ("%Y%m%d%H%M", "%Y%m%d%H%M", dt.timedelta(minutes=7)),
        ("%Y%m%d%H%M%S", "%Y%m%d%H%M%S", dt.timedelta(seconds=7)),
        ("%Y%m%d%H%M%S%f", "%Y%m%d%H%M%S125", dt.timedelta(seconds=7)),
    ],
)
def test_digits_that_are_dates_are_read_as_dates_and_that_is_told(
    tmp_path: Path, form: str, digits: str, step: dt.timedelta, spelled: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    stamps = _stamps(step)
    written: list[Any] = [stamp.strftime(digits) for stamp in stamps]
    if spelled in ("integer", "float"):
        written = [int(value) for value in written]
    if spelled == "float":
        if form.endswith("%f"):
            pytest.skip("a float64 has no room for 17 digits")
        written = [float(value) for value in written]
    kind = "csv" if spelled == "csv" else "parquet"
    store = prepare(_log(tmp_path, written, kind), tmp_path / "stores")
    read = [dt.datetime.strptime(s.strftime(digits), form) for s in stamps]
    assert _times(store) == _seconds(read)
    assert read_meta(store)["time_unit"] == form
    told = f"the digits of at are read as dates in the format {form}"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([20230115] * 20 + [20230231] * 4,
         "column 'at' is no date in the format %Y%m%d in 4 rows, for example '20230231' in row 21 "
         "while 20 rows are; mend these rows, or say with data.source.time_unit what the digits "
         "are"),
        ([20230115] * 20 + [0] * 4,
         "column 'at' is no date in the format %Y%m%d in 4 rows, for example '0' in row 21 while "
         "20 rows are; mend these rows, or say with data.source.time_unit what the digits are"),
        ([202301 + i % 12 for i in range(24)],
         "column 'at' goes from 202301 to 202312, which may be dates in the format %Y%m and may be "
         "seconds; say which with data.source.time_unit=%Y%m or data.source.time_unit=s"),
        ([15012023 + 1000000 * (i % 12) for i in range(24)],
         "column 'at' goes from 15012023 to 26012023, which may be dates in the format %d%m%Y and "
         "may be seconds; say which with data.source.time_unit=%d%m%Y or data.source.time_unit=s"),
        ([230115 + i % 12 for i in range(24)],
         "column 'at' goes from 230115 to 230126, which may be dates in the format %y%m%d and may "
         "be seconds; say which with data.source.time_unit=%y%m%d or data.source.time_unit=s"),
    ],
)  # fmt: skip
def test_digits_that_can_not_be_told_apart_are_refused(
    tmp_path: Path, times: list[int], said: str
) -> None:
    log = _log(tmp_path, times)
    with pytest.raises(UserError) as error:
        prepare(log, tmp_path / "stores")
    assert str(error.value) == f"{log.path}: {said}"


def test_seconds_that_some_of_are_dates_by_chance_stay_seconds(tmp_path: Path) -> None:
    times = [20230101 + 37 * i for i in range(24)]
    store = prepare(_log(tmp_path, times), tmp_path / "stores")
    assert _times(store) == times
    assert read_meta(store)["time_unit"] == "s"


@pytest.mark.parametrize(
    ("form", "zone", "text", "right"),
    [
        ("%d.%m.%Y %H:%M", "UTC", "{0:%d.%m.%Y %H:%M}", "%Y-%m-%d %H:%M"),
        ("%d/%b/%Y:%T %z", "UTC", "{0:%d/%b/%Y:%H:%M:%S} +0000", "%Y-%m-%d %H:%M:%S"),
        ("%B %d, %y", "UTC", "{0:%B %d, %y}", "%Y-%m-%d"),
        ("%Y%m%d %H%M%S", "UTC", "{0:%Y%m%d %H%M%S}", "%Y-%m-%d %H:%M:%S"),
        ("%m/%d/%Y", "UTC", "{0.month}/{0.day}/{0.year}", "%Y-%m-%d"),
        ("%d%m%Y", "UTC", "{0.day}{0:%m%Y}", "%Y-%m-%d"),
    ],
)
def test_a_format_reads_what_python_writes_by_it(
    tmp_path: Path, form: str, zone: str, text: str, right: str
) -> None:
    stamps = [DAY + dt.timedelta(days=29 * i, hours=1) for i in range(24)]
    written: list[Any] = [text.format(stamp) for stamp in stamps]
    if form == "%d%m%Y":
        written = [int(value) for value in written]
    store = prepare(_log(tmp_path, written, time_unit=form), tmp_path / "stores")
    assert _times(store) == _seconds(
        [dt.datetime.strptime(s.strftime(right), right) for s in stamps]
    )
    assert read_meta(store)["time_unit"] == form


@settings(max_examples=60, deadline=None)
@given(
    stamp=st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2068, 12, 31)),
    form=st.sampled_from(
        ["%Y%m%d", "%d.%m.%Y %H:%M", "%H:%M:%S.%f %d-%b-%y", "%B/%d/%Y", "%Y%m%d%H%M%S%f"]
    ),
)
@example(dt.datetime(2000, 2, 29), "%Y%m%d")
def test_the_iso_text_of_a_format_is_the_time_that_python_reads(
    stamp: dt.datetime, form: str
) -> None:
    text = stamp.strftime(form)
    with duckdb.connect() as connection:
        sql = iso_text(f"'{text}'", form, digits=False)
        iso = connection.execute(f"SELECT {sql}").fetchall()
    year, *rest = iso[0][0].replace("T", " ").split("-")
    assert dt.datetime.fromisoformat("-".join([year, *rest])) == dt.datetime.strptime(text, form)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time_unit": "%Q"}, "time_unit='%Q' is no format of times: the directive %Q is not "
         "known; there are %Y %y %m %b %B %d %H %M %S %f %z %F %T"),
        ({"time_unit": "%d.%m."}, "time_unit='%d.%m.' is no format of times: it needs a year, "
         "once: %Y or %y"),
        ({"time_unit": "%Y-%m %H:%M"}, "time_unit='%Y-%m %H:%M' is no format of times: hours need "
         "%d, and days %m, %b or %B"),
        ({"time_unit": "msec"}, "time_unit='msec' is neither auto, s, ms, us, ns nor a format such "
         "as '%d.%m.%Y %H:%M'; did you mean 'ms'?"),
        ({"time_zone": "Europe/Berlim"}, "time_zone='Europe/Berlim' is no zone, as Europe/Berlin "
         "is; did you mean 'Europe/Berlin'?"),
    ],
)  # fmt: skip
def test_a_format_or_zone_that_does_not_exist_is_told(changes: dict[str, str], said: str) -> None:
    assert LogColumns(**TOLD | changes).problems() == [said]


def test_a_text_that_is_not_in_the_format_is_told_and_no_format_is_asked_for(
    tmp_path: Path,
) -> None:
    written = [f"{1 + i}.01.2023 10:00" for i in range(24)]
    log = _log(tmp_path, written)
    with pytest.raises(UserError) as error:
        prepare(log, tmp_path / "stores")
    assert str(error.value) == (
        f"{log.path}: column 'at' is not a time in 24 rows, for example '1.01.2023 10:00' in row "
        "1; data.source.time_unit takes a format, as '%d.%m.%Y %H:%M'"
    )
    written[20] = "31.02.2023 10:00"
    log = _log(tmp_path, written, time_unit="%d.%m.%Y %H:%M")
    with pytest.raises(UserError) as error:
        prepare(log, tmp_path / "stores")
    assert str(error.value) == (
        f"{log.path}: column 'at' is no time in the format %d.%m.%Y %H:%M in 1 rows, for example "
        "'31.02.2023 10:00' in row 21, which is data.source.time_unit"
    )


@pytest.mark.parametrize("kind", ["stamp", "text", "format", "zoned"])
def test_a_zone_moves_the_times_that_name_none(tmp_path: Path, kind: str) -> None:
    # Winter, the change to summer, summer.
    stamps = [
        dt.datetime(2023, 3, 26, 0, 30) + dt.timedelta(minutes=30 * i) for i in range(-24, 24)
    ]
    stamps = [stamp for stamp in stamps if not (stamp.day == 26 and stamp.hour == 2)][:24]
    import zoneinfo

    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    right = [stamp.replace(tzinfo=berlin).timestamp() for stamp in stamps]
    written: Any = stamps
    changes = {"time_zone": "Europe/Berlin"}
    if kind == "text":
        written = [str(stamp) for stamp in stamps]
    if kind == "format":
        written = [f"{stamp:%d.%m.%Y %H:%M}" for stamp in stamps]
        changes["time_unit"] = "%d.%m.%Y %H:%M"
    if kind == "zoned":
        written = pa.array(stamps, pa.timestamp("ns", "UTC"))
        right = _seconds(stamps)
    store = prepare(_log(tmp_path, written, **changes), tmp_path / "stores")
    assert _times(store) == right


NANO = 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    "spelled", ["integer", "stamp", "zoned", "text", "csv", "order integer", "order text"]
)
def test_nanoseconds_order_the_events_of_a_sequence(tmp_path: Path, spelled: str) -> None:
    rng = np.random.default_rng(5)
    places = np.concatenate([rng.permutation(6) for _ in range(8)])
    times = (NANO + np.repeat(np.arange(8), 6) * 3_600_000_000_000 + places * 3).tolist()
    given: Any = pa.array(times)
    if spelled == "stamp":
        given = pa.array(times, pa.timestamp("ns"))
    if spelled == "zoned":
        given = pa.array(times, pa.timestamp("ns", "UTC"))
    if "text" in spelled:
        given = [f"{np.datetime64(time, 'ns')}" for time in times]
    table = pa.table({"session": np.repeat(np.arange(8), 6), "at": given,
                      "page": [f"p{i}" for i in places]})  # fmt: skip
    path = tmp_path / ("log.csv" if spelled == "csv" else "log.parquet")
    if spelled == "csv":
        rows = [",".join(map(str, row.values())) for row in table.to_pylist()]
        path.write_text("\n".join(["session,at,page", *rows]) + "\n")
    else:
        pq.write_table(table, path)
    role = {"time": None, "order": "at"} if spelled.startswith("order") else {}
    store = prepare(EventLog(path=path, **TOLD | role), tmp_path / "stores")
    vocabulary = pq.read_table(store / "vocab" / "page.parquet").to_pydict()
    names = dict(zip(vocabulary["id"], vocabulary["value"], strict=True))
    with pa.memory_map(str(store / "train-00000.arrow")) as file:
        pages = pa.ipc.open_file(file).read_all()["page"].to_pylist()
    assert pages
    assert [[names[i] for i in row] for row in pages] == [[f"p{i}" for i in range(6)]] * len(pages)


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("2023-01-15 09:30:05.1234567891", "has less than a nanosecond in 24 rows, for example "
         "'2023-01-15 09:30:05.1234567891' in row 1; write at most 9 digits"),
        ("1700000000.123456789", "has more than the 17 digits of a float64 in 24 rows, for example "
         "'1700000000.123456789' in row 1; write whole nanoseconds, or a timestamp"),
        ("20230115093000123456", "goes from 2.023011509300012e+19 to 2.023011509300012e+19, which "
         "is no time since 1970 in any unit down to nanoseconds; say what the digits are with "
         "data.source.time_unit"),
    ],
)  # fmt: skip
def test_a_time_that_can_not_be_held_exactly_is_refused(
    tmp_path: Path, time: str, said: str
) -> None:
    log = _log(tmp_path, [time] * 24)
    with pytest.raises(UserError) as error:
        prepare(log, tmp_path / "stores")
    assert str(error.value) == f"{log.path}: column 'at' {said}"


@pytest.mark.parametrize(
    "other", ["text of digits", "float", "to the second", "stamp", "iso", "date"]
)
def test_new_events_may_write_the_same_times_in_another_way(tmp_path: Path, other: str) -> None:
    days = _stamps(dt.timedelta(days=1))
    digits = [int(f"{day:%Y%m%d}") for day in days]
    log = _log(tmp_path, digits, gap=True, hour_of_week=True)
    store = prepare(log, tmp_path / "stores")
    midnight = [day.replace(hour=0, minute=0, second=0) for day in days]
    written: Any = {
        "text of digits": list(map(str, digits)),
        "float": list(map(float, digits)),
        "to the second": [day * 1_000_000 for day in digits],
        "stamp": midnight,
        "iso": [str(day) for day in midnight],
        "date": [day.date() for day in days],
    }[other]
    new = _log(tmp_path, written, gap=True, hour_of_week=True)
    again = encode(store, new.columns(), new.tables(), labelled=False)
    assert [t for row in again["event_time"].to_pylist() for t in row] == _seconds(midnight)


def test_new_events_in_seconds_are_refused_where_training_had_dates(tmp_path: Path) -> None:
    digits = [int(f"{day:%Y%m%d}") for day in _stamps(dt.timedelta(days=1))]
    store = prepare(_log(tmp_path, digits), tmp_path / "stores")
    new = _log(tmp_path, [1_700_000_000 + i for i in range(24)])
    with pytest.raises(UserError) as error:
        encode(store, new.columns(), {"events": LogFiles(new.path or Path()), "labels": None},
               labelled=False)  # fmt: skip
    assert str(error.value) == (
        f"{new.path}: column 'at' is no date in the format %Y%m%d in 24 rows, for example "
        "'1700000000' in row 1, as the log has them that was trained on; write them so, or as "
        "timestamps"
    )


def test_a_format_has_no_problem_exactly_when_its_parts_fit() -> None:
    assert format_problem("%d.%m.%Y %H:%M:%S.%f%z") is None
    assert format_problem("%Y") is None
    assert format_problem("%Y %d") == "hours need %d, and days %m, %b or %B"
    assert format_problem("%Y-%m-%d %H %z") == "a zone needs %H and %M"
    assert format_problem("%Y-%m-%d %d") == "it has a directive twice"


@pytest.mark.parametrize(
    ("least", "most", "trained", "forms"),
    [
        (1_400_000_000, 1_700_000_000, None, []),  # Seconds of these years are no dates.
        (1_400_000_000_000, 1_700_000_000_000, None, []),
        (1_400_000_000, 1_700_000_000, "%Y%m%d", ["not %Y%m%d"]),
        (0, 20230101, None, ["not %Y%m%d", "like %Y", "like %Y%m", "like %y%m%d", "like %d%m%Y",
                             "like %m%d%Y"]),
        (1_700_000_000, 2_023_010_112, None, ["not %Y%m%d%H"]),
        (None, None, None, []),
    ],
)  # fmt: skip
def test_numbers_are_looked_at_as_dates_only_where_their_range_has_one(
    least: int | None, most: int | None, trained: str | None, forms: list[str]
) -> None:
    column = Column("at", "c1", "integer", "BIGINT")
    columns = LogColumns(sequence="s", time="at")
    asked = date_checks(column, columns, {"time least": least, "time most": most}, trained)
    assert [name for name in asked if not name.startswith("first")] == [f"time {f}" for f in forms]

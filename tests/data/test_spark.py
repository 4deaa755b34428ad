"""Spark makes the same stores as DuckDB, to the byte, and refuses bad logs in the same words."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from unrolled.data.engines import start_engine
from unrolled.data.log import EventLog
from unrolled.data.prepare import prepare
from unrolled.data.sql import INTEGER, microseconds, number, word
from unrolled.errors import UserError

HAS_SPARK = all(importlib.util.find_spec(name) for name in ("pyspark", "sqlglot", "pandas"))
needs_spark = pytest.mark.skipif(
    not (HAS_SPARK and shutil.which("java")),
    reason="needs the extra `spark` (pip install 'unrolled[spark]') and Java 17",
)

# Composed and decomposed, beyond the basic plane, sorted otherwise by UTF-16, and what CSVs quote.
WORDS = [
    *(
        "é",
        "e\u0301",
        "É",
        "😀",
        "👩\u200d👩\u200d👧",
        "\ufb03",
        "\uffee",
        "\U0001d538",
        "a",
        "A",
        "a ",
    ),
    *(" a", "10", "9", "010", "1.0", "NULL", "null", "NaN", "ß", "ss", "İ", "it's", '"q"', "a,b"),
    *("\\n", "line\nend", "tab\t", "%", "_", "[x]*?{y}", "日本語", "עברית", None, None),
]
START = 1_760_000_000


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Spark for all tests: it takes its time to start."""
    from unrolled.data.spark_session import spark_session

    with pytest.MonkeyPatch.context() as patch:
        # Short statements are not worth a second compilation.
        patch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
        with spark_session(tmp_path_factory.mktemp("spark"), "1GB"):
            yield


def _events(count: int = 2000, seed: int = 0) -> dict[str, list[Any]]:
    """A log with ties in time, nulls, copies of whole rows, and unicode."""
    rng = random.Random(seed)
    users = [f"u{i}" for i in range(60)] + WORDS
    rows = [
        (
            rng.choice(users),
            START + rng.randrange(40) * 600,
            rng.choice(WORDS),
            rng.choice(["view", "cart", "😀", None, "buy"] + ["view"] * 20),
            rng.choice([0.0, -0.0, 0.1, 3.0, 1e7, 123456.75, None]),
            rng.choice([True, False, None]),
            rng.choice([1, 20, 3, None]),
            rng.choice([math.nan, 0.0, -0.0, 1.5, 1e15, -1e-300, None]),
        )
        for _ in range(count)
    ]
    rows += rng.choices(rows, k=count // 10)
    names = ("user", "t", "item", "type", "price", "flag", "shelf", "score")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _both(log: EventLog, folder: Path) -> dict[str, Any]:
    """Make the store with both engines; what `store.json` says, once both say the same."""
    stores = [prepare(log, folder / e, engine=e) for e in ("duckdb", "spark")]  # type: ignore[arg-type]
    first, second = (json.loads((store / "store.json").read_text()) for store in stores)
    assert first["checksums"]
    assert second["checksums"] == first["checksums"]
    assert second == first
    assert stores[0].name == stores[1].name
    for file in first["checksums"]:
        assert (stores[0] / file).read_bytes() == (stores[1] / file).read_bytes()
    assert not (stores[1] / "work").exists()
    meta: dict[str, Any] = first
    return meta


@needs_spark
def test_sessions_of_users_are_equal_from_several_parquet_files(
    spark: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Many partitions, so that sequences and ties stand across their ends.
    monkeypatch.setattr("unrolled.data.spark_engine._EVENTS", 150)
    table = pa.table(_events())
    folder = tmp_path / "a folder, ü [1]%20"
    folder.mkdir()
    # The second begins in the middle of a tie; its name comes first in Spark's own order by size.
    pq.write_table(table.slice(0, 300), folder / "b.parquet", row_group_size=90)
    pq.write_table(table.slice(300), folder / "c.parquet", row_group_size=700)
    log = EventLog(
        path=folder.parent / "a folder*" / "*.parquet",
        user="user",
        session_gap=45,
        time="t",
        item="item",
        categorical=["flag", "shelf", "type", "score"],
        numeric={"price": "quantile"},
        gap=True,
        hour_of_week=True,
        min_length=2,
        min_support=5,
        training_items_only=True,
        duplicates="drop",
    )
    meta = _both(log, tmp_path)
    assert meta["read"]["events"] == 2200
    assert meta["read"]["dropped"]["exact copies of an event"] > 100


@needs_spark
def test_labels_by_a_target_event_are_equal_from_csv(spark: None, tmp_path: Path) -> None:
    table = pa.table(_events(seed=1))
    pa.csv.write_csv(table, tmp_path / "log.csv")
    log = EventLog(
        path=tmp_path / "log.csv",
        sequence="user",
        time="t",
        event_type="type",
        keep_types=["view", "😀"],
        target_event="buy",
        item="item",
        numeric={"price": "standard"},
        max_length=20,
        split_by="user",
        val_fraction=0.2,
        test_fraction=0.3,
    )
    meta = _both(log, tmp_path)
    assert meta["counts"]["train"]["positive"] > 0
    assert meta["read"]["dropped"]["events of other types than keep_types"] > 0


@needs_spark
def test_a_label_table_is_joined_equally_when_its_ids_are_text_and_the_log_s_are_numbers(
    spark: None, tmp_path: Path
) -> None:
    rng = random.Random(2)
    events = {
        "visit": pa.array([rng.randrange(90) for _ in range(600)], pa.uint32()),
        "page": [rng.choice(WORDS) for _ in range(600)],
        "at": [rng.randrange(8) for _ in range(600)],
    }
    pq.write_table(pa.table(events), tmp_path / "log.parquet")
    labels = [
        f"{i},{i % 2},{['train', 'validation', 'TEST'][i % 3]}" for i in rng.sample(range(90), 90)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["visit,bought,part", *labels]) + "\n")
    log = EventLog(
        path=tmp_path / "log.parquet",
        labels=tmp_path / "labels.csv",
        sequence="visit",
        order="at",
        categorical=["page"],
        label="bought",
        split="part",
    )
    meta = _both(log, tmp_path)
    assert sum(count["positive"] for count in meta["counts"].values()) == 45


@needs_spark
def test_the_moment_of_asking_is_read_equally_from_a_label_table(
    spark: None, tmp_path: Path
) -> None:
    rng = random.Random(6)
    rows = [(f"s{rng.randrange(60)}", START + rng.randrange(40 * 86_400)) for _ in range(600)]
    pq.write_table(
        pa.table({"s": [s for s, _ in rows], "t": [t for _, t in rows]}), tmp_path / "log.parquet"
    )
    asked = [f"2025-11-{1 + i % 9:02} 12:00:00.25" for i in range(60)]
    labels = pa.table({"s": [f"s{i}" for i in range(60)], "y": [i % 3 // 2 for i in range(60)],
                       "asked": asked})  # fmt: skip
    pa.csv.write_csv(labels, tmp_path / "labels.csv")
    log = EventLog(
        path=tmp_path / "log.parquet",
        labels=tmp_path / "labels.csv",
        sequence="s",
        time="t",
        label="y",
        asked_at="asked",
        split_by="user",
        gap_unit=3_600,
    )
    meta = _both(log, tmp_path)
    of = {f"s{i}": 1_761_998_400.25 + i % 9 * 86_400 for i in range(60)}
    late = sum(t >= of[s] for s, t in rows)
    assert meta["read"]["dropped"]["events at or after the moment of asking, 'asked'"] == late > 50
    assert meta["asked_unit"] == "timestamp"


@needs_spark
@pytest.mark.parametrize("ending", [".dat", ".dat.gz"])
def test_a_csv_without_header_and_with_quotes_is_read_equally(
    spark: None, tmp_path: Path, ending: str
) -> None:
    words = ["plain", '"with ""quotes"""', '"line\nend"', '"a::b"', '""', "", "'", "\\", " x ", "é"]
    rng = random.Random(3)
    for name, size, end in (("b", 30, "\n"), ("a", 300, "\n"), ("c", 200, "\r\n")):
        rows = [
            f"s{rng.randrange(30)}::2026-01-0{rng.randrange(1, 9)} 10:00:00::{rng.choice(words)}::"
            f"{rng.choice(['1', '', '2.50', ' 3 ', '1_000', '.5', '1e2'])}"
            for _ in range(size)
        ]
        rows[0] = "s0::2026-01-01 00:00:00::first::1"
        data = (end.join(rows) + end).encode()
        data = gzip.compress(data) if ending.endswith("gz") else data
        (tmp_path / (name + ending)).write_bytes(data)
    log = EventLog(
        path=tmp_path / f"*{ending}",
        names=["s.id", "time `t`", "the item", "n"],
        separator="::",
        sequence="s.id",
        time="time `t`",
        item="the item",
        numeric={"n": "log"},
    )
    meta = _both(log, tmp_path)
    assert meta["read"]["events"] == 530


TIMES = [
    "2026-01-01", "2026-1-5", "2026", "2026-01", "2026/01/02", "2026/1-2", "2026-01-01T10",
    "2026-01-01 10:00", "2026-01-01 1:2:3", "2026-01-01T10:00:00Z", "2026-01-01 10:00:00 UTC",
    "2026-01-01 10:00:00 Europe/Berlin", "2026-01-01 10:00:00 EST", "2026-01-01 10:00:00+01",
    "2026-01-01 10:00:00-0130", "2026-01-01 10:00:00 +01:30", "2026-01-01 10:00:00.123456789",
    "2026-01-01 10:00:00.9999999+02:00", "2026-01-01 24:00:00", "2026-01-01 23:59:60",
    "2026-01-01 23:60:00", "2026-02-30", "2024-02-29", "1900-02-29", "epoch", "infinity", "now",
    "T10:00", "10:00:00", "20260101", "0001-01-01", "0000-01-01", "10000-01-01", "-0001-01-01",
    "0044-03-15 (BC)", "1582-10-10", "1969-12-31 23:59:59.9999999", "2026-01-01  10:00",
    " 2026-01-01", "2026-01-01 ", "2026-01-01\n", "2026-01-01t10:00", "2026-01-01 10:00:00,5",
    "2026-01-01Z", "2026-01-01+01:00", "2026-01-01 10:00Z", "2026-01-01 10:00-08:30",
    "2026-01-01 10:00 Europe/Berlin", "2026-01-01 10:00:00+14:59", "2026-01-01 10:00:00+19:00",
    "2026-01-01T10:00:00.Z", "2026-03-29 02:30:00 Europe/Berlin", "2026-13-01", "2026-00-10",
    "2026/12/31 23:59:59.5Z", "2026-10-25 02:30:00 Europe/Berlin", "9999-12-31 23:59:59.999999",
    "2026-01-01 10:00:00 Mars/Olympus", "2026-01-01 10:00:00 America/Argentina/Ushuaia",
]  # fmt: skip
NUMBERS = [
    "1", "+1", "-1", " 1 ", "1.", ".5", ".", "1e5", "1E+5", "1e", "1_000", "1__0", "_1", "1_",
    "0x1f", "1.5d", "1f", "1L", "inf", "-Infinity", "nan", "NaN", "1,5", "", "\t1\n", "1e400",
    "1e-400", "٣", "\u00a01", "1 2", "- 1", "1e5.0", "1_000.5_0", "1e1_0", "true",
    "9223372036854775807", "9223372036854775808", "007", "0.1", "123456789.123456789", "4.9e-324",
    "1.7976931348623157e308",
    "1\n", "12\n", "1._5", "1_.5", "0b11", "1e05", "--1", "+-1", "\x0b1\x0c", "\x001",
]  # fmt: skip


def _values(engine: Any, path: Path, folder: Path, *, names: list[str]) -> pa.Table:
    """Row number, and each column as number, as microseconds and as text, in the engine's eyes."""
    with start_engine(engine, folder, "1GB", 1, str(path)) as started:
        started.open("events", path)
        columns = started.store(
            "events", {name: name == "text" for name in ["row", *names]}
        ).values()
        select = ["c0 AS sequence_key", "source_row"]
        for column in columns:
            if column.kind in ("text", "timestamp"):
                select.append(f"{microseconds(column)} AS us_{column.at}")
            if column.kind == "text":
                integer = f"regexp_matches({column.at}, '{INTEGER}')"
                select.append(f"CASE WHEN {integer} THEN TRY_CAST({column.at} AS BIGINT) END "
                              f"AS int_{column.at}")  # fmt: skip
            select.append(f"{number(column)} AS number_{column.at}")
            select.append(f"CAST({word(column)} AS VARCHAR) AS text_{column.at}")
        query = f"SELECT {', '.join(select)} FROM given ORDER BY c0"
        return pa.Table.from_batches(started.batches(query))


def _assert_equal(path: Path, folder: Path, names: list[str]) -> pa.Table:
    first, second = (
        _values(engine, path, folder / engine, names=names) for engine in ("duckdb", "spark")
    )
    assert first.column_names == second.column_names
    given = pq.read_table(path).to_pydict()
    for name in first.column_names:
        ours, theirs = (table[name].to_pylist() for table in (first, second))
        column = ["row", *names][int(name.rpartition("_c")[2])] if "_c" in name else name
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert one == other, f"{name} of {given.get(column, ours)[index]!r}"
    return first


@needs_spark
def test_text_is_the_same_number_and_the_same_time_in_both_engines(
    spark: None, tmp_path: Path
) -> None:
    rng = random.Random(4)
    odd = ["".join(rng.choices("0019.-+eE_ :TZ/d", k=rng.randrange(1, 8))) for _ in range(3000)]
    texts = TIMES + NUMBERS + odd
    path = tmp_path / "text.parquet"
    pq.write_table(pa.table({"row": range(len(texts)), "text": texts}), path)
    found = _assert_equal(path, tmp_path, ["text"])
    times = dict(zip(texts, found["us_c1"].to_pylist(), strict=True))
    assert times["2026-01-01 10:00Z"] == 1_767_261_600_000_000
    assert times["2026/01/02"] == 1_767_312_000_000_000
    # What the engines do not agree on by themselves is no time.
    assert times["epoch"] is None
    assert times["2026-01-01 10:00:00 EST"] is None
    assert times["2026-10-25 02:30:00 Europe/Berlin"] is None
    assert times["2026-01"] is None
    numbers = dict(zip(texts, found["number_c1"].to_pylist(), strict=True))
    assert (numbers["1_000"], numbers["1.5d"], numbers["inf"]) == (1000, None, None)


@needs_spark
def test_values_of_every_type_are_the_same_in_both_engines(spark: None, tmp_path: Path) -> None:
    import decimal

    nanos = [
        0,
        1,
        500,
        1500,
        -1500,
        -1501,
        1_767_225_600_500_000_000,
        1_767_225_600_123_456_789,
        None,
    ]
    micros = [None if n is None else n // 1000 for n in nanos]
    doubles = [0.0, 3.0, -7.0, 1e7, 12345678.0, 999999999999999.0, None, 2.0**40, -1.0]
    columns = {
        "row": pa.array(range(9), pa.int64()),
        "ns": pa.array(nanos, pa.timestamp("ns")),
        "ns zoned": pa.array(nanos, pa.timestamp("ns", "Europe/Berlin")),
        "us": pa.array(micros, pa.timestamp("us")),
        "us zoned": pa.array(micros, pa.timestamp("us", "UTC")),
        "ms": pa.array([n and n // 1000 for n in micros], pa.timestamp("ms")),
        "s": pa.array([n and n // 1_000_000 for n in micros], pa.timestamp("s")),
        "day": pa.array([0, 1, -1, 20000, 9, 8, 7, 6, None], pa.date32()),
        "double": pa.array(doubles, pa.float64()),
        "float": pa.array([0.0, 3.0, -7.0, 1e7, 0.5, 16777216.0, None, 8.0, -1.0], pa.float32()),
        "flag": pa.array([True, False, None] * 3),
        "u8": pa.array([0, 255, None] * 3, pa.uint8()),
        "u32": pa.array([0, 2**32 - 1, None] * 3, pa.uint32()),
        "u64": pa.array([0, 2**64 - 1, None] * 3, pa.uint64()),
        "decimal": pa.array([decimal.Decimal("0.00"), decimal.Decimal("-12.50"), None] * 3,
                            pa.decimal128(12, 2)),
        "small": pa.array([decimal.Decimal("0.000000001"), None, decimal.Decimal("1")] * 3,
                          pa.decimal128(30, 9)),
        "text": pa.array(["a", "", None] * 3),
    }  # fmt: skip
    path = tmp_path / "types.parquet"
    pq.write_table(pa.table(columns), path)
    _assert_equal(path, tmp_path, [name for name in columns if name != "row"])


@needs_spark
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time": "tt"}, "no column 'tt'"),
        ({"time": "item"}, "column 'item' is not a time"),
        ({"numeric": {"price": "log"}}, "column 'price' is negative"),
        ({"keep_types": ["bye"], "event_type": "type"}, "has none of data.source.keep_types"),
    ],
)
def test_a_bad_log_is_refused_in_the_same_words(
    spark: None, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    events = _events(200)
    events["price"][7] = -12345678.0
    pq.write_table(pa.table(events), tmp_path / "log.parquet")
    given: dict[str, Any] = {"sequence": "user", "time": "t", "categorical": ["item"], **changes}
    if given["time"] == "item":
        given["categorical"] = ["shelf"]
    log = EventLog(path=tmp_path / "log.parquet", **given)
    messages = []
    for engine in ("duckdb", "spark"):
        with pytest.raises(UserError, match=said) as caught:
            prepare(log, tmp_path / "stores", engine=engine)  # type: ignore[arg-type]
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert not list((tmp_path / "stores").glob("store-*"))


@needs_spark
def test_files_that_spark_can_t_read_are_named(spark: None, tmp_path: Path) -> None:
    def refused(match: str, **given: Any) -> str:
        log = EventLog(sequence="s", time="t", item="i", **given)
        with pytest.raises(UserError, match=match) as caught:
            prepare(log, tmp_path / "stores", engine="spark")
        assert "at org.apache" not in str(caught.value)
        return str(caught.value)

    table = pa.table({"s": [1, 2], "t": [1.0, 2.0], "i": ["a", "b"]})
    refused("use data.engine=duckdb", query="SELECT 1 AS s, 2 AS t, 3 AS i")
    with (
        pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as f,
    ):
        f.write_table(table)
    refused("x.arrow are not; use data.engine=duckdb", path=tmp_path / "x.arrow")

    nested = table.set_column(2, "i", pa.array([["a"], ["b"]]))
    pq.write_table(nested, tmp_path / "nested.parquet")
    refused("column 'i' is of the type VARCHAR\\[\\]", path=tmp_path / "nested.parquet")

    (tmp_path / "parts").mkdir()
    pq.write_table(table, tmp_path / "parts" / "1.parquet")
    other = table.set_column(0, "s", pa.array(["1", "2"]))
    pq.write_table(other, tmp_path / "parts" / "2.parquet")
    refused("2.parquet: column 's' is of the type string", path=tmp_path / "parts" / "*.parquet")

    whole = (tmp_path / "parts" / "1.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    refused("cut.parquet", path=tmp_path / "cut.parquet")
    many = pa.table({name: range(50_000) for name in "sti"})
    pq.write_table(many, tmp_path / "flipped.parquet", compression="none", use_dictionary=False)
    data = bytearray((tmp_path / "flipped.parquet").read_bytes())
    data[4:40] = bytes(36)
    (tmp_path / "flipped.parquet").write_bytes(data)
    refused("flipped.parquet: Spark: ", path=tmp_path / "flipped.parquet")


@needs_spark
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"1,1,a\n2,2\n3,3,c\n4,4,d,e\n",
         "2 rows have more or fewer values than the 3 columns, for example row 2: 2,2"),
        (b"1,1,a\n2,2,\xff\xfe\n", "1 rows have bytes that are not UTF-8, for example row 2: 2 2"),
        (b'1,1,"ab\n2,2,b\n3,3,c\n', "a quote is not closed before the end of the file"),
        (b'1,1,"ab"c\n2,2,b\n', "Unescaped quote character"),
        (b'1,1, "a"\n2,2,b\n', "1 rows have a blank before a quote"),
    ],
)  # fmt: skip
def test_a_csv_that_the_engines_would_read_differently_is_refused(
    spark: None, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "log.csv").write_bytes(b"s,t,i\n" + content)
    log = EventLog(path=tmp_path / "log.csv", sequence="s", time="t", item="i")
    with pytest.raises(UserError, match=f"log.csv: .*{said}") as caught:
        prepare(log, tmp_path / "stores", engine="spark")
    assert "org.apache" not in str(caught.value)


@needs_spark
@pytest.mark.parametrize(
    "content",
    [
        b'1,1,"ab" \n2,2,a "b"\n3,3,c  "d"\n',
        b'1,1,a"b\n2,2,b"\n3,3,"c\nd"\n',
        b'1,1,"c\nd"\n2,2,"""q"""\n3,3,\t"x"',
    ],
)
def test_a_csv_with_odd_quotes_is_read_equally(spark: None, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log.csv").write_bytes(b"\xef\xbb\xbfs,t,i\n\n" + content)
    log = EventLog(path=tmp_path / "log.csv", sequence="s", time="t", item="i", min_length=1,
                   val_fraction=0.34, test_fraction=0.34)  # fmt: skip
    assert _both(log, tmp_path)["read"]["events"] == 3


@needs_spark
# pyspark leaves the pipe to a Java that has failed open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_java_17_it_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyspark.sql import SparkSession

    pq.write_table(pa.table({"s": [1], "t": [1]}), tmp_path / "log.parquet")
    log = EventLog(path=tmp_path / "log.parquet", sequence="s", time="t", gap=True)
    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(UserError, match="needs Java 17 or later: there is no java on the PATH"):
            prepare(log, tmp_path, engine="spark")
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(java.parent.parent))
    with pytest.raises(UserError, match=f"needs Java 17 or later: {java} is Java 8; let JAVA_HOME"):
        prepare(log, tmp_path, engine="spark")
    java.write_text("#!/bin/sh\necho 'Error: it is broken' >&2\nexit 1\n")
    with pytest.raises(UserError, match=f"does not start with {java}: Error: it is broken"):
        prepare(log, tmp_path, engine="spark")


def test_without_pyspark_it_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"s": [1], "t": [1]}), tmp_path / "log.parquet")
    log = EventLog(path=tmp_path / "log.parquet", sequence="s", time="t", gap=True)
    for name in ("py4j", "py4j.protocol", "pyspark"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "unrolled.data.spark_engine", raising=False)
    with pytest.raises(UserError, match=r"not installed: pip install 'unrolled\[spark\]'"):
        prepare(log, tmp_path, engine="spark")


def test_a_store_that_one_engine_has_made_is_found_by_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table(_events(300)), tmp_path / "log.parquet")
    log = EventLog(path=tmp_path / "log.parquet", sequence="user", time="t", item="item")
    store = prepare(log, tmp_path)
    monkeypatch.setattr("unrolled.data.prepare.open_log", None)  # It is not asked for.
    assert prepare(log, tmp_path, engine="spark") == store


@needs_spark
@pytest.mark.process
def test_the_command_line_prepares_with_spark_and_says_no_more_than_with_duckdb(
    tmp_path: Path,
) -> None:
    pq.write_table(pa.table(_events(300)), tmp_path / "log.parquet")
    said = {}
    for engine in ("duckdb", "spark"):
        command = [
            *(
                sys.executable,
                "-m",
                "unrolled.cli",
                "prepare",
                "data=events",
                "task=purchase_intent",
            ),
            *(f"data.source.path={tmp_path}/log.parquet", "data.source.sequence=user"),
            *("data.source.time=t", "data.source.time_unit=s", "data.source.item=item"),
            *("data.source.hour_of_week=true", f"data.store_dir={tmp_path}/{engine}"),
            *(f"data.engine={engine}", "data.memory_limit=1GB"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
        said[engine] = [line for line in done.stderr.splitlines() if "Prepared" not in line]
        assert done.stdout == ""
    assert said["spark"] == said["duckdb"]
    assert {p.name for p in tmp_path.iterdir()} == {"log.parquet", "duckdb", "spark"}
    stores = [next((tmp_path / engine).glob("store-*")) for engine in said]
    assert (stores[0] / "store.json").read_bytes() == (stores[1] / "store.json").read_bytes()


@needs_spark
@pytest.mark.process
def test_an_interrupted_preparation_leaves_nothing_and_says_nothing(tmp_path: Path) -> None:
    pq.write_table(pa.table(_events(300)), tmp_path / "log.parquet")
    program = (
        "import pathlib; from unrolled.data.log import EventLog; "
        "from unrolled.data.prepare import prepare; here = pathlib.Path.cwd(); "
        "log = EventLog(path=here / 'log.parquet', sequence='user', time='t', item='item')\n"
        "try: prepare(log, here / 'stores', engine='spark', memory_limit='1GB')\n"
        "except KeyboardInterrupt: print('interrupted')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell's background jobs ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    # Spark has started, and has its first question to answer.
    while process.poll() is None and not list(tmp_path.glob("stores/**/blockmgr-*")):
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("interrupted\n", "")
    assert not (tmp_path / "stores").exists()


@needs_spark
@pytest.mark.process
@pytest.mark.timeout(900)
def test_the_stores_of_globo_s_clicks_are_equal() -> None:
    if "UNROLLED_DATA" not in os.environ:
        pytest.skip("needs UNROLLED_DATA, the folder of the data sets")
    if "UNROLLED_LARGE_TESTS" not in os.environ:
        pytest.skip("takes a minute; set UNROLLED_LARGE_TESTS to run it")
    benchmark = Path(__file__).parents[2] / "benchmarks" / "engines.py"
    done = subprocess.run([sys.executable, benchmark], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2,988,181 events; both stores are equal in all of store.json" in done.stdout

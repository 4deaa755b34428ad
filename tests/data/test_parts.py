"""The files of one log: joined by name, widened without loss, read however they are written."""

from __future__ import annotations

import datetime
import gzip
import shlex
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.files import LogFiles, TextFormat
from unrolled.data.log import EventLog
from unrolled.data.parts import Parts
from unrolled.data.plain_csv import is_plain, plain_copy
from unrolled.data.prepare import prepare, read_vocabulary
from unrolled.data.sql import literal, query_option, quoted
from unrolled.errors import UserError


def _read(table: LogFiles, names: list[str], folder: Path) -> tuple[list[Any], dict[str, str]]:
    """Rows in the order of the files, and the types of the columns."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        scanned, types = Parts(connection, "events", table, folder).select(names)
        connection.execute(f"CREATE TABLE t AS SELECT {', '.join(names)} FROM {scanned}")
        rows = connection.sql("SELECT * FROM t ORDER BY rowid").to_arrow_table()
        return list(zip(*rows.to_pydict().values(), strict=True)), types


def _write(path: Path, table: pa.Table, kind: str) -> None:
    if kind == "parquet":
        pq.write_table(table, path)
        return
    with pa.OSFile(str(path), "wb") as sink:
        make = pa.ipc.new_stream if path.name.startswith("b") else pa.ipc.new_file
        with make(sink, table.schema) as writer:
            writer.write_table(table, 1)


JAN, NS = datetime.datetime(2023, 1, 1), pa.timestamp("ns")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("first", "second", "wanted", "values"),
    [
        (pa.array([1, 2]), pa.array([3.0, None]), "BIGINT", [1, 2, 3, None]),
        (pa.array([1, 2]), pa.array([3.0, float("nan")]), "BIGINT", [1, 2, 3, None]),
        (pa.array([1, 2]), pa.array([2.5, 4.0]), "DOUBLE", [1, 2, 2.5, 4]),
        (pa.array([1, 2], pa.int32()), pa.array([2**60, 3]), "BIGINT", [1, 2, 2**60, 3]),
        (pa.array([-1, 2]), pa.array([2**64 - 1, 3], pa.uint64()), "HUGEINT",
         [-1, 2, 2**64 - 1, 3]),
        (pa.array([1.5, 2], pa.float16()), pa.array([2.1, 3]), "DOUBLE", [1.5, 2, 2.1, 3]),
        (pa.nulls(2), pa.array(["a", "b"]), "VARCHAR", [None, None, "a", "b"]),
        (pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", None]), "VARCHAR",
         ["a", "b", "c", None]),
        (pa.array([JAN, JAN], pa.timestamp("ms")), pa.array([JAN, JAN], pa.timestamp("us")),
         "TIMESTAMP", [JAN] * 4),
        (pa.array([1, 2], pa.timestamp("s")), pa.array([3_000_000_000, 4_000_000_000], NS),
         "TIMESTAMP_NS", [datetime.datetime(1970, 1, 1, 0, 0, i) for i in (1, 2, 3, 4)]),
        (pa.array([JAN, JAN], pa.timestamp("us", "UTC")),
         pa.array([JAN, JAN], pa.timestamp("ns", "UTC")), "TIMESTAMPTZ_NS",
         [JAN.replace(tzinfo=datetime.UTC)] * 4),
    ],
)  # fmt: skip
def test_a_column_gets_the_first_type_that_holds_all_values_of_all_files(
    tmp_path: Path, kind: str, first: pa.Array, second: pa.Array, wanted: str, values: list[Any]
) -> None:
    rest = pa.array(["x", "y"])
    if kind == "parquet" and first.type == pa.float16():
        first = first.cast(pa.float32())
    _write(tmp_path / f"a.{kind}", pa.table({"v": first, "w": rest}), kind)
    _write(tmp_path / f"b.{kind}", pa.table({"w": rest, "v": second, "more": rest}), kind)
    rows, types = _read(LogFiles(tmp_path / f"*.{kind}"), ["v", "w"], tmp_path)
    assert [row[0] for row in rows] == values
    assert [row[1] for row in rows] == ["x", "y", "x", "y"]
    assert types == {"v": wanted, "w": "VARCHAR"}


@pytest.mark.parametrize(
    ("first", "second", "kinds"),
    [
        (pa.array([2**60 + 1]), pa.array([1.5]), ("DOUBLE", "BIGINT")),
        (pa.array([1]), pa.array(["1"]), ("VARCHAR", "BIGINT")),
        (pa.array([JAN], pa.timestamp("us")), pa.array([JAN], pa.timestamp("us", "UTC")),
         ("TIMESTAMP WITH TIME ZONE", "TIMESTAMP")),
        (pa.array([datetime.datetime(2500, 1, 1)], pa.timestamp("us")), pa.array([JAN], NS),
         ("TIMESTAMP_NS", "TIMESTAMP")),
    ],
)  # fmt: skip
def test_types_that_would_lose_a_value_are_refused_by_file(
    tmp_path: Path, first: pa.Array, second: pa.Array, kinds: tuple[str, str]
) -> None:
    pq.write_table(pa.table({"v": first}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"v": second}), tmp_path / "b.parquet")
    with pytest.raises(UserError) as error:
        _read(LogFiles(tmp_path / "*.parquet"), ["v"], tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/b.parquet: column 'v' is of the type {kinds[0]}, and {kinds[1]} in "
        f"{tmp_path}/a.parquet; no type holds the values of both: write it in one type"
    )


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(
        st.one_of(
            st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3).map(pa.array),
            st.lists(st.floats(width=64, allow_nan=False), min_size=1, max_size=3).map(pa.array),
            st.lists(st.integers(-128, 127), min_size=1, max_size=3).map(
                lambda values: pa.array(values, pa.int8())
            ),
        ),
        min_size=2,
        max_size=3,
    )
)
def test_numbers_of_several_types_come_back_as_they_were_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, parts: list[pa.Array]
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    for index, values in enumerate(parts):
        pq.write_table(pa.table({"v": values}), folder / f"{index}.parquet")
    given = [value for part in parts for value in part.to_pylist()]
    try:
        rows, _ = _read(LogFiles(folder / "*.parquet"), ["v"], folder)
    except UserError:
        whole = [float(v).is_integer() for v in given]
        assert not all(whole) or any(abs(v) >= 2**53 for v in given)
    else:
        # Python compares integers and floats exactly.
        assert [row[0] for row in rows] == given


def _two(folder: Path, first: pa.Table, second: pa.Table) -> LogFiles:
    pq.write_table(first, folder / "a.parquet")
    pq.write_table(second, folder / "b.parquet")
    return LogFiles(folder / "*.parquet")


@pytest.mark.parametrize("other", [pa.float64(), pa.int64()])
def test_ids_that_lost_digits_in_32_bits_are_refused_beside_wider_ones_too(
    tmp_path: Path, other: pa.DataType
) -> None:
    def rows(kind: pa.DataType, first: int) -> pa.Table:
        ids = pa.array([first + i // 2 for i in range(40)])
        return pa.table({"s": ids.cast(kind, safe=False), "n": range(40), "p": ids})

    def log(**description: Any) -> EventLog:
        return EventLog(path=tmp_path / "*.parquet", time="n", split_by="user", **description)

    _two(tmp_path, rows(pa.float32(), 2**24), rows(other, 5))
    with pytest.raises(UserError, match=r"'s' is a floating-point number of 2\^24 or more of 32"):
        prepare(log(sequence="s", categorical=["p"]), tmp_path / "stores")
    # A price keeps its size there.
    prepare(log(sequence="p", numeric={"s": "log"}), tmp_path / "stores")
    _two(tmp_path, rows(pa.float32(), 5), rows(other, 2**24))
    prepare(log(sequence="s", categorical=["p"]), tmp_path / "stores")


@pytest.mark.parametrize(
    "none",
    [
        pa.array([float("nan")] * 2), pa.nulls(2, pa.int32()), pa.nulls(2, pa.bool_()),
        pa.nulls(2, pa.list_(pa.int64())), pa.array([], pa.timestamp("us")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("turn", [1, -1])
def test_a_file_without_a_value_in_a_column_says_nothing_of_its_type(
    tmp_path: Path, none: pa.Array, turn: int
) -> None:
    parts = [pa.table({"v": none}), pa.table({"v": ["x", "y"]})][::turn]
    rows, types = _read(_two(tmp_path, *parts), ["v"], tmp_path)
    found = [[None] * len(none), ["x", "y"]][::turn]
    assert [row[0] for row in rows] == found[0] + found[1]
    assert types == {"v": "VARCHAR"}


def test_a_column_without_a_value_in_any_file_has_none_in_whatever_types(tmp_path: Path) -> None:
    files = _two(tmp_path, pa.table({"v": [float("nan")]}), pa.table({"v": pa.nulls(1, pa.utf8())}))
    assert _read(files, ["v"], tmp_path)[0] == [(None,), (None,)]


@pytest.mark.parametrize("names", [["v", "v"], ["v", "V"]])
def test_a_parquet_file_with_one_name_twice_is_refused_and_not_read_by_the_first(
    tmp_path: Path, names: list[str]
) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names), tmp_path / "a.pq")
    with pytest.raises(UserError) as error:
        _read(LogFiles(tmp_path / "a.pq"), ["v"], tmp_path)
    assert str(error.value) == f"{tmp_path}/a.pq: more than one column is called 'v'"


def test_a_glob_may_have_its_pattern_in_any_folder(tmp_path: Path) -> None:
    for day in ("d1", "d2"):
        (tmp_path / day / "clicks").mkdir(parents=True)
        pq.write_table(pa.table({"v": [day]}), tmp_path / day / "clicks" / "p.parquet")
    pattern = tmp_path / "d*" / "clicks" / "*.parquet"
    assert _read(LogFiles(pattern), ["v"], tmp_path)[0] == [("d1",), ("d2",)]
    with pytest.raises(UserError, match="no such file"):
        _read(LogFiles(tmp_path / "d*" / "buys" / "*.parquet"), ["v"], tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("harm", ["cut", "damaged", "not packed"])
def test_a_packed_csv_that_can_t_be_unpacked_is_told(
    tmp_path: Path, encoding: str, harm: str
) -> None:
    rows = "".join(f"{i},{i * i % 977}\n" for i in range(2000))
    packed = gzip.compress(f"a,b\n{rows}".encode(encoding))
    content = {
        "cut": packed[:-20],
        "damaged": packed[:2000] + bytes(100) + packed[2100:],
        "not packed": b"a,b\n1,2\n",
    }[harm]
    (tmp_path / "a.csv.gz").write_bytes(content)
    files = LogFiles(tmp_path / "a.csv.gz", TextFormat(encoding=encoding))
    with pytest.raises(UserError) as error:
        _read(files, ["a"], tmp_path)
    assert str(error.value).startswith(
        f"{tmp_path}/a.csv.gz: can't be unpacked, it was cut or is no file of gzip's: "
    )


@given(st.text(st.characters(codec="ascii", exclude_characters="\n\r$`"), max_size=12))
def test_a_query_in_a_message_can_be_typed_as_it_stands(value: str) -> None:
    query = f"SELECT * REPLACE ({quoted(value)} = {literal(value)} AS b) FROM log"
    (typed,) = shlex.split(query_option(query))
    (override,) = OverridesParser.create().parse_overrides([typed])
    assert (override.key_or_group, override.value()) == ("data.source.query", query)


def test_a_column_that_a_file_lacks_is_told_and_one_that_is_not_used_is_not(tmp_path: Path) -> None:
    pq.write_table(pa.table({"v": [1], "w": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"v": [2]}), tmp_path / "b.parquet")
    files = LogFiles(tmp_path / "*.parquet")
    assert _read(files, ["v"], tmp_path)[0] == [(1,), (2,)]
    with pytest.raises(UserError) as error:
        _read(files, ["w"], tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/b.parquet: no column 'w', which {tmp_path}/a.parquet has"
    )


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_folder_s_name_is_a_column_of_text_whichever_months_there_are(
    tmp_path: Path, kind: str
) -> None:
    for month in ("01", "10"):
        folder = tmp_path / f"month={month}"
        folder.mkdir()
        if kind == "csv":
            (folder / "p.csv").write_text("v\n1\n")
        else:
            pq.write_table(pa.table({"v": [1]}), folder / "p.parquet")
    rows, types = _read(LogFiles(tmp_path / f"month=*/*.{kind}"), ["month"], tmp_path)
    assert (rows, types) == ([("01",), ("10",)], {"month": "VARCHAR"})
    alone = _read(LogFiles(tmp_path / f"month=10/p.{kind}"), ["month"], tmp_path)
    assert alone == ([("10",)], {"month": "VARCHAR"})


def test_csv_files_are_joined_by_the_names_of_their_headers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("u,v\n1,2\n")
    (tmp_path / "b.csv").write_text("w;v;u\n5;4;3\n")
    rows, _ = _read(LogFiles(tmp_path / "*.csv"), ["u", "v"], tmp_path)
    assert rows == [("1", "2"), ("3", "4")]


def test_arrow_s_stream_is_read_like_its_file_and_one_that_was_cut_is_told(tmp_path: Path) -> None:
    table = pa.table({
        "v": [1, 2, 3],
        "half": pa.array([0.5, 1, 2], pa.float16()),
        "wide": pa.array([1, 2, 3], pa.decimal256(50, 0)),
    })  # fmt: skip
    path = tmp_path / "b.arrow"
    _write(path, table, "arrow")
    rows, types = _read(LogFiles(path), ["v", "half"], tmp_path)
    assert rows == [(1, 0.5), (2, 1), (3, 2)]
    assert types["half"] == "FLOAT"
    with pytest.raises(UserError) as error:
        _read(LogFiles(path), ["wide"], tmp_path)
    assert str(error.value) == (
        f"{path}: column 'wide' is of Arrow's decimal256(50, 0), which can't be read; write it as "
        "a number, a text or a timestamp"
    )
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"b\.arrow: can't be read as an Arrow file: the stream"):
        _read(LogFiles(path), ["v"], tmp_path)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.text("ab\n\r\"', ä", max_size=6), st.sampled_from(["\n", "\r\n"])),
        min_size=1, max_size=8,
    ),
    packed=st.booleans(),
    encoding=st.sampled_from(["utf-8", "latin-1", "utf-16"]),
)  # fmt: skip
def test_a_csv_of_any_encoding_and_line_ends_keeps_its_values(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    packed: bool,
    encoding: str,
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    lines = [f'{i},"{v.replace(chr(34), 2 * chr(34))}"{end}' for i, (v, end) in enumerate(rows)]
    content = ("i,v\n" + "".join(lines)).encode(encoding)
    path = folder / ("log.csv.gz" if packed else "log.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    read, _ = _read(LogFiles(path, TextFormat(encoding=encoding)), ["i", "v"], folder)
    assert read == [(str(i), value or None) for i, (value, _) in enumerate(rows)]


def test_only_a_csv_that_duckdb_can_t_read_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for content, plain in (
        (b"a\n1\n", True), (b"a\r\n1\r\n", True), (b"a\n1\r\n", False), (b"a\r\n1\n", False),
    ):  # fmt: skip
        path.write_bytes(content)
        assert is_plain(path, TextFormat()) == plain
        copied = plain_copy(path, TextFormat(), tmp_path).read_bytes()
        assert copied == content.replace(b"\r\n", b"\n")
    path.write_bytes("ä".encode("cp1252"))
    with pytest.raises(UserError, match=r"log\.csv: is not in the encoding ascii: .*source\.enc"):
        plain_copy(path, TextFormat(encoding="ascii"), tmp_path)
    with pytest.raises(UserError, match=r"there is no encoding 'ebcdic-x'; for example utf-8"):
        is_plain(path, TextFormat(encoding="ebcdic-x"))


def test_a_log_that_is_written_as_spreadsheets_do_is_described(tmp_path: Path) -> None:
    text = "visit;step;page;price\n" + "".join(
        f"{v};{k};'caf\xe9;{v % 2}';{'?' if k else f'{v},5'}\r\n" for v in range(8) for k in (0, 1)
    )
    (tmp_path / "log.csv").write_bytes(text.encode("latin-1"))
    told: dict[str, Any] = {
        "sequence": "visit", "order": "step", "categorical": ["page"], "split_by": "user",
        "numeric": {"price": "standard"}, "val_fraction": 0.25, "test_fraction": 0.25,
    }  # fmt: skip
    log = EventLog(path=tmp_path / "log.csv", encoding="latin-1", quote="'", decimal=",",
                   nulls=["?"], **told)  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    assert sorted(read_vocabulary(store, "page").to_pylist()) == ["café;0", "café;1"]
    plain = text.replace("é", "&").replace(",", ".").replace("?", "").replace("'", '"')
    (tmp_path / "plain.csv").write_text(plain.replace("&", "é"), newline="\n")
    same = prepare(EventLog(path=tmp_path / "plain.csv", **told), tmp_path / "stores")
    for split in ("train", "val", "test"):
        file = f"{split}-00000.arrow"
        assert (store / file).read_bytes() == (same / file).read_bytes()


def test_each_option_of_a_log_s_text_changes_its_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("visit,step,page\n1,1,a\n")
    options: list[dict[str, Any]] = [
        {}, {"encoding": "latin-1"}, {"quote": "'"}, {"nulls": ["?"]}, {"decimal": ","},
        {"separator": ","}, {"names": ["visit", "step", "page"]},
    ]  # fmt: skip
    found = {
        EventLog(path=tmp_path / "log.csv", sequence="visit", order="step", categorical=["page"],
                 **changes).fingerprint()
        for changes in options
    }  # fmt: skip
    assert len(found) == len(options)

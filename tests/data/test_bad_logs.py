"""Logs that can't be right: told in a few lines with file, column, count and example, no store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unrolled.data.log import EventLog, LogColumns
from unrolled.data.prepare import prepare
from unrolled.errors import UserError

HEADER = "visit,second,page,price,buys,part"


def _rows() -> list[list[str]]:
    # s0 .. s5, two events each; both classes in each split.
    return [
        [f"s{i}", str(10 * i + k), "home", str(1 + k), str(i % 2), ["train", "val", "test"][i // 2]]
        for i in range(6)
        for k in range(2)
    ]


def _log(path: Path, **changes: Any) -> EventLog:
    description: dict[str, Any] = {
        "sequence": "visit",
        "order": "second",
        "time": "second",
        "categorical": ["page"],
        "numeric": {"price": "standard"},
        "gap": True,
        "label": "buys",
        "split": "part",
    }
    return EventLog(path=path, **{**description, **changes})


def _refused(folder: Path, log: EventLog) -> str:
    """The message; nothing may have been written."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as error:
        prepare(log, folder / "stores")
    assert sorted(folder.rglob("*")) == before
    message = str(error.value)
    assert len(message.splitlines()) <= 4
    assert "LINE " not in message
    return message


def _set(*cells: tuple[int, int, str]) -> Callable[[list[list[str]]], None]:
    def change(rows: list[list[str]]) -> None:
        for row, column, value in cells:
            rows[row][column] = value

    return change


def _column(column: int, value: str) -> Callable[[list[list[str]]], None]:
    return _set(*((row, column, value) for row in range(12)))


WORDS = "column 'part' must be train, val or test, one value a sequence; "
BINARY = "column 'buys' must be 0 or 1, one value a sequence; "

ASK = (
    "; a label answers a question by yes or no: ask one, for example with "
    '"data.source.query=\'SELECT * REPLACE (\\"buys\\" = \\\'{value}\\\' AS \\"buys\\") FROM log\'"'
)

BAD: dict[str, tuple[Callable[[list[list[str]]], None], dict[str, Any], str]] = {
    "a time that is none": (
        _set((3, 1, "soon"), (4, 1, "later")),
        {},
        "{path}: column 'second' is not a time in 2 rows, for example 'soon' in row 4",
    ),
    "an infinite time": (
        _set((3, 1, "inf")),
        {},
        "{path}: column 'second' is not a time in 1 rows, for example 'inf' in row 4",
    ),
    "a time that is missing": (
        _set((3, 1, ""), (5, 1, "")),
        {},
        "{path}: column 'second' is empty in 2 rows, for example row 4; every event needs its time",
    ),
    "a time of another size": (
        lambda rows: (
            [row.__setitem__(1, f"{1_700_000_000 + i}000") for i, row in enumerate(rows)]
            and _set((3, 1, "1700000003"), (9, 1, "0"))(rows)
        ),
        {},
        "{path}: column 'second' is too small for a time in 2 rows, for example '1700000003' in "
        "row 4: the largest, 1700000011000, looks like one in ms; mend these rows, or say what the "
        "numbers are with data.source.time_unit",
    ),
    "times of which some have a zone": (
        lambda rows: [
            row.__setitem__(1, f"2026-01-02 03:04:{i:02}" + ("Z" if i < 9 else ""))
            for i, row in enumerate(rows)
        ],
        {},
        "{path}: column 'second' is a time without a zone in 3 rows, for example "
        "'2026-01-02 03:04:09' in row 10 while 9 rows have one; give each its zone",
    ),
    "numbers among timestamps": (
        lambda rows: (
            [row.__setitem__(1, f"2026-01-02 03:04:{i:02}") for i, row in enumerate(rows)]
            and _set((7, 1, "1700000000"))(rows)
        ),
        {},
        "{path}: column 'second' is a number in 1 rows, for example '1700000000' in row 8 while "
        "others are timestamps; write all in one way",
    ),
    "several at once": (
        _set((3, 1, "soon"), (4, 3, "cheap")),
        {},
        "{path}: column 'price' is not a finite number in 1 rows, for example 'cheap' in row 5\n"
        "{path}: column 'second' is not a time in 1 rows, for example 'soon' in row 4",
    ),
    "a type that is never there": (
        lambda rows: None,
        {"event_type": "page", "keep_types": ["viev"]},
        "{path}: column 'page' has none of data.source.keep_types, viev",
    ),
    "an empty split of a log without labels": (
        lambda rows: None,
        {"label": None, "split": None, "val_days": 1e-5, "test_days": 1e-5},
        "{path}: the split 'val' has no sequence: data.source.val_days=1e-05 gives 'val' those "
        "that end from 1970-01-01 00:00:49 to before 1970-01-01 00:00:50. The last sequences to "
        "end are 's5' at 1970-01-01 00:00:51 and 's4' at 1970-01-01 00:00:41. If a time is wrong "
        "leave that sequence out of the log, else take other days",
    ),
    "no time at all": (_column(1, ""), {}, "{path}: column 'second' has no value in any row"),
    "a price that is no number": (
        _set((3, 3, "cheap"), (7, 3, "dear")),
        {},
        "{path}: column 'price' is not a finite number in 2 rows, for example 'cheap' in row 4",
    ),
    "an infinite price": (
        _set((0, 3, "-inf")),
        {},
        "{path}: column 'price' is not a finite number in 1 rows, for example '-inf' in row 1",
    ),
    "a negative price under log": (
        _set((0, 3, "-2.5"), (1, 3, "-0.5")),
        {"numeric": {"price": "log"}},
        "{path}: column 'price' is negative in 2 rows, for example '-2.5' in row 1; "
        "the transform 'log' needs values >= 0: use 'standard' or 'quantile'",
    ),
    "no price at all": (_column(3, ""), {}, "{path}: column 'price' has no value in any row"),
    "no page at all": (_column(2, ""), {}, "{path}: column 'page' has no value in any row"),
    "no sequence at all": (_column(0, ""), {}, "{path}: column 'visit' has no value in any row"),
    "no price to train on": (
        _set(*((row, 3, "") for row in range(4))),
        {},
        "{path}: column 'price' has no value in the training sequences",
    ),
    "no page to train on": (
        _set(*((row, 2, "") for row in range(4))),
        {},
        "{path}: column 'page' has no value in the training sequences",
    ),
    "prices beyond all measure": (
        _set((0, 3, "1e300")),
        {},
        "{path}: column 'price' has values too large to be standardised",
    ),
    "a label of three classes": (
        _set((2, 4, "2"), (3, 4, "2")),
        {},
        "{path}: "
        + BINARY
        + "1 sequences are not so, for example visit s1 with '2'"
        + ASK.replace("{value}", "2"),
    ),
    "a label that is a word": (
        _column(4, "gold"),
        {},
        "{path}: "
        + BINARY
        + "6 sequences are not so, for example visit s0 with 'gold'"
        + ASK.replace("{value}", "gold"),
    ),
    "a label that is missing": (
        _set((2, 4, ""), (3, 4, ""), (6, 4, "2")),
        {},
        "{path}: " + BINARY + "2 sequences are not so, for example visit s1 with no value",
    ),
    "a label that changes within a sequence": (
        _set((2, 4, "0")),
        {},
        "{path}: " + BINARY + "1 sequences are not so, for example visit s1 with '0' and '1'",
    ),
    "one class in two splits": (
        _set((4, 4, "1"), (5, 4, "1"), (10, 4, "0"), (11, 4, "0")),
        {},
        "{path}: the split 'val' has one class only: all of its 2 sequences have label 1 "
        "(column 'buys'); there is nothing to learn or to judge\n"
        "{path}: the split 'test' has one class only: all of its 2 sequences have label 0 "
        "(column 'buys'); there is nothing to learn or to judge",
    ),
    "another word for a split": (
        _set((8, 5, "later"), (9, 5, "later")),
        {},
        "{path}: " + WORDS + "1 sequences are not so, for example visit s4 with 'later'",
    ),
    "a split that is missing": (
        _set((8, 5, ""), (9, 5, "")),
        {},
        "{path}: " + WORDS + "1 sequences are not so, for example visit s4 with no value",
    ),
    "a sequence in two splits": (
        _set((8, 5, "train")),
        {},
        "{path}: " + WORDS + "1 sequences are not so, for example visit s4 with 'test' and 'train'",
    ),
    "an empty split": (
        _set(*((row, 5, "train") for row in range(4, 8))),
        {},
        "{path}: the split 'val' has no sequence: column 'part' gives train 4, val 0, test 2, and "
        "data.source.val_fraction=0.1 is a share of the training sequences",
    ),
    "too few sequences to split by time": (
        lambda rows: [row.__setitem__(slice(0, 6, 4), ["s0", "0"]) for row in rows],
        {"split": None},
        "{path}: the split 'train' has one class only: all of its 1 sequences have label 0 "
        "(column 'buys'); there is nothing to learn or to judge\n"
        "{path}: the split 'val' has no sequence: data.source.val_fraction=0.1 gives train 1, val "
        "0, test 0\n"
        "{path}: the split 'test' has no sequence: data.source.test_fraction=0.1 gives train 1, "
        "val 0, test 0",
    ),
    "no sequence that is long enough": (
        lambda rows: None,
        {"min_length": 3},
        "{path}: no sequence is left of 6 after min_length=3",
    ),
    "a target that is never there": (
        lambda rows: None,
        {"label": None, "target_event": "Home", "event_type": "page", "categorical": []},
        "{path}: no event of type 'Home' (data.source.target_event) in column 'page'; "
        "did you mean 'home'?",
    ),
    "a target that is never there in a feature": (
        lambda rows: None,
        {"label": None, "target_event": "Home", "event_type": "page"},
        "{path}: no event of type 'Home' (data.source.target_event) in column 'page'; "
        "did you mean 'home'?",
    ),
    "no event before the target": (
        lambda rows: None,
        {"label": None, "target_event": "home", "event_type": "page"},
        "{path}: no sequence is left of 6 after min_length=1 and the cut before 'home'",
    ),
    "a time that goes back": (
        _set((3, 3, "-7")),
        {"order": "second", "time": "price"},
        "{path}: ordered by 'second', the time 'price' goes back 1 times, for example in "
        "sequence s1; set data.source.order to the time column",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_value_that_can_not_be_right_is_told(tmp_path: Path, name: str) -> None:
    change, description, message = BAD[name]
    rows, path = _rows(), tmp_path / "log.csv"
    change(rows)
    path.write_text("\n".join([HEADER, *map(",".join, rows)]) + "\n")
    assert _refused(tmp_path, _log(path, **description)) == message.format(path=path)


def test_the_log_that_the_bad_ones_were_made_from_is_good(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("\n".join([HEADER, *map(",".join, _rows())]) + "\n")
    assert (prepare(_log(path), tmp_path / "stores") / "store.json").is_file()


def test_a_bad_value_far_down_in_a_long_file_is_told_like_one_at_the_top(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    lines = [f"s{i % 50},{i},home,1,0,train" for i in range(30_000)]
    path.write_text("\n".join([HEADER, *lines, "s0,30001,home,cheap,0,train", ""]))
    assert _refused(tmp_path, _log(path)) == (
        f"{path}: column 'price' is not a finite number in 1 rows, "
        "for example 'cheap' in row 30,001"
    )


def test_ids_that_a_floating_point_number_can_not_hold_are_told(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    table = pa.table({"visit": [1.0, 2.0**53, 2.0**60], "second": [1, 2, 3], "page": list("abc")})
    pq.write_table(table, path)
    log = EventLog(path=path, sequence="visit", time="second", categorical=["page"])
    assert _refused(tmp_path, log) == (
        f"{path}: column 'visit' is a floating-point number of 2^53 or more in 2 rows, for "
        "example '9007199254740992.0' in row 2; different values become equal there: write it as "
        "an integer or as text"
    )


def test_parquet_files_with_a_column_of_two_types_are_told(tmp_path: Path) -> None:
    for name, price, rest in (("a", [1, 2], "x"), ("b", ["2.4", "?"], 1)):
        rows = pa.table({"visit": [1, 1], "second": [1, 2], "price": price, "rest": [rest] * 2})
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    log = EventLog(
        path=tmp_path / "?.parquet", sequence="visit", time="second", categorical=["price"]
    )
    assert _refused(tmp_path, log) == (
        f"{tmp_path}/b.parquet: column 'price' is of the type VARCHAR, and BIGINT in "
        f"{tmp_path}/a.parquet; no type holds the values of both: write it in one type"
    )


def test_an_arrow_file_is_read_and_one_that_was_cut_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log.arrow"
    rows = dict(zip(HEADER.split(","), map(list, zip(*_rows(), strict=True)), strict=True))
    with pa.ipc.new_file(path, pa.table(rows).schema) as writer:
        for start in range(0, 12, 5):
            writer.write_table(pa.table(rows).slice(start, 5))
    whole = prepare(_log(path), tmp_path / "stores")
    csv = tmp_path / "log.csv"
    csv.write_text("\n".join([HEADER, *map(",".join, _rows())]) + "\n")
    same = prepare(_log(csv), tmp_path / "stores")
    for name in ("train-00000.arrow", "vocab/page.parquet"):
        assert (whole / name).read_bytes() == (same / name).read_bytes()
    path.write_bytes(path.read_bytes()[:-40])
    assert _refused(tmp_path, _log(path)).startswith(f"{path}: can't be read as an Arrow file: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["a", "b"]}, "{path}: the first line has 6 values separated by ',', and "
         "data.source.names names 2 columns"),
        ({"path": None}, "data.source: give path, the files of the log, or query, or both"),
        ({"query": "SELECT 1"}, "data.source: the query does not read the table log, which stands "
         "for the files of path; write FROM log, or give one of the two"),
        ({"path": None, "query": "FROM log"}, "data.source: the query reads the table log, which "
         "stands for the files of path: give it"),
        ({"path": None, "query": "SELECT * FROM nothing"}, "data.source.query: Catalog Error: "
         "Table with name nothing does not exist!"),
        ({"path": None, "query": "SELECT 1 AS second"}, "data.source.query: no column 'visit' "
         "(asked for by data.source.sequence); choose from: second"),
    ],
)  # fmt: skip
def test_a_source_that_does_not_fit_is_told(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "log.csv"
    path.write_text("\n".join([HEADER, *map(",".join, _rows())]) + "\n")
    log = EventLog(**{
        "path": path, "sequence": "visit", "time": "second", "categorical": ["page"], **changes
    })  # fmt: skip
    assert _refused(tmp_path, log).splitlines()[0] == message.format(path=path)


LABELS = "{labels}: 2 sequences of the log have no row here, for example visit s"


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ("visit,buys,part\ns0,0,train\ns0,0,train\ns1,1,val\n,1,val\n,0,val\n",
         {"{labels}: 1 values of 'visit' stand in more than one row, for example s0"}),
        ("visit,buys,part\ns0,0,train\ns1,1,val\ns2,0,test\ns5,1,test\n",
         {LABELS + "3", LABELS + "4"}),
        # The join takes both spellings for one id, and would double the events.
        ("visit,buys,part\ns0,0,train\n7.0,1,val\n7,1,val\n",
         {"{labels}: 1 values of 'visit' stand in more than one row, for example 7"}),
        ("visit,buys,part\n" + "".join(f"s{i},{2 * i},train\n" for i in range(6)),
         {"{labels}: " + BINARY + "5 sequences are not so, for example visit s1 with '2'; a label "
          "answers a question by yes or no: write its answers there"}),
        ("visit,bought,parts\ns0,0,train\n",
         {"{labels}: no column 'buys' (asked for by data.source.label); "
          "choose from: bought, parts, visit\n"
          "{labels}: no column 'part' (asked for by data.source.split); did you mean 'parts'?"}),
        ("visit,buys,part\n" + "".join(f"s{i},,train\n" for i in range(6)),
         {"{labels}: " + BINARY + "6 sequences are not so, for example visit s0 with no value"}),
    ],
)  # fmt: skip
def test_a_label_table_that_does_not_fit_is_told(
    tmp_path: Path, content: str, messages: set[str]
) -> None:
    path, labels = tmp_path / "log.csv", tmp_path / "labels.csv"
    path.write_text("\n".join([HEADER, *map(",".join, _rows())]) + "\n")
    labels.write_text(content)
    message = _refused(tmp_path, _log(path, labels=labels))
    assert message in {m.format(labels=labels) for m in messages}


@pytest.mark.parametrize(
    ("price", "then"),
    [
        ("2,4", "; data.source.decimal=\"','\" reads a comma as the sign before a fraction"),
        ("1.234,5", "; write it without a sign between the thousands"),
        ("1,234.50", "; write it without a sign between the thousands"),
        ("12 EUR", ""),
    ],
)
def test_a_number_in_another_spelling_is_told_with_what_reads_it(
    tmp_path: Path, price: str, then: str
) -> None:
    path, rows = tmp_path / "log.csv", _rows()
    for row in rows:
        row[3] = f'"{price}"'
    path.write_text("\n".join([HEADER, *map(",".join, rows)]) + "\n")
    assert _refused(tmp_path, _log(path)) == (
        f"{path}: column 'price' is not a finite number in 12 rows, for example {price!r} in row 1"
        f"{then}"
    )


def test_blanks_around_a_label_or_a_split_mean_nothing(tmp_path: Path) -> None:
    plain, padded = tmp_path / "plain.csv", tmp_path / "padded.csv"
    plain.write_text("\n".join([HEADER, *map(",".join, _rows())]) + "\n")
    rows = [[*row[:4], f" {row[4]}", f"{row[5]} "] for row in _rows()]
    padded.write_text("\n".join([HEADER, *map(",".join, rows)]) + "\n")
    stores = [prepare(_log(path), tmp_path / "stores") for path in (plain, padded)]
    for split in ("train", "val", "test"):
        one, other = (pa.ipc.open_file(str(s / f"{split}-00000.arrow")).read_all() for s in stores)
        assert one.equals(other)


def test_columns_that_are_missing_are_told_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("visits,second,page,prise,buys,part\na,1,x,1,1,train\n")
    assert _refused(tmp_path, _log(path, categorical=["page", "colour"])) == (
        f"{path}: no column 'visit' (asked for by data.source.sequence); did you mean 'visits'?\n"
        f"{path}: no column 'colour' (asked for by data.source.categorical); "
        "choose from: buys, page, part, prise, second, visits\n"
        f"{path}: no column 'price' (asked for by data.source.numeric); did you mean 'prise'?"
    )


def test_missing_files_and_folders_are_told(tmp_path: Path) -> None:
    path = tmp_path / "no.csv"
    assert _refused(tmp_path, _log(path)) == f"{path}: no such file"
    path = tmp_path / "no" / "day-*.csv"
    assert _refused(tmp_path, _log(path)) == (
        f"{path}: no such file; there is no folder {tmp_path}/no"
    )
    assert _refused(tmp_path, _log(tmp_path)) == (
        f"{tmp_path}: is a folder; give a file or a glob, for example *.parquet"
    )
    path.parent.mkdir()
    (path.parent / "day-1.csv").write_text(HEADER + "\n")
    assert _refused(tmp_path, _log(path, labels=tmp_path / "labels.csv")) == (
        f"{tmp_path}/labels.csv: no such file"
    )


def test_the_variable_for_the_data_sets_is_named_where_it_is_not_set(tmp_path: Path) -> None:
    path = Path("UNROLLED_DATA-is-not-set/clickstream/events_split0.parquet")
    assert _refused(tmp_path, _log(path)) == (
        f"{path}: this data set is found through the environment variable UNROLLED_DATA, "
        "which is not set; set it to the folder that holds the data sets"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"", "the file is empty; the first line must name the columns"),
        ("log.csv", HEADER.encode() + b"\n", "the file has no rows"),
        ("log.csv", HEADER.encode() + b"\ns0,1,home,1,0,train\ns1,2,home\n",
         "Invalid Input Error: CSV Error on Line: 3: Expected Number of Columns: 6 Found: 3"),
        ("log.csv", HEADER.encode() + b"\ns0,1,caf\xe9,1,0,train\n",
         "Invalid Input Error: CSV Error on Line: 2: Invalid unicode (byte sequence mismatch) "
         "detected. This file is not utf-8 encoded. data.source.encoding says which encoding it "
         "is, for example latin-1"),
        ("log.parquet", b"", "Invalid Input Error: File '{path}' too small to be a Parquet file"),
        ("log.parquet", HEADER.encode(),
         "Invalid Input Error: No magic bytes found at end of file '{path}'"),
        ("log.json", b"[]", "unknown format '.json'; use .arrow, .csv, .dat, .feather, .ipc, "
         ".parquet, .pq, .tsv, .txt"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_its_name_says_is_told(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert _refused(tmp_path, _log(path)) == f"{path}: {message.format(path=path)}"


@pytest.mark.parametrize("keep", ["half", "damaged"])
def test_a_parquet_file_that_was_cut_or_damaged_is_told(tmp_path: Path, keep: str) -> None:
    path = tmp_path / "log.parquet"
    rows = _rows() * 2000
    columns = dict(zip(HEADER.split(","), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), path)
    content = path.read_bytes()
    if keep == "half":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:4] + b"\xff" * 4000 + content[4004:])
    assert _refused(tmp_path, _log(path)).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"target_event": "buy", "event_type": "page"},
         "give either label (a column) or target_event (an event type), not both"),
        ({"label": None, "target_event": "buy"},
         "target_event needs event_type, the column that holds it"),
        ({"time": None}, "gap needs time, the column it is computed from"),
        ({"time": None, "gap": False, "split": None},
         "a split by time needs time; or give split, a column"),
        ({"val_fraction": 0.5, "test_fraction": 0.5},
         "val_fraction and test_fraction leave nothing to train on"),
        ({"categorical": [], "numeric": {}, "gap": False},
         "there is no feature: give item, categorical, numeric, hour_of_week or gap"),
        ({"categorical": ["page", "price"]}, "categorical and numeric both name price"),
        ({"categorical": ["page", "page"]}, "item and categorical name page more than once"),
        ({"categorical": ["gap"]}, "gap adds a feature of that name, which a column has already"),
        ({"categorical": ["id", "Label"]},
         "a feature can't be called Label, id: the store's own column"),
        ({"user": "page"}, "give either sequence or user, the column that says whose an event is"),
        ({"session_gap": 30, "label": None, "split": None},
         "session_gap cuts the events of a user; it needs user, not sequence"),
        ({"keep_types": ["view"]}, "keep_types needs event_type, the column that holds it"),
        ({"min_support": 2}, "min_support needs item, the column whose values are counted"),
        ({"test_days": 1}, "test_days split by time, not by a column or by user"),
        ({"split": None, "val_days": 1}, "val_days are those before test_days; give both"),
        ({"min_length": 5, "max_length": 4}, "max_length=4 is below min_length=5"),
    ],
)  # fmt: skip
def test_a_description_that_contradicts_itself_is_told(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "log.csv"
    path.write_text(HEADER + "\n")
    log = _log(path, **changes)
    assert log.columns().problems() == [problem]
    assert _refused(tmp_path, log) == f"data.source: {problem}"


def test_all_contradictions_are_told_at_once() -> None:
    assert len(LogColumns(sequence="s", order="o", gap=True).problems()) == 2

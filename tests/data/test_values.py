"""A value is one value in whatever type and format it comes; what is none is missing everywhere."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unrolled.data.check_store import meta_checksum, read_meta
from unrolled.data.events import EventData
from unrolled.data.log import EventLog
from unrolled.data.missing import NULL_TEXTS
from unrolled.data.new_events import encode
from unrolled.data.prepare import prepare, require_same_ids
from unrolled.data.sequences import session_columns
from unrolled.data.words import canonical
from unrolled.errors import UserError

FORMATS = ("parquet", "csv", "arrow")
DAY = datetime.date(2026, 1, 2)
TEXT = (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary())
NUMBERS = (pa.float64(), pa.float32(), pa.decimal128(30, 13), *TEXT)
INTEGERS = (
    pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
    pa.uint64(), *NUMBERS,
)  # fmt: skip
STAMPS = tuple(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns")
               for zone in (None, "UTC", "Europe/Berlin"))  # fmt: skip
FAMILIES: dict[str, tuple[tuple[pa.DataType, ...], list[Any]]] = {
    "whole numbers": (INTEGERS, [0, 1, 7, 30, 120]),
    "long whole numbers": ((pa.int64(), pa.uint64(), pa.decimal128(21, 2), *TEXT),
                           [2**53 + 1, 2**53 + 2, 2**60, 5]),
    "fractions": (NUMBERS, [0.5, -2.25, 3.125, 0.015625, 12.0]),
    "truth": ((pa.bool_(), *TEXT), [True, False]),
    "truth as numbers": ((pa.bool_(), pa.int8(), pa.float64()), [1, 0]),
    "days": ((pa.date32(), pa.date64(), *STAMPS, *TEXT),
             [DAY + datetime.timedelta(n) for n in range(4)]),
    "seconds": ((*STAMPS, *TEXT),
                [datetime.datetime(2026, 1, 2, 3, 4, second) for second in (0, 5, 59)]),
    "texts": (TEXT, ["007", "7.0", "1.10", "1.1", "Füße 💶", "null", " x ", "a,b", "2026-13-45"]),
}  # fmt: skip
"""Values, and the types that can hold them."""


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind in TEXT:
        spelled = pa.array([str(value) for value in values])
        return spelled.dictionary_encode() if pa.types.is_dictionary(kind) else spelled.cast(kind)
    if pa.types.is_decimal(kind):
        return pa.array([decimal.Decimal(str(value)) for value in values], kind)
    if pa.types.is_timestamp(kind):
        return pa.array([np.datetime64(value, "s") for value in values], pa.timestamp("s")).cast(
            kind
        )
    if pa.types.is_boolean(kind):
        return pa.array([bool(value) for value in values])
    return pa.array(values, kind)


def _write(folder: Path, name: str, table: pa.Table, kind: str) -> Path:
    """A file; a CSV as pandas writes it: True, 3.0, 2026-01-02 00:00:00."""
    path = folder / f"{name}.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "arrow":
        pyarrow.feather.write_feather(table, path)
    else:
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(table.column_names)
            for row in table.to_pylist():
                values = [v.decode() if isinstance(v, bytes) else v for v in row.values()]
                writer.writerow(["" if v is None or v != v else v for v in values])
    return path


def _log(path: Path, **description: Any) -> EventLog:
    given = {"sequence": "s", "order": "n", "split_by": "user", "val_fraction": 0,
             "test_fraction": 0, **description}  # fmt: skip
    return EventLog(path=path, **given)


def _encoded(store: Path, log: EventLog) -> dict[str, list[Any]]:
    table = encode(store, log.columns(), log.tables(), labelled=False)
    found: dict[str, list[Any]] = table.to_pydict()
    return found


@settings(max_examples=12, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(family=st.sampled_from(sorted(FAMILIES)), formats=st.tuples(*[st.sampled_from(FORMATS)] * 2),
       shift=st.integers(0, 20), data=st.data())  # fmt: skip
def test_equal_values_get_equal_ids_in_any_type_and_format(
    tmp_path_factory: pytest.TempPathFactory,
    family: str,
    formats: tuple[str, str],
    shift: int,
    data: st.DataObject,
) -> None:
    types, known = FAMILIES[family]
    folder = tmp_path_factory.mktemp("values")
    # Each value stands in the training log at least once; a column for each type.
    values = [*known, *data.draw(st.lists(st.sampled_from(known), max_size=6))]
    rows = {"s": ["a"] * len(values), "n": list(range(len(values)))}
    names = [f"c{index}" for index in range(len(types))]

    def table(types: tuple[pa.DataType, ...]) -> pa.Table:
        columns = {n: _column(values, t) for n, t in zip(names, types, strict=True)}
        return pa.table({**rows, **columns})

    log = _log(_write(folder, "log", table(types), formats[0]), categorical=names)
    store = prepare(log, folder / "stores")
    trained = _encoded(store, log)
    turned = types[shift % len(types) :] + types[: shift % len(types)]
    new = _log(_write(folder, "new", table(turned), formats[1]), categorical=names)
    found = _encoded(store, new)
    for name, kind, other in zip(names, types, turned, strict=True):
        both_text = all(
            t in TEXT or f == "csv" for t, f in zip((kind, other), formats, strict=True)
        )
        if both_text and family in ("fractions", "truth as numbers"):
            continue  # In texts 0.50 is not 0.5, and 1 not True.
        (expected,), (ids,) = trained[name], found[name]
        assert len(set(expected)) == len(set(map(str, values))), f"{kind} merges values"
        assert 1 not in expected
        assert ids == expected, f"{kind} in {formats[0]}, {other} in {formats[1]}"


def test_a_zero_that_arrow_writes_with_an_exponent_is_zero() -> None:
    zeros = pa.array(["0E-13", "0", "0.00", "00E-1", "E-1"])
    assert canonical(zeros.cast(pa.large_string()), "text").to_pylist() == [
        "0", "0", "0", "00E-1", "E-1"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_a_column_of_the_type_null_is_missing_in_new_events_and_refused_in_training(
    tmp_path: Path, kind: str
) -> None:
    full = pa.table({"s": ["a"] * 3, "n": [1, 2, 3], "c": ["x", "y", "x"]})
    empty = full.set_column(2, "c", pa.nulls(3))
    log = _log(_write(tmp_path, "log", full, kind), categorical=["c"])
    new = _log(_write(tmp_path, "new", empty, kind), categorical=["c"])
    store = prepare(log, tmp_path / "stores")
    assert _encoded(store, new)["c"] == [[1, 1, 1]]
    with pytest.raises(UserError, match="column 'c' has no value in any row"):
        prepare(new, tmp_path / "stores")


@pytest.mark.parametrize("kind", FORMATS)
def test_an_id_that_is_missing_in_any_way_is_left_out_and_counted(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ids = ["a", "a", "", None, *NULL_TEXTS, "b", "nanny"]
    rows = {"n": range(len(ids)), "i": ["x"] * len(ids)}
    log = _log(_write(tmp_path, "log", pa.table({"s": ids, **rows}), kind), item="i")
    meta = read_meta(prepare(log, tmp_path / "stores"))
    assert meta["read"]["sequences"] == 3
    assert meta["read"]["dropped"]["events without s"] == 18
    assert "  left out: 18 events without s\n" in capfd.readouterr().err


@pytest.mark.parametrize("numbers", [[1.0, math.nan, 3.0, 3.0], [3.0, math.nan, 3.0, 3.0]])
@pytest.mark.parametrize("kind", FORMATS)
def test_nan_is_a_missing_value_in_every_column(
    tmp_path: Path, kind: str, numbers: list[float]
) -> None:
    # Parquet states the least and the largest value without NaN, and DuckDB goes by them.
    rows = pa.table({"s": [1.0, 1.0, 1.0, 1.0, math.nan], "n": range(5),
                     "x": [*numbers, 5.0], "c": [*numbers, 5.0]})  # fmt: skip
    path = _write(tmp_path, "log", rows, kind)
    log = _log(path, categorical=["c"], numeric={"x": "standard"})
    store = prepare(log, tmp_path / "stores")
    meta = read_meta(store)
    assert meta["read"]["dropped"]["events without s"] == 1
    assert meta["missing"] == {"x": 1}
    found = _encoded(store, log)
    assert found["c"][0][1] == 1  # The unknown id.
    there = np.array(numbers)[[0, 2, 3]]
    assert meta["statistics"]["x"]["mean"] == there.mean()
    # The training mean is 0 on the model's scale.
    scaled = (there - there.mean()) / (there.std() or 1)
    assert found["x"][0] == pytest.approx([scaled[0], 0, scaled[1], scaled[2]], abs=1e-6)


def test_an_empty_text_is_missing_and_a_word_for_none_stays_a_category(tmp_path: Path) -> None:
    rows = pa.table({"s": ["a"] * 3, "n": [1, 2, 3], "c": ["", "None", "x"], "x": ["1", "", "NA"]})
    for kind in ("parquet", "csv"):
        log = _log(_write(tmp_path, "log", rows, kind), categorical=["c"], numeric={"x": "log"})
        store = prepare(log, tmp_path / "stores")
        assert pq.read_table(store / "vocab" / "c.parquet")["value"].to_pylist() == ["None", "x"]
        assert _encoded(store, log)["c"] == [[1, 2, 3]]
        assert read_meta(store)["missing"] == {"x": 2}


@pytest.mark.parametrize(
    ("role", "kind", "size"),
    [
        *[(role, pa.float64(), "2^53 or more")
          for role in ("sequence", "item", "categorical", "time", "order", "event_type")],
        ("item", pa.float32(), "2^24 or more of 32 bits"),
    ],
)  # fmt: skip
def test_a_number_that_has_lost_digits_is_refused_where_equality_counts(
    tmp_path: Path, role: str, kind: pa.DataType, size: str
) -> None:
    large = 2.0**24 if kind == pa.float32() else 2.0**53
    rows = pa.table({"s": ["a"] * 3, "n": [1, 2, 3], "i": ["x"] * 3,
                     "bad": pa.array([1, large, large + 2], kind)})  # fmt: skip
    path = _write(tmp_path, "log", rows, "parquet")
    used = {"item": "i", role: ["bad"] if role == "categorical" else "bad"}
    if role == "time":
        used["order"] = None
    if role == "event_type":
        used["target_event"] = 1
    with pytest.raises(UserError) as error:
        prepare(_log(path, **used), tmp_path / "stores")
    assert str(error.value) == (
        f"{path}: column 'bad' is a floating-point number of {size} in 2 rows, for example "
        f"'{large}' in row 2; different values become equal there: write it as an integer or as "
        "text"
    )


def test_a_large_number_is_no_fault_of_a_numeric_feature(tmp_path: Path) -> None:
    rows = pa.table({"s": ["a"] * 3, "n": [1, 2, 3], "x": pa.array([1, 2.0**30, 3], pa.float32())})
    store = prepare(_log(_write(tmp_path, "log", rows, "parquet"), numeric={"x": "log"}),
                    tmp_path / "stores")  # fmt: skip
    assert read_meta(store)["statistics"]["x"]["mean"] == pytest.approx(
        np.log1p([1, 2.0**30, 3]).mean()
    )


IDS: dict[str, Callable[[list[int]], pa.Array]] = {
    "integer": lambda ids: pa.array(ids, pa.int64()),
    "float": lambda ids: pa.array(ids, pa.float64()),
    "decimal": lambda ids: pa.array(ids, pa.int64()).cast(pa.decimal128(21, 2)),
    "text": lambda ids: pa.array([str(id) for id in ids]),
    "pandas' text": lambda ids: pa.array([f"{id}.0" for id in ids]),
}


# Every kind once in the log and once in the labels.
@pytest.mark.parametrize(
    ("in_log", "in_labels"), [(kind, [*IDS][index - 2]) for index, kind in enumerate(IDS)]
)
def test_a_label_is_joined_by_the_value_of_the_id(
    tmp_path: Path, in_log: str, in_labels: str
) -> None:
    rows = pa.table({"s": IDS[in_log]([1000, 1000, 20]), "n": [1, 2, 3], "i": list("xyz")})
    log = _log(_write(tmp_path, "log", rows, "parquet"), item="i")
    labels = pa.table({"s": IDS[in_labels]([20, 1000]), "buys": [0, 1]})
    asked = _log(log.path or tmp_path, item="i", label="buys",
                 labels=_write(tmp_path, "labels", labels, "parquet"))  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    table = encode(store, asked.columns(), asked.tables(), labelled=True)
    assert table["label"].to_pylist() == [1, 0]


def test_ids_of_a_label_table_that_have_lost_digits_are_refused(tmp_path: Path) -> None:
    rows = pa.table({"s": [16777217, 16777218], "n": [1, 2], "i": ["x", "y"]})
    labels = pa.table({"s": pa.array([16777216.0, 16777218.0], pa.float32()), "buys": [0, 1]})
    path = _write(tmp_path, "labels", labels, "parquet")
    log = _log(_write(tmp_path, "log", rows, "parquet"), item="i", label="buys", labels=path)
    with pytest.raises(UserError) as error:
        prepare(log, tmp_path / "stores")
    assert str(error.value) == (
        f"{path}: column 's' is a floating-point number of 2^24 or more of 32 bits in 2 rows, for "
        "example 16777216.0; different values become equal there: write it as an integer or as "
        "text"
    )


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (
            pa.array([[1], [2]]),
            "BIGINT[], a list, which is no value of an event; make a row of each of its values, "
            'for example with "data.source.query=\'SELECT * REPLACE (unnest(\\"bad\\") AS '
            '\\"bad\\") FROM log\'"',
        ),
        (
            pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)),
            "INTEGER[], a list, which is no value of an event; make a row of each",
        ),
        (
            pa.array([{"my field": 1}, {"my field": 2}]),
            'STRUCT("my field" BIGINT), a struct, which is no value of an event; take one of its '
            'fields, for example with "data.source.query=\'SELECT * REPLACE (\\"bad\\".\\"my '
            'field\\" AS ',
        ),
        (
            pa.array([[("k", 1)], [("k", 2)]], pa.map_(pa.string(), pa.int64())),
            "MAP(VARCHAR, BIGINT), a map, which is no value of an event; take the value of one of",
        ),
    ],
)
def test_a_column_of_lists_or_the_like_is_refused_by_name_in_every_role(
    tmp_path: Path, column: pa.Array, said: str
) -> None:
    rows = pa.table({"s": ["a", "b"], "n": [1, 2], "i": ["x", "y"], "bad": column})
    path = _write(tmp_path, "log", rows, "parquet")
    roles: list[dict[str, Any]] = [
        {"sequence": "bad"}, {"item": "bad"}, {"categorical": ["bad"]}, {"order": "bad"},
        {"numeric": {"bad": "log"}}, {"label": "bad"}, {"split": "bad"},
        {"event_type": "bad", "keep_types": ["1"]},
    ]  # fmt: skip
    for role in roles:
        with pytest.raises(UserError) as error:
            prepare(_log(path, **{"item": "i", **role}), tmp_path / "stores")
        assert f"{path}: column 'bad' is of the type {said}" in str(error.value), role


def _trained(folder: Path, column: pa.Array) -> Path:
    rows = pa.table({"s": [f"s{i // 2}" for i in range(len(column))], "n": range(len(column)),
                     "c": column})  # fmt: skip
    log = _log(_write(folder, "log", rows, "parquet"), categorical=["c"])
    return prepare(log, folder / "stores")


def _new(folder: Path, column: pa.Array) -> EventLog:
    rows = pa.table({"s": ["n"] * len(column), "n": range(len(column)), "c": column})
    return _log(_write(folder, "new", rows, "parquet"), categorical=["c"])


def test_values_that_training_has_not_are_told_with_count_share_and_examples(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = _trained(tmp_path, pa.array(["blue", "red", "red", "green"]))
    capfd.readouterr()
    log = _new(tmp_path, pa.array(["BLUE", "RED", "RED", "red", None]))
    assert _encoded(store, log)["c"] == [[1, 1, 1, 2, 1]]
    assert capfd.readouterr().err == (
        f"{tmp_path}/new.parquet: 3 of 4 values of 'c' (75.0%) are unknown, training has none like "
        "'RED', 'BLUE'; its most frequent values are 'red', 'blue', 'green'. Predictions can't use "
        "this column: is it another one, or written in another way?\n"
    )
    _encoded(store, _new(tmp_path, pa.array(["red", "red", "RED"])))
    assert capfd.readouterr().err == (
        f"{tmp_path}/new.parquet: 1 of 3 values of 'c' (33.3%) are unknown, training has none like "
        "'RED'\n"
    )
    _encoded(store, _new(tmp_path, pa.array(["red", "blue"])))
    assert capfd.readouterr().err == ""
    _encoded(store, _new(tmp_path, pa.array(["red", None, None])))
    assert capfd.readouterr().err == (
        f"{tmp_path}/new.parquet: 2 of 3 events (66.7%) have no value of 'c', and 0.0% in "
        "training: predictions can't use this column\n"
    )


def test_new_events_without_an_id_or_a_number_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = pa.table({"s": ["a"] * 4, "n": range(4), "x": [1.0, 2, math.nan, 3]})
    log = _log(_write(tmp_path, "log", rows, "parquet"), numeric={"x": "standard"})
    store = prepare(log, tmp_path / "stores")
    rows = pa.table({"s": ["a", "", "a", "nan"], "n": range(4), "x": [1.0, 2, math.nan, 3]})
    path = _write(tmp_path, "new", rows, "csv")
    capfd.readouterr()
    assert _encoded(store, _log(path, numeric={"x": "standard"}))["id"] == ["a"]
    assert capfd.readouterr().err == (
        f"{path}: 2 of 4 events are left out: they have no value in column 's'\n"
    )
    rows = pa.table({"s": ["a"] * 4, "n": range(4), "x": ["NA", "", "1", "nan"]})
    _encoded(store, _log(_write(tmp_path, "new", rows, "csv"), numeric={"x": "standard"}))
    assert capfd.readouterr().err == (
        f"{path}: 3 of 4 events (75.0%) have no value of 'x', and 25.0% in training: predictions "
        "can't use this column\n"
    )


def test_a_column_of_a_type_that_can_not_be_equal_is_refused(tmp_path: Path) -> None:
    store = _trained(tmp_path, pa.array([20230115, 20230116]))
    with pytest.raises(UserError) as error:
        _encoded(store, _new(tmp_path, pa.array([DAY])))
    assert str(error.value) == (
        f"{tmp_path}/new.parquet: column 'c' is of the type date, for example 2026-01-02, and "
        "integer in training, for example 20230115"
    )


def test_leading_zeros_make_a_text_and_never_a_number(tmp_path: Path) -> None:
    store = _trained(tmp_path, pa.array(["007", "7.0"]))
    assert _encoded(store, _new(tmp_path, pa.array([7])))["c"] == [[3]]  # 7.0, not 007.
    store = _trained(tmp_path, pa.array([7, 8]))
    assert _encoded(store, _new(tmp_path, pa.array(["007", "8.00"])))["c"] == [[1, 3]]


def test_a_store_that_does_not_say_its_types_encodes_by_value_too(tmp_path: Path) -> None:
    store = _trained(tmp_path, pa.array([3, 4, 3]))
    meta = json.loads((store / "store.json").read_text())
    del meta["types"], meta["missing"]
    meta["checksum"] = meta_checksum(meta)
    (store / "store.json").write_text(json.dumps(meta))
    for column in (pa.array([4.0, 3.0]), pa.array(["4.0", "3"])):
        assert _encoded(store, _new(tmp_path, column))["c"] == [[3, 2]]


def test_a_run_goes_on_only_with_a_store_of_its_own_ids(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = _trained(tmp_path / "a", pa.array(["x", "y", "y"]))
    same = _trained(tmp_path / "b", pa.array(["y", "x", "y"]))
    require_same_ids(first, first)
    require_same_ids(first, same)
    other = _trained(tmp_path / "a", pa.array(["x", "z", "z"]))
    with pytest.raises(UserError, match="has read this log in another way"):
        require_same_ids(first, other)


@pytest.mark.parametrize(("held", "wanted"), [*zip(IDS, ["2", 2, 2.0, 2, 2.0], strict=True)])
def test_an_event_type_is_compared_by_value(tmp_path: Path, held: str, wanted: Any) -> None:
    # Sequence a buys (2) at its third event, b never; 3 and 22 are other types.
    kinds = [1, 1, 2, 1, 3, 22, 1, 1]
    rows = pa.table({"s": list("aaaabbbb"), "n": range(8), "i": list("xyzxyzxy"),
                     "kind": IDS[held](kinds)})  # fmt: skip
    path = _write(tmp_path, "log", rows, "parquet")
    described = {"item": "i", "event_type": "kind", "target_event": wanted, "keep_types": [1]}
    log = _log(path, **described)
    problems = log.problems()
    assert not problems
    # One sequence of each class: both in one split can't be, so only the encoding is asked.
    store = prepare(_log(path, item="i"), tmp_path / "stores")
    table = encode(store, log.columns(), log.tables(), labelled=True)
    assert table["label"].to_pylist() == [1, 0]
    assert [len(ids) for ids in table["i"].to_pylist()] == [2, 2]


@pytest.mark.parametrize(
    "labels",
    [pa.array([True, False]), pa.array(["Yes", "no"]), pa.array(["T", "f"]),
     pa.array(["1.00", "0"]), pa.array([1.0, 0.0]),
     pa.array([1, 0]).cast(pa.decimal128(21, 2))],
)  # fmt: skip
def test_a_label_may_be_any_usual_word_for_yes_and_no(tmp_path: Path, labels: pa.Array) -> None:
    rows = pa.table({"s": ["a", "b"], "n": [1, 2], "i": ["x", "y"], "buys": labels})
    path = _write(tmp_path, "log", rows, "parquet")
    store = prepare(_log(path, item="i"), tmp_path / "stores")
    log = _log(path, item="i", label="buys")
    table = encode(store, log.columns(), log.tables(), labelled=True)
    assert table["label"].to_pylist() == [1, 0]


@pytest.mark.parametrize(
    ("users", "kind", "named"),
    [
        (pa.array([278015, 278015, 7], pa.int32()), "integer", [278015, 278015, 7]),
        (pa.array(["a/b", "a/b", "07"]), "text", ["a/b", "a/b", "07"]),
        (pa.array([2**64 - 1, 2**64 - 1, 7], pa.uint64()), "integer",
         [str(2**64 - 1), str(2**64 - 1), "7"]),
    ],
)  # fmt: skip
def test_user_and_session_are_columns_of_their_own(
    tmp_path: Path, users: pa.Array, kind: str, named: list[Any]
) -> None:
    rows = pa.table({"visitor": users, "t": [0, 10_000, 0], "i": list("xyz")})
    path = _write(tmp_path, "log", rows, "parquet")
    log = EventLog(path=path, user="visitor", session_gap=30, time="t", item="i", split_by="user",
                   val_fraction=0, test_fraction=0)  # fmt: skip
    data = EventData(log, tmp_path / "stores", target="next_item")
    read, _ = data.read(path)
    assert read_meta(data.store)["types"]["visitor"] == kind
    assert read.to_pydict() == {"visitor": named, "session": [1, 2, 1]}
    ids = pa.array([f"{user}/{number}" for user, number in zip(named, [1, 2, 1], strict=True)])
    assert session_columns(ids, "visitor", "text")["session"].to_pylist() == [1, 2, 1]
    assert session_columns(ids, "session", "text").column_names == ["session", "session_number"]

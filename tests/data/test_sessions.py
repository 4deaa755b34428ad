"""Sessions of a user, filters in their order, times and splits: every value by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data import sequences, spool, write_store
from unrolled.data.log import EventLog
from unrolled.data.new_events import encode
from unrolled.data.prepare import prepare
from unrolled.data.store import read_meta
from unrolled.errors import UserError

START = 1_700_000_000  # Tuesday 2023-11-14, 22:13:20 UTC: hour 46 of the week.


def _log(folder: Path, rows: list[tuple[Any, ...]], names: str, **description: Any) -> EventLog:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.parquet"
    columns = zip(names.split(), zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns}), path)
    return EventLog(path=path, **{"time": "at", "item": "item", **description})


def _table(store: Path, split: str) -> pa.Table:
    with pa.memory_map(str(store / f"{split}-00000.arrow")) as file:
        return pa.ipc.open_file(file).read_all()


def _items(store: Path, split: str) -> dict[Any, list[str]]:
    vocabulary = pq.read_table(store / "vocab" / "item.parquet")
    names = dict(zip(vocabulary["id"].to_pylist(), vocabulary["value"].to_pylist(), strict=True))
    rows = _table(store, split).to_pylist()
    return {row["id"]: [names.get(i, "?") for i in row["item"]] for row in rows}


def _all_items(store: Path) -> dict[Any, list[str]]:
    return {k: v for split in ("train", "val", "test") for k, v in _items(store, split).items()}


EVERYTHING = {"val_fraction": 0.0, "test_fraction": 0.0}
"""All sequences are for training."""


def test_a_session_ends_when_the_gap_is_exceeded_and_not_before(tmp_path: Path) -> None:
    rows = [
        ("u", START + 1800, "b"),
        ("v", START + 1801, "x"),
        ("u", START, "a"),
        ("u", START + 3601, "c"),  # 1,801 seconds after b.
        ("v", START, "y"),
        (None, START, "z"),
    ]
    log = _log(tmp_path, rows, "user at item", user="user", session_gap=30, **EVERYTHING)
    store = prepare(log, tmp_path / "stores")
    # In the order of the first event, then of its row.
    assert _items(store, "train") == {"u/1": ["a", "b"], "v/1": ["y"], "v/2": ["x"], "u/2": ["c"]}
    assert list(_items(store, "train")) == ["u/1", "v/1", "v/2", "u/2"]
    read = read_meta(store)["read"]
    assert (read["events"], read["sequences"]) == (6, 4)
    assert read["dropped"]["events without user"] == 1
    assert len(_table(store, "val")) == len(_table(store, "test")) == 0


def test_without_a_gap_the_whole_history_is_the_sequence(tmp_path: Path) -> None:
    rows = [(7, START + 10**6 * k, str(k)) for k in (2, 0, 1)]
    log = _log(tmp_path, rows, "user at item", user="user", **EVERYTHING)
    assert _items(prepare(log, tmp_path / "stores"), "train") == {7: ["0", "1", "2"]}


def test_the_filters_are_applied_in_their_order(tmp_path: Path) -> None:
    sequences = {
        "one": "a",  # Too short: its `a` does not support a.
        "rare": "ab",  # b has support 1; a is left, too short then.
        "first": "ccdd",
        "second": "cdcd",
        "third": "dca",
        "last": "cdee",  # e has support 2, but not in training.
    }
    rows = [
        (name, START + 100 * i + k, item)
        for i, (name, items) in enumerate(sequences.items())
        for k, item in enumerate(items)
    ]
    log = _log(
        tmp_path, rows, "visit at item", sequence="visit", min_length=2, min_support=2,
        training_items_only=True, val_fraction=0.0, test_fraction=0.3,
    )  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    # a keeps support 2, of `rare` and `third`, when rare items are left out.
    assert _items(store, "train") == {
        "first": list("ccdd"), "second": list("cdcd"), "third": list("dca"),
    }  # fmt: skip
    assert _items(store, "test") == {"last": ["c", "d"]}
    assert read_meta(store)["read"]["dropped"] == {
        "events without visit": 0,
        "sequences with fewer than min_length=2 events": 2,
        "events of items with fewer than min_support=2 events": 1,
        "events of items that training has not": 2,
    }
    assert read_meta(store)["unknown"]["item"]["events"] == 0


def test_an_item_of_the_test_alone_is_unknown_and_reported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"s{i}", START + i, item) for i, item in enumerate("aaaabbbbxa")]
    rows += [("s9", START + 50, "y"), ("s9", START + 51, "y")]
    log = _log(tmp_path, rows, "visit at item", sequence="visit", val_fraction=0.1,
               test_fraction=0.1)  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    assert _items(store, "val") == {"s8": ["?"]}
    assert _items(store, "test") == {"s9": ["a", "?", "?"]}
    assert read_meta(store)["unknown"] == {"item": {"values": 2, "events": 3, "empty": 0}}
    assert "  unknown: 2 values of item that training has not, in 3 events of val and test\n" in (
        capfd.readouterr().err
    )


@pytest.mark.parametrize(("factor", "unit"), [(1, "s"), (1000, "ms"), (10**6, "us"), (10**9, "ns")])
def test_the_unit_of_a_time_is_seen_from_its_size(tmp_path: Path, factor: int, unit: str) -> None:
    rows = [("s", (START + k) * factor, "a") for k in range(3)]
    log = _log(tmp_path, rows, "visit at item", sequence="visit", gap=True, **EVERYTHING)
    store = prepare(log, tmp_path / "stores")
    assert read_meta(store)["time_unit"] == unit
    assert _table(store, "train")["event_time"].to_pylist() == [[START, START + 1, START + 2]]
    # New events are in the unit of the training log; small ones when the description says so.
    for first, time_unit in ((START + 9, "auto"), (0, unit)):
        times = [first * factor, (first + 5) * factor]
        new = pa.table({"visit": ["t", "t"], "at": times, "item": ["a", "a"]})
        columns = replace(log.columns(), time_unit=time_unit)  # type: ignore[arg-type]
        encoded = encode(store, columns, {"events": new}, labelled=False)
        assert encoded["event_time"].to_pylist() == [[first, first + 5]]


def test_a_given_unit_counts(tmp_path: Path) -> None:
    rows = [("s", 1500 * k, "a") for k in range(3)]
    log = _log(tmp_path, rows, "visit at item", sequence="visit", time_unit="ms", **EVERYTHING)
    store = prepare(log, tmp_path / "stores")
    assert _table(store, "train")["event_time"].to_pylist() == [[0, 1.5, 3]]


def test_the_hour_of_the_week_is_counted_from_monday_in_utc(tmp_path: Path) -> None:
    monday = 1_699_833_600  # 2023-11-13, 0:00 UTC.
    rows = [("s", monday + 3600 * h + m, "a") for h in (0, 1, 167, 168) for m in (0, 3599)]
    log = _log(tmp_path, rows, "visit at item", sequence="visit", hour_of_week=True, **EVERYTHING)
    store = prepare(log, tmp_path / "stores")
    table = pq.read_table(store / "vocab" / "hour_of_week.parquet")
    assert table.to_pydict() == {"value": ["0", "1", "167"], "id": [2, 3, 4], "count": [4, 2, 2]}
    assert _table(store, "train")["hour_of_week"].to_pylist() == [[2, 2, 3, 3, 4, 4, 2, 2]]


def test_hours_of_the_week_of_a_stop_watch_are_refused(tmp_path: Path) -> None:
    log = _log(tmp_path, [("s", 5, "a")], "visit at item", sequence="visit", hour_of_week=True,
               **EVERYTHING)  # fmt: skip
    with pytest.raises(UserError) as error:
        prepare(log, tmp_path / "stores")
    assert str(error.value) == (
        f"{tmp_path}/log.parquet: hour_of_week needs a time of day; column 'at' begins at "
        "5 seconds, which is no time since 1970"
    )


def test_quantiles_are_ranks_among_the_training_values(tmp_path: Path) -> None:
    # 0 to 100 in training, beyond them in the test; a missing value is in the middle.
    rows = [(f"s{i:03}", START + i, "a", float(i)) for i in range(101)]
    rows += [(f"s{i:03}", START + i, "a", v) for i, v in ((101, -5.0), (102, 1e9), (103, None))]
    log = _log(tmp_path, rows, "visit at item price", sequence="visit", val_fraction=0.0,
               test_fraction=3 / 104, numeric={"price": "quantile"})  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    train = [row[0] for row in _table(store, "train")["price"].to_pylist()]
    expected = [(i / 100 - 0.5) * math.sqrt(12) for i in range(101)]
    assert train == pytest.approx(expected, abs=1e-6)
    test = [row[0] for row in _table(store, "test")["price"].to_pylist()]
    assert test == pytest.approx([-math.sqrt(3), math.sqrt(3), 0])


def test_a_value_of_many_events_has_the_middle_of_its_ranks(tmp_path: Path) -> None:
    rows = [(i, START + i, "a", float(max(0, i - 60))) for i in range(100)]
    log = _log(tmp_path, rows, "visit at item price", sequence="visit",
               numeric={"price": "quantile"}, **EVERYTHING)  # fmt: skip
    values = _table(prepare(log, tmp_path / "stores"), "train")["price"].to_pylist()
    assert values[0][0] == values[60][0] == pytest.approx((0.303 - 0.5) * math.sqrt(12), abs=0.01)


COPIES = [
    ("s", START, "a", 1.0), ("s", START, "b", 1.0), ("s", START, "a", 1.0),
    ("s", START, "a", 2.0), ("s", START, "a", None), ("s", START, "a", None),
    ("s", START + 1, "a", 1.0), ("t", START + 1, "a", 1.0),
]  # fmt: skip


def test_events_without_a_value_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [("s", START + k, "a" if k % 3 else None) for k in range(7)]
    log = _log(tmp_path, rows, "visit at item", sequence="visit", **EVERYTHING)
    prepare(log, tmp_path / "stores")
    assert "  empty: 3 events without a value of item\n" in capfd.readouterr().err


@pytest.mark.parametrize("keep_types", [(), ("view", "cart")])
def test_events_of_different_types_are_no_copies_where_the_type_is_no_feature(
    tmp_path: Path, keep_types: tuple[str, ...]
) -> None:
    kinds = ("view", "cart", "view")
    rows = [(s, START + k, "a", kind) for s in "st" for k in range(2) for kind in kinds]
    log = _log(tmp_path, rows, "visit at item kind", sequence="visit", event_type="kind",
               keep_types=keep_types, duplicates="drop", **EVERYTHING)  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    assert read_meta(store)["read"]["copies"] == 4
    assert _items(store, "train") == {"s": list("aaaa"), "t": list("aaaa")}


@pytest.mark.parametrize("duplicates", ["keep", "drop", "error"])
def test_exact_copies_are_kept_dropped_or_refused(
    tmp_path: Path, duplicates: str, capfd: pytest.CaptureFixture[str]
) -> None:
    log = _log(tmp_path, COPIES, "visit at item price", sequence="visit",
               numeric={"price": "standard"}, duplicates=duplicates, **EVERYTHING)  # fmt: skip
    if duplicates == "error":
        with pytest.raises(UserError) as error:
            prepare(log, tmp_path / "stores")
        assert str(error.value) == (
            f"{tmp_path}/log.parquet: 2 events or more are exact copies of another in all columns "
            "that are used, for example row 3, of sequence s; data.source.duplicates=drop drops "
            "them"
        )
        assert not (tmp_path / "stores").exists()
        return
    store = prepare(log, tmp_path / "stores")
    items = _items(store, "train")
    told = capfd.readouterr().err
    if duplicates == "keep":
        assert items == {"s": list("abaaaaa"), "t": ["a"]}
        assert "  kept: 2 exact copies of an event (data.source.duplicates=drop leaves" in told
    else:
        assert items == {"s": list("abaaa"), "t": ["a"]}
        assert "  left out: 2 exact copies of an event\n" in told
    assert read_meta(store)["read"]["copies"] == 2


def test_other_types_are_left_out_and_the_target_still_ends_a_session(tmp_path: Path) -> None:
    kinds = ["view", "scroll", "view", "buy", "view"]
    rows = [
        (f"s{i}", START + 10 * i + k, f"i{k}", kind)
        for i in range(4)
        for k, kind in enumerate(kinds)
        if i % 2 or kind != "buy"
    ]
    log = _log(tmp_path, rows, "visit at item kind", sequence="visit", event_type="kind",
               keep_types=["view"], target_event="buy", **EVERYTHING)  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    assert _items(store, "train") == {
        "s0": ["i0", "i2", "i4"], "s1": ["i0", "i2"], "s2": ["i0", "i2", "i4"], "s3": ["i0", "i2"],
    }  # fmt: skip
    assert _table(store, "train")["label"].to_pylist() == [0, 1, 0, 1]


def test_users_are_split_by_their_name_alone(tmp_path: Path) -> None:
    def splits(folder: Path, users: list[Any], **changes: Any) -> dict[str, str]:
        rows = [(user, START + 5000 * k, "a") for user in users for k in range(3)]
        log = _log(folder, rows, "user at item", user="user", split_by="user",
                   val_fraction=0.2, test_fraction=0.3, **changes)  # fmt: skip
        store = prepare(log, folder / "stores")
        return {
            f"{id}": split for split in ("train", "val", "test")
            for id in _table(store, split)["id"].to_pylist()
        }  # fmt: skip

    users = [f"user {i}" for i in range(600)]
    found = splits(tmp_path / "a", users)
    shares = {s: list(found.values()).count(s) / 600 for s in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.5, "val": 0.2, "test": 0.3}, abs=0.05)
    fewer = splits(tmp_path / "b", users[::-7])
    assert fewer == {user: found[user] for user in fewer}
    # All sessions of a user are in one split.
    sessions = splits(tmp_path / "c", users[:50], session_gap=30)
    assert sessions == {f"{user}/{k}": found[user] for user in users[:50] for k in (1, 2, 3)}


def test_the_last_days_are_counted_back_from_the_last_event(tmp_path: Path) -> None:
    day = 86_400
    rows = [(f"s{i}", START + i * day // 2, "a") for i in range(10)]
    # Begins in training's days and ends in the test's.
    rows += [("long", START, "a"), ("long", START + 4 * day, "a")]
    log = _log(tmp_path, rows, "visit at item", sequence="visit", test_days=1, val_days=1.5)
    store = prepare(log, tmp_path / "stores")
    # The log ends at day 4.5: the test from 3.5 on, validation from 2.0 on, both inclusive.
    assert list(_items(store, "test")) == ["long", "s7", "s8", "s9"]
    assert list(_items(store, "val")) == ["s4", "s5", "s6"]
    assert list(_items(store, "train")) == ["s0", "s1", "s2", "s3"]


@pytest.mark.parametrize(
    ("late", "filters"),
    [
        # A click a year later, of a session or of an item that a filter leaves out.
        ([("one", 400, "a")], {"min_length": 2}),
        ([("s9", 400, "rare")], {"min_support": 2}),
        ([("s8", 400, "rare"), ("one", 400, "a")], {"min_length": 2, "min_support": 2}),
    ],
)
def test_events_that_are_left_out_do_not_move_the_last_day(
    tmp_path: Path, late: list[tuple[str, int, str]], filters: dict[str, int]
) -> None:
    day = 86_400
    rows = [(f"s{i}", START + i * day // 2 + k, "ab"[k]) for i in range(10) for k in range(2)]
    days = {"test_days": 1, "val_days": 1}
    parts = []
    for name, more in (("without", []), ("with", late)):
        folder = tmp_path / name
        folder.mkdir()
        all_rows = rows + [(visit, START + at * day, item) for visit, at, item in more]
        log = _log(folder, all_rows, "visit at item", sequence="visit", **days, **filters)
        store = prepare(log, folder / "stores")
        parts.append({split: list(_items(store, split)) for split in ("train", "val", "test")})
    assert parts[0]["test"] == ["s7", "s8", "s9"]
    assert parts[1] == parts[0]


def test_a_session_with_a_target_ends_at_the_target_whatever_comes_after(tmp_path: Path) -> None:
    day = 86_400
    rows = [(f"s{i}", START + i * day // 2, "view") for i in range(10)]
    rows += [(f"s{i}", START + i * day // 2 + 60, "buy") for i in range(0, 10, 2)]
    # The answer is known within the test's day, though the last input is of training's days.
    rows += [("asked early", START, "view"), ("asked early", START + 4 * day, "buy")]
    # The other way round: what follows the answer is of no matter.
    rows += [
        ("back", START, "view"),
        ("back", START + 60, "buy"),
        ("back", START + 4 * day, "view"),
    ]
    log = _log(tmp_path, rows, "visit at kind", sequence="visit", item=None, event_type="kind",
               target_event="buy", categorical=["kind"], test_days=1, val_days=1)  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    assert set(_table(store, "test")["id"].to_pylist()) == {"asked early", "s7", "s8", "s9"}
    assert set(_table(store, "train")["id"].to_pylist()) == {"back", "s0", "s1", "s2", "s3", "s4"}


def test_the_account_shows_wrong_times_the_longest_session_and_the_largest_id(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows: list[tuple[Any, ...]] = [(f"u{i}", START + 60 * i, "a") for i in range(10)]
    # Two sessions of a user to whom a fault of the log has given those of many.
    rows += [("all", START + 10_000 * k + i, "a") for k in range(2) for i in range(20 + k)]
    rows += [("u1", 9_999_999_999, "a")]
    log = _log(tmp_path, rows, "user at item", user="user", session_gap=30, **EVERYTHING)
    prepare(log, tmp_path / "stores")
    told = capfd.readouterr().err
    assert "  times: 2023-11-14 22:13:20 to 2286-11-20 17:46:39 UTC\n" in told
    assert (
        "  longest: session 'all/2', 21 events; most events: user 'all', 41, 78.85% of all\n"
        in told
    )


@pytest.mark.parametrize(
    ("description", "told"),
    [
        # 30 stopped early, 70 go on to the end.
        ({"test_days": 5}, "the split 'test' has 70 sequences, training only 27"),
        (
            {"test_days": 5},
            "70 of 70 test sequences begin before the test's days do (2023-11-27 22:29:50), and "
            "training has only those that ended earlier: of users, those who stopped coming. "
            "Better cut whole histories of users by data.source.session_gap, or ask about a date: "
            "one row a user with the date (data.source.asked_at) and a label of what happens after "
            "it (data.source.labels)",
        ),
        (
            {},
            "80 of 80 training sequences go on after 2023-11-14 22:26:40, when the first of "
            "validation or test begins: fractions go by the first event of each",
        ),
    ],
)
def test_odd_splits_of_whole_histories_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], description: dict[str, Any], told: str
) -> None:
    rows = [
        (f"u{i}", START + 10 * i + day * 86_400, "a")
        for i in range(100)
        for day in ((0, 1) if i % 10 < 3 else (0, 18))
    ]
    prepare(_log(tmp_path, rows, "user at item", user="user", **description), tmp_path / "stores")
    assert f"  warning: {told}" in capfd.readouterr().err


def test_a_split_of_sessions_is_not_odd(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [(f"s{i}", START + 3600 * i + k, "a") for i in range(100) for k in range(2)]
    for description in ({}, {"test_days": 1, "val_days": 1}):
        log = _log(tmp_path, rows, "visit at item", sequence="visit", **description)
        prepare(log, tmp_path / "stores")
    assert "warning" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("sort", "share"), [("numbers", "100.0%"), ("text", "100.0%"), ("none", ""), ("hash", "")]
)
def test_baskets_whose_items_are_sorted_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], sort: str, share: str
) -> None:
    mixed = '"user", "at", hash("user", "at", "item")'
    random = np.random.default_rng(0)
    baskets = [random.choice(np.arange(5, 500), 4, replace=False).tolist() for _ in range(100)]
    if sort == "numbers":
        baskets = [sorted(basket) for basket in baskets]
    if sort == "text":
        baskets = [sorted(basket, key=str, reverse=True) for basket in baskets]
    # Ten customers with ten baskets each, all items of a basket at one time.
    rows = [(i % 10, START + i, item) for i, basket in enumerate(baskets) for item in basket]
    log = _log(tmp_path, rows, "user at item", user="user", **EVERYTHING)
    if sort == "hash":
        # What the message advises for sorted baskets.
        query = f"SELECT * FROM '{log.path}' ORDER BY {mixed}"
        log = replace(log, path=None, query=query)
    prepare(log, tmp_path / "stores")
    told = capfd.readouterr().err
    if not share:
        assert "sorted" not in told
        return
    assert (
        "  warning: 300 of 390 pairs of neighbouring events have the same 'at', and in "
        f"{share} of them 'item' is sorted: that is the order of the file, not of what happened, "
        "and task=next_item would learn it. Give data.source.order a column with the true order; "
        f"where there is none, mix them: data.source.query with ORDER BY {mixed}\n"
    ) in told


def test_ids_beyond_64_bits_and_unicode_are_exact(tmp_path: Path) -> None:
    big = 2**70
    path = tmp_path / "log.csv"
    lines = [f"{big + i},{START + i},Füße 💶" for i in range(3)]
    path.write_text("\n".join(["visit,at,item", *lines]))
    log = EventLog(path=path, sequence="visit", time="at", item="item", **EVERYTHING)
    store = prepare(log, tmp_path / "stores")
    assert _items(store, "train") == {str(big + i): ["Füße 💶"] for i in range(3)}


events = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 200), st.sampled_from("abcdef")),
    min_size=1, max_size=80,
)  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(rows=events, gap=st.integers(1, 40), least=st.integers(1, 3), support=st.integers(1, 3),
       last=st.integers(3, 6), piece=st.integers(1, 30))  # fmt: skip
def test_sessions_and_filters_are_those_of_the_usual_pandas_code(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, int, str]], gap: int, least: int, support: int, last: int, piece: int,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("log")
    log = _log(folder, rows, "user at item", user="user", session_gap=gap / 60, min_length=least,
               min_support=support, max_length=last, **EVERYTHING)  # fmt: skip
    frame = pd.DataFrame(rows, columns=["user", "at", "item"])
    frame = frame.sort_values(["user", "at"], kind="stable")
    new = (frame["user"].diff() != 0) | (frame["at"].diff() > gap)
    frame["session"] = new.groupby(frame["user"]).cumsum().astype(str)
    frame["session"] = frame["user"].astype(str) + "/" + frame["session"]
    for column, number in (("session", least), ("item", support), ("session", least)):
        frame = frame[frame.groupby(column)["item"].transform("size") >= number]
    expected = frame.groupby("session")["item"].agg(list).map(lambda items: items[-last:])
    with pytest.MonkeyPatch.context() as patch:
        # The passes over the events go in pieces; the result does not depend on their size.
        patch.setattr(sequences, "PIECE", piece)
        patch.setattr(spool, "PIECE", piece)
        patch.setattr(write_store, "_BYTES_IN_MEMORY", 12 * piece)
        try:
            found = _all_items(prepare(log, folder / "stores"))
        except UserError as error:
            if "no sequence is left" not in str(error):
                raise
            found = {}
    assert found == expected.to_dict()


def test_the_number_of_threads_does_not_change_a_byte(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count = 60_000
    rows = list(zip(rng.integers(0, 3000, count).tolist(), rng.integers(0, 10**5, count).tolist(),
                    rng.integers(0, 500, count).tolist(), rng.normal(size=count).tolist(),
                    strict=True))  # fmt: skip
    log = _log(tmp_path, rows, "user at item x", user="user", session_gap=1, gap=True,
               numeric={"x": "standard"})  # fmt: skip
    stores = [
        prepare(log, tmp_path / name, threads=threads, memory_limit=memory)
        for name, threads, memory in (("a", 1, "1GB"), ("b", 4, "1GB"), ("c", 2, "100MB"))
    ]
    assert (stores[0] / "store.json").read_bytes() == (stores[1] / "store.json").read_bytes()
    assert (stores[0] / "store.json").read_bytes() == (stores[2] / "store.json").read_bytes()

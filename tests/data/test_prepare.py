"""Preparation: every value of a small log by hand, and the laws that hold for any log."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data import make_store
from unrolled.data.log import EventLog, LogColumns
from unrolled.data.new_events import encode
from unrolled.data.prepare import prepare, store_path
from unrolled.data.store import read_meta
from unrolled.errors import UserError

# visit, second, page, price, buys, part; not in order, with a tie (a: seconds 30).
ROWS = [
    ("b", 100.0, "home", 1.0, 0, "train"),
    ("a", 30.0, "item", None, 1, "train"),
    ("a", 30.0, "cart", 3.0, 1, "train"),
    ("a", 0.0, "home", 7.0, 1, "train"),
    ("b", 103.0, "item", 5.0, 0, "train"),
    ("c", 200.0, "new", 9.0, 1, "val"),
    ("d", 210.0, None, 9.0, 0, "val"),
    ("e", 300.0, "cart", 1.0, 1, "test"),
    ("e", 301.0, "new", 1.0, 1, "test"),
    ("f", 310.0, "item", 3.0, 0, "test"),
]
NAMES = ("visit", "second", "page", "price", "buys", "part")


def _table(rows: list[tuple[Any, ...]] = ROWS) -> pa.Table:
    return pa.table(dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True)))


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


def _written(folder: Path, rows: list[tuple[Any, ...]] = ROWS, name: str = "log.csv") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    if name.endswith("parquet"):
        pq.write_table(_table(rows), path)
    else:
        pa.csv.write_csv(_table(rows), path)
    return path


def _split(store: Path, split: str) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(store / f"{split}-00000.arrow"))).read_all()


def _ids(store: Path, split: str) -> list[str]:
    ids: list[str] = _split(store, split)["id"].to_pylist()
    return ids


def _near(values: list[list[float]]) -> list[Any]:
    return [pytest.approx(row, abs=1e-6) for row in values]


class TableLog:
    """A log in memory."""

    def __init__(self, events: pa.Table, columns: LogColumns) -> None:
        self._events, self._columns = events, columns

    def columns(self) -> LogColumns:
        return self._columns

    def fingerprint(self) -> str:
        return str(hash((str(self._events.to_pydict()), str(self._columns))))

    def tables(self) -> dict[str, Path | pa.Table | None]:
        return {"events": self._events, "labels": None}


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_every_value_of_a_small_log_is_the_one_computed_by_hand(tmp_path: Path, name: str) -> None:
    store = prepare(_log(_written(tmp_path, name=name)), tmp_path / "stores")
    train, val, test = (_split(store, s) for s in ("train", "val", "test"))

    # Order of appearance in the file; a's tie at 30 s stays in the order of the file's rows.
    assert train["id"].to_pylist() == ["b", "a"]
    assert train["label"].to_pylist() == [0, 1]
    # train: home 2, item 2, cart 1; the value decides between equals; 'new' is in val and test only
    assert train["page"].to_pylist() == [[2, 3], [2, 3, 4]]
    assert val["page"].to_pylist() == [[1], [1]]
    assert test["page"].to_pylist() == [[4, 1], [3]]
    assert train["page"].combine_chunks().offsets.to_pylist() == [0, 2, 5]

    # train prices 1, 5, 7, 3: mean 4, deviation sqrt(5); the missing one sits at the mean.
    root = math.sqrt(5)
    assert train["price"].to_pylist() == _near([[-3 / root, 1 / root], [3 / root, 0, -1 / root]])
    assert val["price"].to_pylist() == _near([[5 / root], [5 / root]])
    assert test["price"].to_pylist() == _near([[-3 / root] * 2, [-1 / root]])

    logs = [[0, math.log(4)], [0, math.log(31), 0]]
    flat = [x for row in logs for x in row]
    mean = sum(flat) / 5
    std = math.sqrt(sum((x - mean) ** 2 for x in flat) / 5)
    assert train["gap"].to_pylist() == _near([[(x - mean) / std for x in row] for row in logs])
    assert test["gap"].to_pylist() == _near(
        [[-mean / std, (math.log(2) - mean) / std], [-mean / std]]
    )

    meta = read_meta(store)
    assert meta["counts"] == {
        "train": {"sequences": 2, "events": 5, "positive": 1},
        "val": {"sequences": 2, "events": 2, "positive": 1},
        "test": {"sequences": 2, "events": 3, "positive": 1},
    }
    assert meta["statistics"]["price"] == pytest.approx({"mean": 4, "std": root})
    assert meta["statistics"]["gap"] == pytest.approx({"mean": mean, "std": std})
    assert meta["schema"] == {
        "features": [
            {"kind": "categorical", "name": "page", "num_ids": 5},
            {"kind": "numeric", "name": "price", "size": 1},
            {"kind": "numeric", "name": "gap", "size": 1},
        ],
        "num_classes": 2,
        "per_step": False,
        "target_mean": 0.0,
        "target_std": 1.0,
        "target_feature": None,
    }
    assert pq.read_table(store / "vocab" / "page.parquet").to_pylist() == [
        {"value": "home", "id": 2, "count": 2},
        {"value": "item", "id": 3, "count": 2},
        {"value": "cart", "id": 4, "count": 1},
    ]


def _bytes(store: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(store)): f.read_bytes()
        for f in sorted(store.rglob("*"))
        if f.is_file() and f.name != "store.json"
    }


def test_csv_and_parquet_give_the_same_bytes(tmp_path: Path) -> None:
    stores = [
        prepare(_log(_written(tmp_path, name=n)), tmp_path / "stores")
        for n in ("a.csv", "a.parquet")
    ]
    assert stores[0] != stores[1]
    assert _bytes(stores[0]) == _bytes(stores[1])
    assert sorted(_bytes(stores[0])) == [
        "test-00000.arrow", "train-00000.arrow", "val-00000.arrow", "vocab/page.parquet",
    ]  # fmt: skip
    first, second = (read_meta(s) for s in stores)
    for name in ("fingerprint", "checksum"):
        assert first.pop(name) != second.pop(name)
    assert first == second


def test_two_preparations_are_the_same_to_the_byte(tmp_path: Path) -> None:
    path = _written(tmp_path)
    stores = [prepare(_log(path), tmp_path / name) for name in ("one", "two")]
    assert _bytes(stores[0]) == _bytes(stores[1])
    assert (stores[0] / "store.json").read_bytes() == (stores[1] / "store.json").read_bytes()


def test_a_store_is_found_again_and_not_made_anew(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = _written(tmp_path)
    store = prepare(_log(path), tmp_path / "stores")
    first, _, rest = capfd.readouterr().err.partition("\n")
    assert re.fullmatch(rf"Prepared {store} in \d+\.\d s: 10 events in 6 sequences read", first)
    assert rest == (
        "  times: 1970-01-01 00:00:00 to 1970-01-01 00:05:10 UTC\n"
        "  longest: visit 'a', 3 events, 30.00% of all\n"
        "  unknown: 1 values of page that training has not, in 2 events of val and test\n"
        "  empty: 1 events without a value of page\n"
        "  missing: 1 training events without a value of price, which count as the mean\n"
        "  train         2 sequences           5 events, 50.00% positive\n"
        "  val           2 sequences           2 events, 50.00% positive\n"
        "  test          2 sequences           3 events, 50.00% positive\n"
        "  warning: few sequences: train 2, val 2, test 2; a metric over so few is luck\n"
    )
    before = {f: f.stat().st_mtime_ns for f in store.rglob("*")}
    assert prepare(_log(path), tmp_path / "stores") == store
    assert {f: f.stat().st_mtime_ns for f in store.rglob("*")} == before
    assert capfd.readouterr().err == ""


def test_another_description_or_another_file_is_another_store(tmp_path: Path) -> None:
    path = _written(tmp_path)
    other = _written(tmp_path, [*ROWS, ("f", 311.0, "item", 3.0, 0, "test")], "other.csv")
    logs = [
        _log(path),
        _log(path, gap=False),
        _log(path, numeric={"price": "log"}),
        _log(path, max_length=2),
        _log(other),
        _log(path, labels=other),
    ]
    assert len({store_path(log, tmp_path) for log in logs}) == len(logs)
    assert store_path(_log(_written(tmp_path / "moved")), tmp_path) == store_path(logs[0], tmp_path)


def test_the_checksums_are_those_of_the_files(tmp_path: Path) -> None:
    import hashlib

    store = prepare(_log(_written(tmp_path)), tmp_path / "stores")
    assert read_meta(store)["checksums"] == {
        name: hashlib.sha256(content).hexdigest() for name, content in _bytes(store).items()
    }


def test_a_preparation_that_is_killed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, written = _written(tmp_path), []
    real = make_store.write_arrow

    def dies(table: pa.Table, target: Path) -> None:
        real(table, target)
        written.append(target)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(make_store, "write_arrow", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(_log(path), tmp_path / "stores")
    assert len(written) == 2
    assert sorted(f.name for f in tmp_path.iterdir()) == ["log.csv"]


def test_a_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(table: pa.Table, target: Path) -> None:
        raise OSError(28, "No space left on device")

    path = _written(tmp_path)
    monkeypatch.setattr(make_store, "write_arrow", full)
    with pytest.raises(UserError, match="can't write the event store: No space left on device"):
        prepare(_log(path), tmp_path / "stores")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["log.csv"]


def test_what_a_killed_process_left_stands_in_nobodys_way(tmp_path: Path) -> None:
    import os

    path = _written(tmp_path)
    wanted = store_path(_log(path), tmp_path / "stores")
    (wanted.parent / f".{wanted.name}.partial-{os.getpid()}").mkdir(parents=True)
    assert prepare(_log(path), tmp_path / "stores") == wanted
    assert read_meta(wanted)["counts"]["train"]["sequences"] == 2


def test_a_store_folder_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    path = _written(tmp_path)
    with pytest.raises(UserError, match=r"log\.csv: can't make the event store: "):
        prepare(_log(path), path)


def test_the_log_transform_takes_statistics_of_the_training_sequences(tmp_path: Path) -> None:
    store = prepare(
        _log(_written(tmp_path), numeric={"price": "log"}, gap=False), tmp_path / "stores"
    )
    logs = [math.log(1 + x) for x in (1, 5, 7, 3)]
    mean = sum(logs) / 4
    std = math.sqrt(sum((x - mean) ** 2 for x in logs) / 4)
    assert read_meta(store)["statistics"] == {"price": pytest.approx({"mean": mean, "std": std})}
    assert _split(store, "val")["price"].to_pylist() == _near([[(math.log(10) - mean) / std]] * 2)


def test_a_constant_column_is_zero(tmp_path: Path) -> None:
    rows = [(*row[:3], 2.0, *row[4:]) for row in ROWS]
    store = prepare(_log(_written(tmp_path, rows), gap=False), tmp_path / "stores")
    assert _split(store, "train")["price"].to_pylist() == [[0, 0], [0, 0, 0]]


def test_of_a_long_sequence_the_last_events_are_kept(tmp_path: Path) -> None:
    store = prepare(_log(_written(tmp_path), max_length=2), tmp_path / "stores")
    whole = prepare(_log(_written(tmp_path)), tmp_path / "stores")
    assert _ids(store, "train") == ["b", "a"]
    # home 1, item 2, cart 1 are left to train on.
    assert _split(store, "train")["page"].to_pylist() == [[4, 2], [2, 3]]
    # The first event kept still knows the time since the one that was cut off: 30 s, not 0.
    scaled, meta = _split(store, "train")["gap"].to_pylist(), read_meta(store)["statistics"]["gap"]
    assert scaled[1][0] * meta["std"] + meta["mean"] == pytest.approx(math.log(31))
    assert len(_split(whole, "train")["page"].to_pylist()[1]) == 3


def test_the_split_by_time_goes_by_the_first_event_also_of_a_shortened_sequence(
    tmp_path: Path,
) -> None:
    rows = [(f"s{i}", float(10 * i), "x", 1.0, i % 2, "") for i in range(10)]
    rows.append(("s0", 1000.0, "x", 1.0, 0, ""))  # Starts first, ends last.
    log = _log(_written(tmp_path, rows), split=None, max_length=1,
               val_fraction=0.2, test_fraction=0.2)  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    assert [_ids(store, s) for s in ("train", "val", "test")] == [
        ["s0", "s1", "s2", "s3", "s4", "s5"], ["s6", "s7"], ["s8", "s9"],
    ]  # fmt: skip


def test_sequences_that_are_too_short_are_dropped_and_accounted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [*ROWS, ("g", 1.0, "home", 1.0, 0, "train"), (None, 2.0, "home", 1.0, 0, "train"),
            ("c", 203.0, "home", 1.0, 1, "val"), ("d", 233.0, "home", 1.0, 0, "val"),
            ("f", 333.0, "home", 1.0, 0, "test")]  # fmt: skip
    store = prepare(_log(_written(tmp_path, rows), min_length=2), tmp_path / "stores")
    assert _ids(store, "train") == ["b", "a"]
    assert read_meta(store)["read"] == {
        "events": 15,
        "sequences": 7,
        "times": [0.0, 333.0],
        "longest": {"id": "a", "events": 3},
        "largest": {"id": "a", "events": 3},
        "with_id": 14,
        "copies": 0,
        "backward": 0,
        "dropped": {
            "events without visit": 1,
            "sequences with fewer than min_length=2 events": 1,
        },
    }
    assert (
        "  left out: 1 events without visit\n"
        "  left out: 1 sequences with fewer than min_length=2 events\n"
    ) in capfd.readouterr().err


def test_labels_and_splits_may_lie_in_a_table_of_their_own_which_then_counts(
    tmp_path: Path,
) -> None:
    path = _written(tmp_path)
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "visit,buys,part\na,0,val\nb,1,val\nc,1,train\nd,0,train\ne,0,test\nf,1,test\nz,1,test\n"
    )
    store = prepare(_log(path, labels=labels), tmp_path / "stores")
    assert {s: dict(zip(_ids(store, s), _split(store, s)["label"].to_pylist(), strict=True))
            for s in ("train", "val", "test")} == {
        "train": {"c": 1, "d": 0}, "val": {"b": 1, "a": 0}, "test": {"e": 0, "f": 1},
    }  # fmt: skip


def test_labels_are_joined_whatever_the_type_of_the_ids(tmp_path: Path) -> None:
    rows = [(str(ord(r[0])), *r[1:]) for r in ROWS]
    path = _written(tmp_path, rows, "log.csv")
    labels = tmp_path / "labels.parquet"
    pq.write_table(
        pa.table({"visit": [ord(c) for c in "abcdef"], "buys": [True, False] * 3}), labels
    )
    log = _log(path, labels=labels, split=None, val_fraction=0.3, test_fraction=0.3)
    store = prepare(log, tmp_path / "stores")
    assert [_ids(store, s) for s in ("train", "val", "test")] == [
        ["97", "98"], ["99", "100"], ["101", "102"],
    ]  # fmt: skip
    assert _split(store, "train")["label"].to_pylist() == [1, 0]


def test_zeros_at_the_front_of_a_csvs_categories_and_ids_stay(tmp_path: Path) -> None:
    rows = [("0" + str(ord(r[0])), r[1], "007" if r[2] else None, *r[3:]) for r in ROWS]
    store = prepare(_log(_written(tmp_path, rows)), tmp_path / "stores")
    assert pq.read_table(store / "vocab" / "page.parquet")["value"].to_pylist() == ["007"]
    assert _ids(store, "train") == ["098", "097"]


def test_columns_may_have_the_names_that_the_preparation_uses_itself(tmp_path: Path) -> None:
    clashing = ("position", "rank", "split", "length", "sequence_id", "event_type", "a/b \"c'd")
    table = _table()
    pages = table["page"]
    for name in clashing:
        table = table.append_column(name, pages)
    path = tmp_path / "log.parquet"
    pq.write_table(table, path)
    log = _log(path, categorical=["page", *clashing])
    store = prepare(log, tmp_path / "stores")
    rows = _split(store, "train")
    for name in clashing:
        assert rows[name].to_pylist() == rows["page"].to_pylist() == [[2, 3], [2, 3, 4]]
    again = encode(store, log, {"events": path, "labels": None}, labelled=True)
    assert again["a/b \"c'd"].to_pylist()[:2] == [[2, 3], [2, 3, 4]]


def test_the_target_is_read_from_its_own_column_beside_a_feature_called_event_type(
    tmp_path: Path,
) -> None:
    table = _table([(*r[:5], "x" if i % 2 else "y") for i, r in enumerate(ROWS * 3)])
    table = table.set_column(0, "visit", pa.array([f"s{i // 2:02}" for i in range(30)]))
    table = table.set_column(1, "second", pa.array([float(i) for i in range(30)]))
    table = table.append_column(
        "kind", pa.array(["buy" if i % 4 == 1 else "look" for i in range(30)])
    )
    table = table.append_column("event_type", table["part"])
    pq.write_table(table, tmp_path / "log.parquet")
    log = _log(tmp_path / "log.parquet", label=None, split=None, event_type="kind",
               target_event="buy", categorical=["event_type"],
               val_fraction=0.3, test_fraction=0.3)  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    assert _split(store, "train")["label"].to_pylist() == [1, 0] * 3
    # Even rows are y; a sequence that buys ends before its second row, x.
    assert _split(store, "train")["event_type"].to_pylist() == [[2], [2, 3]] * 3


@pytest.mark.parametrize(
    "order",
    [
        ["9", "10", "11"],
        ["0.9", "0.95", "1.5"],
        ["2026-01-09 9:00:00", "2026-01-09 10:00:00", "2026-01-09 12:00:00+01:00"],
    ],
)
def test_numbers_and_times_in_text_are_ordered_as_such(tmp_path: Path, order: list[str]) -> None:
    visits = [(f"s{i}", at, f"p{k}", i % 2, ["train", "val", "test"][i // 2])
              for i in range(6) for k, at in reversed(list(enumerate(order)))]  # fmt: skip
    path = tmp_path / "log.csv"
    path.write_text(
        "\n".join(["visit,at,page,buys,part", *(",".join(map(str, v)) for v in visits)])
    )
    log = EventLog(path=path, sequence="visit", order="at", categorical=["page"], label="buys",
                   split="part")  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    assert _split(store, "train")["page"].to_pylist() == [[2, 3, 4]] * 2


def test_a_time_without_a_zone_means_the_same_in_any_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    # Half past two does not exist in Berlin on that night.
    rows = ["visit,at,buys,part"]
    for i in range(6):
        part = ["train", "val", "test"][i // 2]
        rows += [f"s{i},2026-03-29 {at},{i % 2},{part}" for at in ("01:30:00", "02:30:00")]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(rows))
    log = EventLog(path=path, sequence="visit", order="at", time="at", gap=True, label="buys",
                   split="part")  # fmt: skip
    stores = []
    for zone in ("UTC", "Europe/Berlin"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        stores.append(prepare(log, tmp_path / zone))
    monkeypatch.delenv("TZ")
    time.tzset()
    assert _bytes(stores[0]) == _bytes(stores[1])
    assert read_meta(stores[0])["statistics"]["gap"]["mean"] == pytest.approx(math.log(3601) / 2)


KINDS = ("view", "cart", "buy")
event_logs = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 10_000), st.sampled_from(KINDS)),
    min_size=12,
    max_size=60,
    unique_by=lambda event: event[1],
)


def _target_columns(**changes: Any) -> LogColumns:
    description: dict[str, Any] = {
        "sequence": "visit",
        "order": "second",
        "time": "second",
        "event_type": "kind",
        "categorical": ["kind", "second_text"],
        "target_event": "buy",
        "val_fraction": 0.25,
        "test_fraction": 0.25,
    }
    return LogColumns(**{**description, **changes})


def _target_table(events: list[tuple[int, int, str]]) -> pa.Table:
    # Both classes all over the log, so that mostly each split has them.
    starts = (-900, 2000, 6000, 10_000, 14_000, 30_000)
    fixed = []
    for k, t in enumerate(starts):
        fixed += [(100 + 2 * k, t, "view"), (100 + 2 * k, t + 10, "cart")]
        fixed += [(101 + 2 * k, t + 2, "view"), (101 + 2 * k, t + 12, "buy")]
    rows = fixed + [(v, 2 * t + 1, k) for v, t, k in events]
    return pa.table(
        {
            "visit": [r[0] for r in rows],
            "second": [r[1] for r in rows],
            "second_text": [str(r[1]) for r in rows],
            "kind": [r[2] for r in rows],
        }
    )


def _inputs(events: pa.Table) -> Mapping[int, tuple[list[str], int]]:
    """By a plain loop: the kinds before the first purchase, and whether there is one."""
    found: dict[int, list[str]] = {}
    for row in sorted(events.to_pylist(), key=lambda r: r["second"]):
        found.setdefault(row["visit"], []).append(row["kind"])
    cut = {v: (k[: k.index("buy")], 1) if "buy" in k else (k, 0) for v, k in found.items()}
    return {v: c for v, c in cut.items() if c[0]}


@settings(max_examples=12, deadline=None)
@given(events=event_logs)
def test_no_event_at_or_after_the_first_target_is_in_the_input(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[int, int, str]]
) -> None:
    table, root = _target_table(events), tmp_path_factory.mktemp("stores")
    expected = _inputs(table)
    start = {v: min(r["second"] for r in table.to_pylist() if r["visit"] == v) for v in expected}
    try:
        store = prepare(TableLog(table, _target_columns()), root)
    except UserError as error:
        if "one class only" not in str(error):
            raise
        return
    kinds = pq.read_table(store / "vocab" / "kind.parquet")
    names = dict(zip(kinds["id"].to_pylist(), kinds["value"].to_pylist(), strict=True))
    assert "buy" not in names.values()
    seen = {}
    for split in ("train", "val", "test"):
        for row in _split(store, split).to_pylist():
            seen[row["id"]] = ([names.get(i, "?") for i in row["kind"]], row["label"])
    assert set(seen) == set(expected)
    for visit, (inputs, label) in expected.items():
        assert seen[visit][1] == label
        assert [k if k in names.values() else "?" for k in inputs] == seen[visit][0]
    dropped = read_meta(store)["read"]["dropped"]["sequences with fewer than min_length=1 events"]
    assert dropped == len(set(table["visit"].to_pylist())) - len(expected)
    ordered = [[start[i] for i in _ids(store, s)] for s in ("train", "val", "test")]
    assert [at for part in ordered for at in part] == sorted(start.values())
    assert max(ordered[0]) <= min(ordered[1]) <= max(ordered[1]) <= min(ordered[2])


@settings(max_examples=6, deadline=None)
@given(events=event_logs, seed=st.integers(0, 2**16))
def test_the_order_of_the_rows_in_the_file_does_not_change_the_store(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[int, int, str]], seed: int
) -> None:
    table, root = _target_table(events), tmp_path_factory.mktemp("stores")
    shuffled = list(range(len(table)))
    random.Random(seed).shuffle(shuffled)
    columns = _target_columns(gap=True)
    stores: list[Any] = []
    for number, log in enumerate((table.sort_by("second"), table.take(shuffled))):
        try:
            stores.append(_bytes(prepare(TableLog(log, columns), root / str(number))))
        except UserError as error:
            stores.append(str(error))
    assert stores[0] == stores[1]


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_the_training_log_encoded_by_its_own_store_is_the_store(tmp_path: Path, name: str) -> None:
    path = _written(tmp_path, name=name)
    store = prepare(_log(path), tmp_path / "stores")
    encoded = encode(store, _log(path), {"events": path, "labels": None}, labelled=True)
    stored = pa.concat_tables(_split(store, s) for s in ("train", "val", "test"))
    assert encoded.to_pydict() == stored.to_pydict()


def test_new_events_of_other_types_are_encoded_and_unknown_values_become_one(
    tmp_path: Path,
) -> None:
    store = prepare(_log(_written(tmp_path)), tmp_path / "stores")
    new = pa.table(
        {
            "visit": [7, 5, 7, 7],
            "second": ["2026-01-01 00:00:30Z", "2026-01-01 00:00:00+00",
                       "2026-01-01 01:00:00+01:00", "2026-01-01 00:00:40 UTC"],
            "page": pa.array(["cart", None, "home", "no such"]).dictionary_encode(),
            "price": ["4", None, "9", None],
        }
    )  # fmt: skip
    encoded = encode(store, _log(tmp_path), {"events": new}, labelled=False)
    assert encoded["id"].to_pylist() == [7, 5]
    assert encoded["label"].to_pylist() == [None, None]
    assert encoded["page"].to_pylist() == [[2, 4, 1], [1]]
    assert encoded["price"].to_pylist() == _near([[math.sqrt(5), 0, 0], [0]])
    numbers = new.set_column(2, "page", pa.array([1, 2, 3, 4]))
    assert encode(store, _log(tmp_path), {"events": numbers}, labelled=False)[
        "page"
    ].to_pylist() == [[1, 1, 1], [1]]


def test_short_sequences_of_new_events_are_encoded_unless_they_need_a_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = prepare(_log(_written(tmp_path)), tmp_path / "stores")
    log = _log(tmp_path, min_length=2)
    new = tmp_path / "new.csv"
    new.write_text("visit,second,page,price,buys\nx,0,home,1,1\ny,0,cart,2,0\ny,1,home,3,0\n")
    capsys.readouterr()
    for labelled, expected in ((False, ["x", "y"]), (True, ["y"])):
        encoded = encode(store, log, {"events": new, "labels": None}, labelled=labelled)
        assert encoded["id"].to_pylist() == expected
    assert capsys.readouterr().err == (
        f"{new}: 1 of 2 sequences are left out: they have fewer than 2 events\n"
    )


def test_sequences_of_new_events_that_begin_with_the_target_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns, table = _target_columns(), _target_table([])
    store = prepare(TableLog(table, columns), tmp_path / "stores")
    capsys.readouterr()
    new = table.slice(0, 3).set_column(3, "kind", pa.array(["buy", "view", "view"]))
    encoded = encode(store, columns, {"events": new}, labelled=False)
    assert encoded["id"].to_pylist() == [101]
    assert capsys.readouterr().err == (
        "<generated events>: 1 of 2 sequences are left out: they have fewer than 1 events before "
        "the first 'buy'\n"
    )


def test_new_events_with_times_in_another_unit_are_an_error(tmp_path: Path) -> None:
    lines = [f"{i // 3},{1_600_000_000 + 7 * i},{i % 5}" for i in range(60)]
    (tmp_path / "log.csv").write_text("\n".join(["s,t,x", *lines]))
    log = EventLog(path=tmp_path / "log.csv", sequence="s", time="t", item="x")
    store = prepare(log, tmp_path / "stores")
    new = tmp_path / "new.csv"
    new.write_text("s,t,x\n1,1600000000000,1\n1,1600000007000,2\n")
    with pytest.raises(UserError) as error:
        encode(store, log, {"events": new}, labelled=False)
    assert str(error.value) == (
        f"{new}: column 't' goes from 1600000000000 to 1600000007000, which looks like times in "
        "ms, and the log that was trained on has them in s; write them in s, or say with "
        "data.source.time_unit what they are"
    )


def test_new_events_may_lack_every_price_and_every_page(tmp_path: Path) -> None:
    store = prepare(_log(_written(tmp_path)), tmp_path / "stores")
    new = tmp_path / "new.csv"
    new.write_text("visit,second,page,price\nx,0,,\n")
    encoded = encode(store, _log(new), {"events": new, "labels": None}, labelled=False)
    assert encoded["page"].to_pylist() == [[1]]
    assert encoded["price"].to_pylist() == [[0]]


def test_a_label_table_without_anything_wanted_is_not_read(tmp_path: Path) -> None:
    table, log = _target_table([]), _target_columns()
    store = prepare(TableLog(table, log), tmp_path / "stores")
    encoded = encode(store, log, {"events": table, "labels": tmp_path / "gone.csv"}, labelled=True)
    assert encoded["id"].to_pylist() == list(range(100, 112))
    assert encoded["label"].to_pylist() == [0, 1] * 6


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"gap": False}, "page (categorical), price (standard)"),
        ({"numeric": {"price": "log"}}, "page (categorical), price (log), gap (log)"),
        ({"categorical": []}, "price (standard), gap (log)"),
    ],
)
def test_features_or_transforms_other_than_the_stores_are_an_error(
    tmp_path: Path, changes: dict[str, Any], given: str
) -> None:
    path = _written(tmp_path)
    store = prepare(_log(path), tmp_path / "stores")
    with pytest.raises(UserError) as error:
        encode(store, _log(path, **changes), {"events": path, "labels": None}, labelled=False)
    assert str(error.value) == (
        f"the features {given} are not those that the model was trained on: "
        "page (categorical), price (standard), gap (log)"
    )


def test_columns_that_new_events_lack_are_told_all_at_once(tmp_path: Path) -> None:
    store = prepare(_log(_written(tmp_path)), tmp_path / "stores")
    new = tmp_path / "new.csv"
    new.write_text("visit,second,pages\na,1,home\n")
    with pytest.raises(UserError) as error:
        encode(store, _log(new), {"events": new, "labels": None}, labelled=False)
    assert error.value.problems == (
        f"{new}: no column 'page' (asked for by data.source.categorical); did you mean 'pages'?",
        f"{new}: no column 'price' (asked for by data.source.numeric); "
        "choose from: pages, second, visit",
    )


def test_the_published_counts_of_the_clickstream_are_found(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "clickstream"
    log = EventLog(
        path=folder / "events_split0.parquet", labels=folder / "sessions.parquet",
        sequence="session_id", order="pos", time="t_seconds", categorical=["page_type"],
        numeric={"t_seconds": "log"}, gap=True, label="purchase", split="split0",
    )  # fmt: skip
    meta = read_meta(prepare(log, tmp_path / "stores"))
    counts = meta["counts"]
    assert [counts[s]["sequences"] for s in ("train", "val", "test")] == [15_767, 5_256, 5_256]
    assert sum(c["sequences"] for c in counts.values()) == 26_279
    assert sum(c["events"] for c in counts.values()) == meta["read"]["events"] == 348_920
    assert round(sum(c["positive"] for c in counts.values()) / 26_279, 4) == 0.2260
    assert meta["read"]["dropped"] == {
        "events without session_id": 0,
        "sequences with fewer than min_length=1 events": 0,
    }


def test_the_rees46_log_is_read_as_it_comes(data_dir: Path, tmp_path: Path) -> None:
    log = EventLog(
        path=data_dir / "rees46_sample" / "2019-Oct-head.csv", sequence="user_session",
        order="event_time", time="event_time", event_type="event_type",
        categorical=["event_type", "category_code", "brand"], numeric={"price": "log"}, gap=True,
        target_event="purchase",
    )  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    meta = read_meta(store)
    assert meta["read"]["events"] == 17_434
    assert meta["read"]["sequences"] == 5_066
    assert meta["counts"] == {
        "train": {"sequences": 4052, "events": 14_595, "positive": 181},
        "val": {"sequences": 506, "events": 1446, "positive": 14},
        "test": {"sequences": 507, "events": 933, "positive": 4},
    }
    kinds = pq.read_table(store / "vocab" / "event_type.parquet")["value"].to_pylist()
    # Nothing after the purchase is seen, the purchase least of all.
    assert kinds == ["view", "cart"]


def test_a_tab_separated_log_with_seconds_is_read(data_dir: Path, tmp_path: Path) -> None:
    log = EventLog(
        path=data_dir / "rsc15_100k" / "yoochoose-clicks-100k_train_full.txt",
        sequence="SessionId", order="Time", time="Time", event_type="ItemId",
        target_event="214716935", categorical=["ItemId"], gap=True,
    )  # fmt: skip
    store = prepare(log, tmp_path / "stores")
    meta = read_meta(store)
    assert meta["read"]["events"] == 70_278
    assert {s: c["sequences"] for s, c in meta["counts"].items()} == {
        "train": 14_148, "val": 1_768, "test": 1_769,
    }  # fmt: skip
    assert json.loads((store / "store.json").read_text())["description"]["order"] == "Time"

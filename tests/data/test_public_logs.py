"""The descriptions of public logs, on small files in the format that each log is published in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unrolled.data.prepare import prepare
from unrolled.data.store import read_meta
from unrolled.run.compose import compose
from unrolled.run.experiment import build
from unrolled.run.overrides import read_command_line

DAY = 86_400
START = 1_396_310_400  # 2014-04-01, UTC.


def _store(name: str, stores: Path) -> Path:
    config = compose(read_command_line(["task=purchase_intent", f"data={name}"])).config
    return prepare(build(config["data"]["source"], "data.source"), stores)


def _rows(store: Path, split: str) -> list[dict[str, Any]]:
    with pa.memory_map(str(store / f"{split}-00000.arrow")) as file:
        rows: list[dict[str, Any]] = pa.ipc.open_file(file).read_all().to_pylist()
        return rows


def _items(store: Path, split: str, column: str) -> dict[Any, list[str]]:
    """The items of each sequence, by their names; ? for the unknown one."""
    table = pq.read_table(store / "vocab" / f"{column}.parquet")
    names = dict(zip(table["id"].to_pylist(), table["value"].to_pylist(), strict=True))
    return {r["id"]: [names.get(i, "?") for i in r[column]] for r in _rows(store, split)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNROLLED_DATA", str(tmp_path))
    return tmp_path


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _clicks() -> list[tuple[int, int, str]]:
    """Session, time, item: two sessions a day over four days."""
    found = []
    for session in range(8):
        at = START + DAY // 2 * session + 100
        found += [(session, at, "A"), (session, at + 5, "B"), (session, at + 9, "A")]
    # One click, a rare item, and one that the test alone has.
    last = START + 3 * DAY + DAY // 2
    found += [(50, START, "A"), (51, START, "A"), (51, START + 1, "rare")]
    return found + [(7, last + 200 + k, "new") for k in range(5)]


def _iso(at: int) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.123Z")


def test_the_clicks_of_yoochoose(folder: Path) -> None:
    lines = [f"{s},{_iso(t)},{i},0" for s, t, i in _clicks()]
    _write(folder / "yoochoose" / "yoochoose-clicks.dat", lines)
    store = _store("yoochoose", folder / "stores")
    # Sessions 50 (one click) and 51 (one after the rare item) are left out; `new` is of the test.
    # The log ends in session 7, which with session 6 is in its last day.
    assert _items(store, "train", "item_id") == {str(s): ["A", "B", "A"] for s in (0, 1, 2, 3)}
    assert sorted(_items(store, "val", "item_id")) == ["4", "5"]
    assert _items(store, "test", "item_id") == {str(s): ["A", "B", "A"] for s in (6, 7)}
    dropped = read_meta(store)["read"]["dropped"]
    assert dropped["sequences with fewer than min_length=2 events"] == 2
    assert dropped["events of items with fewer than min_support=5 events"] == 1
    assert dropped["events of items that training has not"] == 5


def test_the_purchases_of_yoochoose(folder: Path) -> None:
    clicks = [(s, START + 1000 * s + 10 * k, i) for s in range(20) for k, i in enumerate("AB")]
    _write(folder / "yoochoose" / "yoochoose-clicks.dat",
           [f"{s},{_iso(t)},{i},S" for s, t, i in clicks])  # fmt: skip
    _write(folder / "yoochoose" / "yoochoose-buys.dat",
           [f"{s},{_iso(START + 1000 * s + 5)},A,100,1" for s in range(0, 20, 2)])  # fmt: skip
    store = _store("yoochoose_buys", folder / "stores")
    rows = {r["id"]: (r["label"], len(r["item_id"])) for r in _rows(store, "train")}
    assert rows == {str(s): ((1, 1) if s % 2 == 0 else (0, 2)) for s in range(16)}


def test_the_views_of_retailrocket(folder: Path) -> None:
    lines = ["timestamp,visitorid,event,itemid,transactionid"]
    for day in range(8):
        for visit in range(2):
            at = 1000 * (START + day * DAY + visit * 7200)
            for k, item in enumerate((7, 8, 7)):
                lines.append(f"{at + 60_000 * k},9,view,{item},")
            lines.append(f"{at + 200_000},9,addtocart,8,")
    _write(folder / "retailrocket" / "events.csv", lines)
    store = _store("retailrocket", folder / "stores")
    # Two sessions a day; those that end to the second two and four days before the last one belong
    # to the later part.
    assert _items(store, "train", "itemid") == {f"9/{k}": ["7", "8", "7"] for k in range(1, 8)}
    assert [r["id"] for r in _rows(store, "val")] == [f"9/{k}" for k in range(8, 12)]
    assert [r["id"] for r in _rows(store, "test")] == [f"9/{k}" for k in range(12, 17)]
    dropped = read_meta(store)["read"]["dropped"]
    assert dropped["events of other types than keep_types"] == 16


def test_the_views_of_diginetica(folder: Path) -> None:
    lines = ["sessionId;userId;itemId;timeframe;eventdate"]
    for day in range(1, 22):
        lines += [f"{day};NA;1{i};{frame};2016-05-{day:02}" for i, frame in ((5, 900), (4, 1000))]
    _write(folder / "diginetica" / "train-item-views.csv", lines)
    store = _store("diginetica", folder / "stores")
    # Days are dates: seven of them test, as in SR-GNN. 900 comes before 1000, not so as text.
    assert _items(store, "train", "itemId") == {str(d): ["15", "14"] for d in range(1, 8)}
    assert [r["id"] for r in _rows(store, "val")] == [str(d) for d in range(8, 15)]
    assert [r["id"] for r in _rows(store, "test")] == [str(d) for d in range(15, 22)]


def test_the_sessions_of_otto(folder: Path) -> None:
    lines = [
        json.dumps({"session": s, "events": [
            {"aid": 5, "ts": 1_661_200_010_000 + s, "type": "clicks"},
            {"aid": 6, "ts": 1_661_200_012_000 + s, "type": "carts"},
        ]})
        for s in range(10)
    ]  # fmt: skip
    _write(folder / "otto" / "otto-recsys-train.jsonl", lines)
    store = _store("otto", folder / "stores")
    assert _items(store, "train", "aid") == {s: ["5", "6"] for s in range(8)}
    assert _items(store, "test", "type") == {9: ["clicks", "carts"]}
    assert _rows(store, "test")[0]["event_time"] == [1_661_200_010.009, 1_661_200_012.009]


def test_the_behaviour_of_taobao(folder: Path) -> None:
    lines = [
        f"{user},{item},{item % 3},pv,{1_511_544_070 + 100 * item}"
        for user in range(60)
        for item in reversed(range(12))
    ]
    _write(folder / "taobao" / "UserBehavior.csv", [*lines, "99,1,1,pv,1511544070"])
    store = _store("taobao", folder / "stores")
    counts = read_meta(store)["counts"]
    assert sum(c["sequences"] for c in counts.values()) == 60
    assert all(c["sequences"] > 0 for c in counts.values())
    assert set(map(tuple, _items(store, "train", "item_id").values())) == {
        tuple(str(i) for i in range(12))
    }


def test_the_ratings_of_movielens(folder: Path) -> None:
    lines = [
        f"{user}::{film}::{film % 5 + 1}::{978_300_760 + 10 * film}"
        for user in range(1, 61)
        for film in (3, 1, 4, 2, 5)
    ]
    _write(folder / "ml-1m" / "ratings.dat", lines)
    store = _store("movielens_1m", folder / "stores")
    assert set(map(tuple, _items(store, "train", "item_id").values())) == {tuple("12345")}
    assert set(map(tuple, _items(store, "test", "rating").values())) == {tuple("23451")}


def test_the_globo_log_keeps_every_click(data_dir: Path, tmp_path: Path) -> None:
    if "UNROLLED_LARGE_TESTS" not in os.environ:
        pytest.skip("takes some seconds; set UNROLLED_LARGE_TESTS to run it")
    meta = read_meta(_store("globo", tmp_path))
    assert meta["read"]["events"] == 2_988_181
    assert meta["read"]["sequences"] == 1_113_035
    counts = meta["counts"]
    assert sum(c["events"] for c in counts.values()) == 2_988_181
    assert counts["train"]["sequences"] == 1_046_253


def test_a_week_of_yoochoose_is_split_by_its_days(data_dir: Path, tmp_path: Path) -> None:
    meta = read_meta(_store("rsc15_100k", tmp_path))
    assert meta["read"]["events"] == 70_278
    assert {s: c["sequences"] for s, c in meta["counts"].items()} == {
        "train": 11_317, "val": 2_275, "test": 3_963,
    }  # fmt: skip

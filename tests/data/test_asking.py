"""The moment at which a label is asked: what it tells a model, and what it hides from it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unrolled.data.log import EventLog, LogColumns, description_json
from unrolled.data.new_events import encode
from unrolled.data.prepare import prepare
from unrolled.errors import UserError

DAY = 86_400
CUT = 1_700_006_400  # A midnight, UTC.
# household, seconds before the cut (negative after it), leaves, part
ROWS = [
    ("a", 10 * DAY, 0, "train"),
    ("a", 2 * DAY, 0, "train"),
    ("a", 0, 0, "train"),
    ("b", 90 * DAY, 1, "train"),
    ("b", -DAY, 1, "train"),
    ("c", 5 * DAY, 0, "val"),
    ("d", 3 * DAY, 1, "val"),
    ("e", 5 * DAY, 0, "test"),
    ("f", 1, 1, "test"),
]
LABELS = {"who": list("abcdef"), "leaves": [0, 1, 0, 1, 0, 1], "part": [
    "train", "train", "val", "val", "test", "test",
]}  # fmt: skip


def _table(rows: list[tuple[Any, ...]] = ROWS, **more: list[Any]) -> pa.Table:
    who, before, leaves, part = map(list, zip(*rows, strict=True))
    times = [CUT - seconds for seconds in before]
    return pa.table({"who": who, "at": times, "leaves": leaves, "part": part, **more})


def _log(folder: Path, events: pa.Table, labels: pa.Table | None = None, **more: Any) -> EventLog:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.parquet"
    pq.write_table(events, path)
    if labels is not None:
        pq.write_table(labels, folder / "labels.parquet")
        more["labels"] = folder / "labels.parquet"
    given = {"sequence": "who", "time": "at", "label": "leaves", "split": "part", "asked_at": "cut"}
    return EventLog(path=path, **{**given, **more})


def _meta(store: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((store / "store.json").read_text())
    return meta


def _ages(store: Path, split: str) -> dict[str, list[float]]:
    table = pa.ipc.open_file(pa.memory_map(str(store / f"{split}-00000.arrow"))).read_all()
    return dict(zip(table["id"].to_pylist(), table["age"].to_pylist(), strict=True))


def test_the_age_of_each_event_is_the_one_computed_by_hand(tmp_path: Path) -> None:
    log = _log(tmp_path, _table(cut=[CUT] * len(ROWS)), gap_unit=DAY)
    store = prepare(log, tmp_path / "stores")
    meta = _meta(store)
    logs = [math.log(11), math.log(3), math.log(91)]
    mean = sum(logs) / 3
    std = math.sqrt(sum((x - mean) ** 2 for x in logs) / 3)
    assert meta["statistics"]["age"] == {
        "mean": pytest.approx(mean),
        "std": pytest.approx(std),
    }
    assert meta["schema"]["features"] == [{"kind": "numeric", "name": "age", "size": 1}]
    assert _ages(store, "train") == {
        "a": pytest.approx([(math.log(11) - mean) / std, (math.log(3) - mean) / std], abs=1e-6),
        "b": pytest.approx([(math.log(91) - mean) / std], abs=1e-6),
    }
    last = (math.log(1 + 1 / DAY) - mean) / std
    assert _ages(store, "test")["f"] == pytest.approx([last], abs=1e-6)
    assert meta["read"]["dropped"]["events at or after the moment of asking, 'cut'"] == 2
    assert meta["asked_unit"] == "s"


def test_the_moment_stands_in_the_log_or_in_the_label_table(tmp_path: Path) -> None:
    in_log = prepare(_log(tmp_path / "1", _table(cut=[CUT] * len(ROWS))), tmp_path / "stores")
    labels = pa.table({**LABELS, "cut": [CUT] * 6})
    other = _log(tmp_path / "2", _table().select(["who", "at"]), labels)
    in_labels = prepare(other, tmp_path / "stores")
    for split in ("train", "val", "test"):
        file = f"{split}-00000.arrow"
        assert (in_log / file).read_bytes() == (in_labels / file).read_bytes()


@pytest.mark.parametrize(
    ("moment", "unit", "described"),
    [
        (pa.array(["2023-11-15 00:00:00"] * 6), "timestamp", {}),
        (pa.array(["2023-11-15T01:00:00+01:00"] * 6), "timestamp", {}),
        (pa.array([CUT * 1_000] * 6), "ms", {}),
        (pa.array([CUT] * 6, pa.timestamp("s")), "timestamp", {}),
        (pa.array([20231115] * 6), "%Y%m%d", {}),
        (pa.array(["2023-11-15 01:00"] * 6), "timestamp", {"time_zone": "Europe/Berlin"}),
    ],
)
def test_the_moment_is_read_by_the_rules_of_times(
    tmp_path: Path, moment: pa.Array, unit: str, described: dict[str, Any]
) -> None:
    plain = _log(tmp_path / "1", _table().select(["who", "at"]), pa.table(
        {**LABELS, "cut": [CUT] * 6}
    ))  # fmt: skip
    written = _log(tmp_path / "2", _table().select(["who", "at"]), pa.table(
        {**LABELS, "cut": moment}
    ), **described)  # fmt: skip
    stores = [prepare(log, tmp_path / "stores") for log in (plain, written)]
    assert _meta(stores[1])["asked_unit"] == unit
    assert _ages(stores[1], "train") == _ages(stores[0], "train")


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(later=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 40 * DAY)), max_size=6))
def test_nothing_that_happens_from_the_moment_on_changes_the_input(
    tmp_path_factory: pytest.TempPathFactory, later: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("asked")
    label = dict(
        zip(LABELS["who"], zip(LABELS["leaves"], LABELS["part"], strict=True), strict=True)
    )
    kept = [row for row in ROWS if row[1] > 0]
    rows = [*kept, *((who, -seconds, *label[who]) for who, seconds in later)]
    stores = []
    for name, some in (("before", kept), ("all", rows)):
        log = _log(folder / name, _table(some, cut=[CUT] * len(some)), gap=True)
        stores.append(prepare(log, folder / "stores"))
    dropped = "events at or after the moment of asking, 'cut'"
    assert _meta(stores[1])["read"]["dropped"][dropped] == len(later)
    for split in ("train", "val", "test"):
        file = f"{split}-00000.arrow"
        assert (stores[0] / file).read_bytes() == (stores[1] / file).read_bytes()


def test_new_events_have_the_ages_of_the_store_and_need_the_moment(tmp_path: Path) -> None:
    labels = pa.table({**LABELS, "cut": [CUT] * 6})
    log = _log(tmp_path / "1", _table().select(["who", "at"]), labels)
    store = prepare(log, tmp_path / "stores")
    new = tmp_path / "new.csv"
    pa.csv.write_csv(_table(cut=["2023-11-15"] * len(ROWS)).drop(["leaves", "part"]), new)
    tables = {"events": log.other(new), "labels": None}
    encoded = encode(store, log.columns(), tables, labelled=False)
    ages = dict(zip(encoded["id"].to_pylist(), encoded["age"].to_pylist(), strict=True))
    assert {k: ages[k] for k in "ab"} == _ages(store, "train")
    assert {k: ages[k] for k in "ef"} == _ages(store, "test")
    # With labels the moments of asking come with them.
    judged = encode(store, log.columns(), log.tables(), labelled=True)
    assert judged["age"].to_pylist() == encoded["age"].to_pylist()
    pa.csv.write_csv(_table().drop(["leaves", "part"]), new)
    with pytest.raises(UserError) as error:
        encode(store, log.columns(), tables, labelled=False)
    assert str(error.value) == (
        f"{new}: no column 'cut' (asked for by data.source.asked_at); choose from: at, who; "
        "it says when the label is asked, one value a sequence: in the label table if there is "
        "one, else in the log, and in any new events that are to be predicted"
    )


def test_new_sequences_without_an_event_before_the_moment_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = _log(tmp_path, _table(cut=[CUT] * len(ROWS)))
    store = prepare(log, tmp_path / "stores")
    capfd.readouterr()
    new = tmp_path / "new.parquet"
    pq.write_table(pa.table({"who": ["x", "y"], "at": [CUT - 1, CUT + 1], "cut": [CUT, CUT]}), new)
    tables = {"events": log.other(new), "labels": None}
    assert encode(store, log.columns(), tables, labelled=False)["id"].to_pylist() == ["x"]
    assert capfd.readouterr().err == (
        f"{new}: 1 of 2 sequences are left out: they have fewer than 1 events before the moment of "
        "asking, 'cut'\n"
    )


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ([CUT] * 8 + [None], "column 'cut' is empty in 1 rows, for example row 9; each sequence "
         "needs the moment of asking (data.source.asked_at)"),
        ([CUT, CUT + 1] + [CUT] * 7, "column 'cut' must be one value a sequence "
         "(data.source.asked_at); 1 sequences or more have several, for example who a"),
        (["2023-11-15"] * 8 + ["soon"], "column 'cut' is not a time in 1 rows, for example 'soon' "
         "in row 9"),
    ],
)  # fmt: skip
def test_moments_that_can_not_be_right_are_refused(
    tmp_path: Path, cut: list[Any], message: str
) -> None:
    log = _log(tmp_path, _table(cut=cut))
    with pytest.raises(UserError) as error:
        prepare(log, tmp_path / "stores")
    assert str(error.value) == f"{tmp_path / 'log.parquet'}: {message}"
    assert not (tmp_path / "stores").exists()


def test_a_moment_of_the_label_table_is_told_with_its_own_row(tmp_path: Path) -> None:
    labels = pa.table({**LABELS, "cut": ["2023-11-15"] * 5 + ["soon"]})
    log = _log(tmp_path, _table().select(["who", "at"]), labels)
    with pytest.raises(UserError, match="not a time in 1 rows, for example 'soon' in row 6") as e:
        prepare(log, tmp_path / "stores")
    assert str(e.value).startswith(f"{tmp_path / 'labels.parquet'}: ")


def test_a_sequence_without_a_row_in_the_label_table_is_told_as_such(tmp_path: Path) -> None:
    labels = pa.table({**LABELS, "cut": [CUT] * 6}).slice(0, 5)
    log = _log(tmp_path, _table().select(["who", "at"]), labels)
    with pytest.raises(UserError, match=r"1 sequences of the log have no row here, for .* who f"):
        prepare(log, tmp_path / "stores")


def test_the_last_days_go_by_the_moment_of_asking(tmp_path: Path) -> None:
    # Everyone's last event is as old; what differs is when each was asked about.
    who = [f"u{i:02}" for i in range(40) for _ in range(2)]
    asked = [CUT + DAY * (i // 4) + 3_600 for i in range(40) for _ in range(2)]
    times = [CUT - (20 if i % 2 else 10) * DAY for i in range(80)]
    events = pa.table({"who": who, "at": times, "cut": asked, "leaves": [
        (i // 2) % 2 for i in range(80)
    ]})  # fmt: skip
    log = _log(tmp_path, events, split=None, test_days=2.5, val_days=2)
    store = prepare(log, tmp_path / "stores")
    assert sorted(_ages(store, "test")) == [f"u{i:02}" for i in range(28, 40)]
    assert sorted(_ages(store, "val")) == [f"u{i:02}" for i in range(20, 28)]
    assert not [w for w in _meta(store)["warnings"] if "stopped coming" in w]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"label": None, "split": None}, "asked_at, the moment at which a label is asked, needs "
         "label, its column"),
        ({"time": None, "order": "at"}, "asked_at needs time, the column it is computed from"),
        ({"asked_at": "at"}, "'at' is asked_at, the moment at which the label is asked, from which "
         "the feature age is computed; it is neither the time of an event nor a feature itself"),
        ({"categorical": ["age"]}, "asked_at adds a feature of the name age, which a column has "
         "already"),
    ],
)  # fmt: skip
def test_descriptions_that_contradict_the_moment_are_refused(
    changes: dict[str, Any], problem: str
) -> None:
    described = {"sequence": "who", "time": "at", "label": "leaves", "split": "part",
                 "asked_at": "cut", "categorical": ["shop"]}  # fmt: skip
    assert LogColumns(**described).problems() == []
    assert LogColumns(**{**described, **changes}).problems() == [problem]


def test_a_description_without_a_moment_is_written_as_before() -> None:
    columns = LogColumns(sequence="who", time="at", categorical=["shop"])
    assert "asked" not in description_json(columns)
    asked = LogColumns(sequence="who", time="at", label="leaves", asked_at="cut")
    assert json.loads(description_json(asked))["asked_at"] == "cut"

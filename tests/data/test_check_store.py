"""A store that is not as it was written is never read."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unrolled.data import check_store as module
from unrolled.data.check_store import FORMAT_VERSION, check_store, meta_checksum
from unrolled.data.log import EventLog
from unrolled.data.new_events import encode
from unrolled.data.prepare import prepare, require_same_ids
from unrolled.data.write_store import appears_complete
from unrolled.errors import UserError


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    lines = [f"s{i},{i},{'ab'[i % 2]}" for i in range(30)]
    (tmp_path / "log.csv").write_text("\n".join(["visit,at,item", *lines]))
    return EventLog(path=tmp_path / "log.csv", sequence="visit", time="at", item="item")


def _refused(log: EventLog, root: Path) -> str:
    with pytest.raises(UserError) as error:
        prepare(log, root)
    return str(error.value)


@pytest.mark.parametrize("name", ["train-00000.arrow", "vocab/item.parquet"])
def test_a_flipped_byte_is_told(log: EventLog, tmp_path: Path, name: str) -> None:
    store = prepare(log, tmp_path / "stores")
    assert prepare(log, tmp_path / "stores") == store
    content = bytearray((store / name).read_bytes())
    content[len(content) // 2] ^= 1
    (store / name).write_bytes(content)
    expected = (
        f"{store / name}: has other bytes than were written (its checksum differs); the event "
        f"store is damaged: delete the folder {store}, and it is prepared again from the log"
    )
    assert _refused(log, tmp_path / "stores") == expected
    shutil.rmtree(store)
    assert prepare(log, tmp_path / "stores") == store


def test_a_file_that_is_missing_or_cut_is_told(log: EventLog, tmp_path: Path) -> None:
    store = prepare(log, tmp_path / "stores")
    file = store / "test-00000.arrow"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:100])
    assert f"{file}: has 100 bytes, not the {size:,} that were written; the event store" in (
        _refused(log, tmp_path / "stores")
    )
    file.unlink()
    assert f"{file}: is missing; the event store is damaged" in _refused(log, tmp_path / "stores")
    (store / "store.json").unlink()
    assert f"{store}/store.json: not an event store" in _refused(log, tmp_path / "stores")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda text: text.replace('"events": 30', '"events": 31'), "has other contents than were"),
        (lambda text: text.replace('"checksum":', '"check":'), "has other contents than were"),
        (lambda text: "[]", "not an event store; "),
        (lambda text: text[:-9], "not an event store ("),
    ],
)
def test_a_changed_description_is_told(
    log: EventLog, tmp_path: Path, change: Callable[[str], str], found: str
) -> None:
    store = prepare(log, tmp_path / "stores")
    file = store / "store.json"
    text = file.read_text()
    file.write_text(json.dumps(json.loads(text)))
    assert prepare(log, tmp_path / "stores") == store
    assert change(text) != text
    file.write_text(change(text))
    message = _refused(log, tmp_path / "stores")
    assert message.startswith(f"{file}: {found}")
    assert message.endswith(f"delete the folder {store}, and it is prepared again from the log")


def test_a_store_of_another_version_is_told(log: EventLog, tmp_path: Path) -> None:
    store = prepare(log, tmp_path / "stores")
    meta = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps({**meta, "format_version": 3}))
    message = (
        f"{store}/store.json: format version 3, written by another version of unrolled; this "
        f"one reads version {FORMAT_VERSION}. Prepare the log (or train) again"
    )
    assert _refused(log, tmp_path / "stores") == message
    with pytest.raises(UserError) as error:
        encode(store, log.columns(), log.tables(), labelled=False)
    assert str(error.value) == message


def test_the_schema_of_a_run_of_the_version_before_encodes_as_it_did(
    log: EventLog, tmp_path: Path
) -> None:
    store = prepare(log, tmp_path / "stores")
    before = tmp_path / "schema"
    shutil.copytree(store, before)
    meta = json.loads((before / "store.json").read_text())
    # It did not say the types of the columns.
    old = {k: v for k, v in meta.items() if k != "types"} | {"format_version": 5}
    (before / "store.json").write_text(json.dumps({**old, "checksum": meta_checksum(old)}))
    expected = encode(store, log.columns(), log.tables(), labelled=False)
    assert encode(before, log.columns(), log.tables(), labelled=False).equals(expected)
    require_same_ids(before, store)
    old["counts"]["test"]["events"] += 1
    (before / "store.json").write_text(json.dumps({**old, "checksum": meta_checksum(old)}))
    with pytest.raises(UserError, match="the splits of the run are not those of the store"):
        require_same_ids(before, store)


def test_the_checksums_are_computed_once(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepare(log, tmp_path / "stores")
    for file in store.rglob("*"):
        os.utime(file, (time.time() - 60, time.time() - 60))
    check_store(store)
    assert (tmp_path / "stores" / "digests.json").is_file()

    def never(*_: object) -> str:
        raise AssertionError

    monkeypatch.setattr("hashlib.file_digest", never)
    module.check_store(store)


def test_what_a_killed_preparation_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left, fresh = (tmp_path / f".store-0.partial-{name}" for name in ("old", "new"))
    for folder in (left, fresh):
        folder.mkdir()
        (folder / "spill").write_text("gigabytes")
    os.utime(left, (time.time() - 3600, time.time() - 3600))
    with appears_complete(tmp_path / "store-1") as partial:
        os.utime(partial, (time.time() - 3600, time.time() - 3600))
        # What another process is working on stays, however long it takes.
        with appears_complete(tmp_path / "store-2"):
            assert partial.is_dir()
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        ".store-0.partial-new", "store-1", "store-2",
    ]  # fmt: skip

"""Checkpoint files: damage is noticed, the one before is used, a full disk costs nothing."""

from __future__ import annotations

import os
import random
import resource
import signal
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from unrolled.errors import UserError
from unrolled.run.checkpoint_files import (
    CheckpointFiles,
    NotWrittenError,
    damage,
    read_checkpoint,
    set_aside,
    to_go_on_from,
)


def content(step: int) -> dict[str, Any]:
    return {
        "state_dict": {"weight": torch.arange(700.0) * step, "bias": torch.full((3,), step)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(float(step))}}}],
        "global_step": step,
        "callbacks": {"numbers": (1, None, "text")},
    }


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`checkpoints/` after two saves."""
    folder = tmp_path / "checkpoints"
    for step in (1, 2):
        CheckpointFiles().save_checkpoint(content(step), folder / "last.ckpt")
    return folder


def test_the_one_before_the_last_is_kept_and_no_more(folder: Path) -> None:
    CheckpointFiles().save_checkpoint(content(3), folder / "last.ckpt")
    CheckpointFiles().save_checkpoint(content(3), folder / "best.ckpt")
    CheckpointFiles().save_checkpoint(content(2), folder / "best.ckpt")
    assert sorted(p.name for p in folder.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    steps = {p.stem: read_checkpoint(p)["global_step"] for p in folder.iterdir()}
    assert steps == {"best": 2, "last": 3, "previous": 2}
    assert to_go_on_from(folder) == (folder / "last.ckpt", None)


def test_no_copy_of_a_checkpoint_is_made_in_memory(folder: Path) -> None:
    whole = {"state_dict": {"weight": torch.arange(2e6)}}
    tracemalloc.start()
    try:
        CheckpointFiles().save_checkpoint(whole, folder / "best.ckpt")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (folder / "best.ckpt").stat().st_size > 8e6
    assert peak < 1e6
    assert equal(read_checkpoint(folder / "best.ckpt"), whole)


def test_what_is_truncated_is_always_noticed(folder: Path) -> None:
    last, draw = folder / "last.ckpt", random.Random(0)
    whole = last.read_bytes()
    for length in [0, 1, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(20))]:
        last.write_bytes(whole[:length])
        path, reason = to_go_on_from(folder)
        assert path == folder / "previous.ckpt", length
        assert reason is not None
        assert reason.startswith(f"{last}: it is damaged or incomplete")
        with pytest.raises(UserError, match="not a checkpoint that can be read"):
            read_checkpoint(last)


def test_a_flipped_byte_is_noticed_or_harmless(folder: Path) -> None:
    last, draw = folder / "last.ckpt", random.Random(1)
    whole = last.read_bytes()
    # Also all of the zip's own bookkeeping at the end, where the parts are found.
    places = [draw.randrange(len(whole)) for _ in range(200)] + [
        *range(len(whole) - 400, len(whole))
    ]
    noticed = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        last.write_bytes(flipped)
        try:
            found = read_checkpoint(last)
        except UserError:
            noticed += 1
        else:
            assert equal(found, content(2)), place
    assert noticed > 200


@pytest.mark.parametrize("part", ["data.pkl", "data/0"])
def test_a_flipped_byte_of_the_data_is_named(folder: Path, part: str) -> None:
    last = folder / "last.ckpt"
    with zipfile.ZipFile(last) as file:
        name = next(n for n in file.namelist() if n.endswith(part))
        inside = file.read(name)
    whole = last.read_bytes()
    place = whole.index(inside) + len(inside) // 2
    last.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    assert damage(last) == f"its part {name} is damaged"
    # torch itself would have loaded the tensors without a word.
    if part == "data/0":
        assert not equal(torch.load(last, weights_only=True), content(2))


def test_a_damaged_last_is_set_aside_for_the_one_before(folder: Path) -> None:
    (folder / "last.ckpt").write_bytes(b"PK\x03\x04 and then nothing")
    assert to_go_on_from(folder)[0] == folder / "previous.ckpt"
    set_aside(folder)
    assert to_go_on_from(folder) == (folder / "previous.ckpt", None)
    CheckpointFiles().save_checkpoint(content(3), folder / "last.ckpt")
    assert read_checkpoint(folder / "previous.ckpt")["global_step"] == 1
    assert to_go_on_from(folder) == (folder / "last.ckpt", None)


def test_all_damaged_is_an_error_that_names_them_and_none_is_a_start(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        to_go_on_from(folder)
    assert str(folder / "last.ckpt") in caught.value.problems[0]
    assert str(folder / "previous.ckpt") in caught.value.problems[1]
    assert "start a new run" in caught.value.problems[2]
    assert to_go_on_from(tmp_path / "nothing") == (None, None)


def test_a_last_that_was_never_put_in_place_leaves_the_one_before(folder: Path) -> None:
    # Killed between the two renames.
    (folder / "last.ckpt").unlink()
    assert to_go_on_from(folder) == (folder / "previous.ckpt", None)


def test_a_disk_that_fills_up_leaves_the_checkpoints_before_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not a full disk, but the same error in the middle of the same write.
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
        with pytest.raises(NotWrittenError) as caught:
            CheckpointFiles().save_checkpoint(content(3), folder / "last.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'last.ckpt'}: the checkpoint of 5 kB could not be")
    assert os.strerror(27) in message
    assert message.endswith("those before it are intact")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'exploded'}",)

    torch.save({"state_dict": {}, "bomb": Bomb()}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="not a checkpoint that can be read"):
        read_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(UserError):
        CheckpointFiles().load_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "exploded").exists()

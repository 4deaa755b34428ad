"""Files are hashed once, until they change."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from unrolled.data.files import Digests, matching_files
from unrolled.errors import UserError


def _old(path: Path, content: bytes) -> Path:
    """A file that was changed a minute ago."""
    path.write_bytes(content)
    os.utime(path, (time.time() - 60, time.time() - 60))
    return path


def test_a_digest_is_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _old(tmp_path / "log", b"one")
    digests = Digests(tmp_path)
    assert digests.of(file) == hashlib.sha256(b"one").hexdigest()
    digests.save()
    read = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: read.append(a) or real(*a))
    assert Digests(tmp_path).of(file) == hashlib.sha256(b"one").hexdigest()
    assert read == []
    file.write_bytes(b"two")  # As many bytes; only the time of change differs.
    assert Digests(tmp_path).of(file) == hashlib.sha256(b"two").hexdigest()
    assert len(read) == 1


def test_a_file_that_was_just_changed_is_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"one")
    digests = Digests(tmp_path)
    digests.of(file)
    digests.save()
    assert [f.name for f in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_what_is_remembered_may_be_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "digests.json").write_text(content)
    file = _old(tmp_path / "log", b"one")
    assert Digests(tmp_path).of(file) == hashlib.sha256(b"one").hexdigest()


def test_folders_of_a_pattern_may_be_patterns_too(tmp_path: Path) -> None:
    for day in ("2026-01", "2026-02"):
        (tmp_path / day).mkdir()
        for name in ("a.csv", "b.csv", "c.txt"):
            (tmp_path / day / name).write_text("")
    found = matching_files(tmp_path / "2026-*" / "*.csv")
    assert [str(f.relative_to(tmp_path)) for f in found] == [
        "2026-01/a.csv", "2026-01/b.csv", "2026-02/a.csv", "2026-02/b.csv",
    ]  # fmt: skip
    with pytest.raises(UserError, match="no such file"):
        matching_files(tmp_path / "2025-*" / "*.csv")

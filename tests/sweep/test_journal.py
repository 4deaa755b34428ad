"""A journal that a disk has damaged: the rest of the sweep goes on, and the loss is told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ledger import identify, ledger

from unrolled.errors import UserError


@dataclass
class Sample:
    """A sweep of three trials: one finished, one pruned, one that runs."""

    folder: Path
    journal: bytes


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("sweep")
    book = ledger(folder, trials=3)
    claims = [claim for _ in range(3) if (claim := book.claim()) is not None]
    book.finish(claims[0].trial, 0.5, [0.7, 0.5])
    book.prune(claims[1].trial, [0.9])
    for claim in claims:
        claim.release()
    return Sample(folder, (folder / "journal.log").read_bytes())


def opened(folder: Path, journal: bytes) -> dict[int, tuple[object, ...]]:
    (folder / "journal.log").write_bytes(journal)
    trials = ledger(folder, trials=3).trials()
    return {t.number: (t.id, t.values, t.state, t.value, t.watched) for t in trials}


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_every_trial_of_which_no_line_is_damaged_is_as_it_was(
    sample: Sample, data: st.DataObject
) -> None:
    lines = sample.journal.splitlines(keepends=True)
    before = opened(sample.folder, sample.journal)
    places = data.draw(st.sets(st.integers(0, len(lines) - 1), min_size=1, max_size=3))
    garbage = st.sampled_from([b"\xff\x00\xfe", b"", b"{}", b"5", b'{"op_code":6,"tri', b"\r\r"])
    # The lines that begin a trial name none: they can be made again.
    hit = {json.loads(lines[place]).get("trial_id") for place in places}
    last = max(i for i, line in enumerate(lines) if b'"trial_id":2' in line)
    if set(range(last)) >= places:
        for place in places:
            lines[place] = data.draw(garbage) + b"\n"
    found = opened(sample.folder, b"".join(lines))
    for number, trial in before.items():
        if number not in hit:
            assert found[number] == trial
    # What is mended is whole, and whoever comes next can go on.
    assert opened(sample.folder, (sample.folder / "journal.log").read_bytes()) == found
    book = ledger(sample.folder, trials=9)
    claim = book.claim()
    assert claim is not None
    book.finish(claim.trial, 0.1, [])
    assert identify(claim.trial.values) == claim.trial.id
    claim.release()


def test_the_line_and_what_is_lost_are_told_and_a_copy_is_kept(
    sample: Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = sample.journal.splitlines(keepends=True)
    end = next(i for i, line in enumerate(lines) if b'"op_code":6' in line)
    whole = lines[end]
    lines[end] = whole[:40] + b"\n"
    damaged = b"".join(lines)
    found = opened(sample.folder, damaged)
    assert [found[n][2] for n in range(3)] == ["running", "pruned", "running"]
    assert capsys.readouterr().err == (
        f"{sample.folder}/journal.log:{end + 1}: damaged; lost: one entry, which can't be told any "
        "more; the sweep goes on with the rest (a copy is journal.damaged)\n"
    )
    assert (sample.folder / "journal.damaged").read_bytes() == damaged
    lines[end] = whole.replace(b"}", b"")
    opened(sample.folder, b"".join(lines))
    assert "lost: the end of trial 0, which is taken up from its dir" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b'{"op_code":0,"work'])
def test_a_journal_without_a_whole_line_is_a_new_one(content: bytes, tmp_path: Path) -> None:
    assert opened(tmp_path, content) == {}


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00\n", b"a,b\n1,2\n", b"\xff\xfe\n"])
def test_a_file_that_is_no_journal_is_left_alone(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"journal.log: can't be read: none of its \d lines is a"):
        opened(tmp_path, content)
    assert (tmp_path / "journal.log").read_bytes() == content
    assert not (tmp_path / "journal.damaged").exists()

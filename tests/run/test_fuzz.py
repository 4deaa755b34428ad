"""What a stranger could hand over, changed at random; `benchmarks/fuzz.py` has the whole of it."""

from __future__ import annotations

from pathlib import Path

import fuzz
import pytest


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> fuzz.Base:
    folder = tmp_path_factory.mktemp("fuzz") / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        return fuzz.make_base(folder)


@pytest.mark.parametrize("kind", ["store", "checkpoint", "received"])
def test_what_is_changed_at_random_is_refused_or_does_no_harm(kind: str, base: fuzz.Base) -> None:
    ends, wrong = fuzz.run_cases(base, {kind: 50}, seed=1, quick=True)
    assert not wrong
    # It changes what matters, and leaves enough for the work to be done.
    assert ends[f"{kind}: refused"] >= 15
    assert ends[f"{kind}: right"] >= 3


def test_what_does_harm_is_seen(base: fuzz.Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*given: object) -> None:
        import ctypes

        ctypes.string_at(0)

    def write(*given: object) -> None:
        Path(base.folder.parent / "elsewhere").write_text("")

    for harm, told in ((crash, "died by signal 11"), (write, "WATCHED open")):
        monkeypatch.setitem(fuzz.KINDS, "store", (lambda base, rng: None, harm))
        assert told in fuzz.one_case(base, "store", 0, 0)

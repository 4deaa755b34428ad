"""What a preparation takes of the machine where nothing is said."""

from __future__ import annotations

import resource

import pytest

from unrolled.data import resources


def test_half_of_the_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "machine_memory", lambda: 8 * 2**30)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert resources.default_memory_limit() == "4096MiB"


def test_a_limit_on_the_process_counts_less_what_it_has_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resources, "machine_memory", lambda: 8 * 2**30)
    monkeypatch.setattr(resources, "_used", lambda _: 2**30)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 * 2**30, 3 * 2**30))
    assert resources.default_memory_limit() == "409MiB"


def test_there_is_a_core_and_some_memory() -> None:
    assert resources.available_cores() >= 1
    assert resources.machine_memory() > 2**28

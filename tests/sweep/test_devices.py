"""Devices: one trial on each, never two, and free again when the holder dies."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from unrolled.sweep.devices import Devices, devices_wanted


def test_each_device_is_leased_once(tmp_path: Path) -> None:
    one, other = Devices(["0", "1"], tmp_path), Devices(["0", "1"], tmp_path)
    first, second = one.lease(1), other.lease(1)
    assert first is not None
    assert second is not None
    assert (first.environment(), second.environment()) == (
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    )
    assert one.lease(1) is None
    first.release()
    # Both are not free: none is kept.
    assert one.lease(None) is None
    third = other.lease(1)
    assert third is not None
    assert third.devices == ["0"]


def test_a_process_that_is_killed_gives_its_device_back(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from unrolled.sweep.devices import Devices; "
        f"lease = Devices(['0'], Path({str(tmp_path)!r})).lease(1); print('held', flush=True); "
        "time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    devices = Devices(["0"], tmp_path)
    assert devices.lease(1) is None
    holder.kill()
    holder.wait()
    holder.stdout.close()
    time.sleep(0.1)
    assert devices.lease(1) is not None


def test_a_machine_without_gpus_leases_none(tmp_path: Path) -> None:
    lease = Devices([], tmp_path / "x").lease(1)
    assert lease is not None
    assert lease.environment() == {}
    assert not (tmp_path / "x").exists()


def test_the_devices_are_those_that_this_process_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc")
    assert Devices.of_this_machine().names == ["2", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Devices.of_this_machine().names == []


@pytest.mark.parametrize(
    ("trainer", "wanted"),
    [
        ({}, 1), ({"accelerator": "cpu", "devices": 2}, 0), ({"accelerator": "gpu"}, 1),
        ({"accelerator": "gpu", "devices": 2}, 2),
        ({"accelerator": "gpu", "devices": "auto"}, None),
        ({"devices": "auto"}, 1), ({"accelerator": "gpu", "devices": [0, 3]}, 2),
    ],
)  # fmt: skip
def test_a_trial_wants_as_many_devices_as_its_trainer(
    trainer: dict[str, Any], wanted: int | None
) -> None:
    assert devices_wanted(trainer) == wanted

"""Devices: one trial on each, never two, and free again when the holder dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from unrolled.errors import UserError
from unrolled.run.directory import RunDirectory
from unrolled.sweep.devices import Devices, devices_wanted


def test_each_device_is_leased_once(tmp_path: Path) -> None:
    one, other = Devices(["0", "1"], tmp_path), Devices(["0", "1"], tmp_path)
    run = RunDirectory(tmp_path / "run")
    first, second = one.lease(1, run), other.lease(1, run)
    assert first is not None
    assert second is not None
    assert (first.environment(), second.environment()) == (
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    )
    assert one.lease(1, run) is None
    first.release()
    # Both are not free: none is kept.
    assert one.lease(None, run) is None
    third = other.lease(1, run)
    assert third is not None
    assert third.devices == ["0"]


def test_a_process_that_is_killed_gives_its_device_back(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from unrolled.sweep.devices import Devices; "
        "from unrolled.run.directory import RunDirectory; "
        f"here = Path({str(tmp_path)!r}); "
        "lease = Devices(['0'], here).lease(1, RunDirectory(here)); print('held', flush=True); "
        "time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    devices, run = Devices(["0"], tmp_path), RunDirectory(tmp_path)
    assert devices.lease(1, run) is None
    holder.kill()
    holder.wait()
    holder.stdout.close()
    time.sleep(0.1)
    assert devices.lease(1, run) is not None


def test_a_device_is_not_free_while_the_run_is_still_on_it(tmp_path: Path) -> None:
    run, other = RunDirectory(tmp_path / "a"), RunDirectory(tmp_path / "b")
    run.path.mkdir()
    devices = Devices(["0"], tmp_path)
    lease = devices.lease(1, run)
    assert lease is not None
    with run.locked():
        # Its worker is killed, its process saves where it is.
        lease.release()
        assert devices.lease(1, other) is None
    after = devices.lease(1, other)
    assert after is not None
    assert after.devices == ["0"]


def test_a_run_that_goes_on_elsewhere_does_not_keep_its_old_device(tmp_path: Path) -> None:
    run, other = RunDirectory(tmp_path / "a"), RunDirectory(tmp_path / "b")
    run.path.mkdir()
    devices = Devices(["0", "1"], tmp_path)
    first, second = devices.lease(1, other), devices.lease(1, run)
    assert first is not None
    assert second is not None
    assert second.devices == ["1"]
    first.release()
    second.release()
    again = devices.lease(1, run)
    assert again is not None
    assert again.devices == ["0"]
    with run.locked():
        free = devices.lease(1, other)
    assert free is not None
    assert free.devices == ["1"]


def test_more_devices_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer.devices=3: this process may use 2 GPUs \(0, 1\)"):
        Devices(["0", "1"], tmp_path).lease(3, RunDirectory(tmp_path))


def test_a_machine_without_gpus_leases_none(tmp_path: Path) -> None:
    lease = Devices([], tmp_path / "x").lease(1, RunDirectory(tmp_path))
    assert lease is not None
    assert lease.environment() == {}
    assert not (tmp_path / "x").exists()


def test_the_devices_are_those_that_this_process_may_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '0, GPU-aaa'; echo '1, GPU-bbb'; echo '2, GPU-ccc'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Devices.of_this_machine().names == ["GPU-aaa", "GPU-bbb", "GPU-ccc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc")
    assert Devices.of_this_machine().names == ["GPU-ccc", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Devices.of_this_machine().names == []


@pytest.mark.parametrize(
    ("trainer", "wanted"),
    [
        ({}, 1), ({"accelerator": "cpu", "devices": 2}, 0), ({"accelerator": "gpu"}, 1),
        ({"accelerator": "gpu", "devices": 2}, 2),
        ({"accelerator": "gpu", "devices": "auto"}, None),
        ({"devices": "auto"}, 1),
    ],
)  # fmt: skip
def test_a_trial_wants_as_many_devices_as_its_trainer(
    trainer: dict[str, Any], wanted: int | None
) -> None:
    assert devices_wanted(trainer) == wanted


def test_a_trial_may_not_name_its_devices() -> None:
    with pytest.raises(UserError, match=r"trainer.devices=\[0, 3\].*trainer.devices=2"):
        devices_wanted({"accelerator": "gpu", "devices": [0, 3]})

"""What all tests share: no network, one thread, data and stores in places of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_ERROR_REPORTING"] = "false"
# Started by nohup, the tests would hand on that a closed terminal is to be ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def data_dir() -> Path:
    """The folder of real data sets; skips where there is none."""
    folder = os.environ.get("UNROLLED_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("UNROLLED_DATA names no folder with the real data sets")
    return Path(folder)

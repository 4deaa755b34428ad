"""A callback for benchmarks: the memory that a process takes while it trains."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

NAMES = ("VmHWM", "VmRSS", "RssAnon", "RssFile")


class Resident(Callback):
    """Writes what memory the process that trains takes: memory.json.

    Args:
        run_dir: Takes the file.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.began = 0.0
        self.seen: dict[str, int] = {}

    def look(self) -> None:
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in NAMES:
                self.seen[name] = max(self.seen.get(name, 0), int(value.split()[0]) * 1024)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.began = time.process_time()
        self.look()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % 10 == 0:
            self.look()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        seconds = time.process_time() - self.began
        self.look()
        text = json.dumps({"cpu_seconds": seconds, **self.seen})
        (self.run_dir / "memory.json").write_text(text)

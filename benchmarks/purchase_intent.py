"""Purchase intent on real sessions: our models beside boosted trees, and how fast they train.

    UNROLLED_DATA=... python benchmarks/purchase_intent.py [--seeds 5] [--only whole first_pages]

All see the same prepared sessions (data=clickstream, the given split 0) and are tested on the same
test sessions. The trees are scikit-learn's HistGradientBoostingClassifier on features made by hand
(`unrolled.data.session_features`), trained anew for each number of events seen.

Events per CPU-second are those of the training with its validation and checkpoints, on one thread;
start-up and test are not in it. pytorch-lifestream's GRU trained on 20,000 to 22,000 of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import torch
from lightning.pytorch.callbacks import Callback

from unrolled.metrics.log_loss import LogLoss
from unrolled.run.allowed import allow
from unrolled.run.compose import compose
from unrolled.run.directory import RunDirectory
from unrolled.run.experiment import Experiment
from unrolled.run.launch import launch
from unrolled.run.overrides import read_command_line
from unrolled.run.work import FINISHED
from unrolled.tasks.boosted_trees import boosted_trees
from unrolled.tasks.judge import judge_predictions

HERE = Path(__file__).parent
QUESTIONS = {
    "whole": ["task=purchase_intent"],
    "first_pages": ["experiment=purchase_intent_first_pages"],
    "unfolding": ["experiment=purchase_intent_unfolding"],
}
EVENTS_SEEN = (1, 2, 3, 5, 10, 20)
PEER = 21_000
"""Events per CPU-second of pytorch-lifestream 0.7.0 (GRU 64, batch 128)."""
NAMES = ("auroc", "average_precision", "log_loss")


class Clock(Callback):
    """Counts the events that are trained on and the CPU seconds this takes; writes clock.json.

    Args:
        run_dir: Takes the file.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.events = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.began = time.process_time()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.events += int(batch.lengths.clamp(max=pl_module.first_events or 1_000_000).sum())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        seconds = time.process_time() - self.began
        text = json.dumps({"events": self.events, "cpu_seconds": seconds})
        (self.run_dir / "clock.json").write_text(text)


def ours(config: dict[str, Any], seed: int) -> dict[str, float]:
    """Every test metric of a run, and `events_per_second`."""
    allow(["purchase_intent"])
    clock = {"clock": {"_target_": "purchase_intent.Clock"}}
    config = {**config, "seed": seed, "callbacks": {**config["callbacks"], **clock}}
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(config, Path(folder) / "run", "benchmark")
        if launch(run) != FINISHED:
            raise SystemExit(run.status()["error"])
        scores = {n: s["value"] for n, s in run.read_json("metrics.json")["metrics"].items()}
        clock_says = run.read_json("clock.json")
    return scores | {"events_per_second": clock_says["events"] / clock_says["cpu_seconds"]}


def trees(config: dict[str, Any], seed: int, count: int | None) -> dict[str, float]:
    """AUROC, average precision and log loss of the trees."""
    data = Experiment(**{**config, "seed": seed}).build_data()
    data.seed = seed
    metrics = {
        "auroc": torchmetric("BinaryAUROC"),
        "average_precision": torchmetric("BinaryAveragePrecision"),
        "log_loss": LogLoss(),
    }
    found = judge_predictions(metrics, *boosted_trees(data, count))
    return {f"test/{name}": value for name, value in found.items()}


def torchmetric(name: str) -> Any:
    import torchmetrics.classification

    return getattr(torchmetrics.classification, name)()


def told(rows: list[dict[str, float]], name: str) -> str:
    """Mean and deviation over the seeds."""
    values = [row[name] for row in rows if name in row]
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    torch.set_num_threads(1)
    # Where the process that trains finds the clock.
    path = filter(None, [str(HERE), os.environ.get("PYTHONPATH")])
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    sys.path.insert(0, str(HERE))
    print("| question | model | AUROC | average precision | log loss | events per CPU-second |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    curves = {}
    for question in arguments.only:
        typed = [*QUESTIONS[question], "data=clickstream", "trainer=cpu", "logger=none"]
        config = compose(read_command_line(typed)).config
        count = config["task"].get("first_events")
        rows = [ours(config, seed) for seed in seeds]
        speed = statistics.mean(row["events_per_second"] for row in rows)
        cells = [told(rows, f"test/{name}") for name in NAMES]
        print(f"| {question} | ours | {' | '.join(cells)} | {speed:,.0f}, {speed / PEER:.1f} times "
              "pytorch-lifestream's |", flush=True)  # fmt: skip
        if question == "unfolding":
            curves["ours"] = rows
            continue
        rows = [trees(config, seed, count) for seed in seeds]
        cells = [told(rows, f"test/{name}") for name in NAMES]
        print(f"| {question} | boosted trees | {' | '.join(cells)} | |", flush=True)
    if curves:
        print("\n| events seen | AUROC, ours | trees | average precision, ours | trees |")
        print("| ---: | --- | --- | --- | --- |", flush=True)
        for count in EVENTS_SEEN:
            tree = [trees(config, 0, count)]
            cells = [
                cell
                for name in NAMES[:2]
                for cell in (
                    told(curves["ours"], f"test/{name}@{count}"),
                    f"{tree[0][f'test/{name}']:.4f}",
                )
            ]
            print(f"| {count} | {' | '.join(cells)} |", flush=True)
    print(f"\nmean ± deviation over {len(seeds)} seeds (trees by events seen: one); 22.60 % buy; "
          "all test sessions, cut to their first events, shorter ones whole")  # fmt: skip


if __name__ == "__main__":
    main()

"""Purchase intent on real sessions: the default model beside boosted trees on counts.

    UNROLLED_DATA=... python benchmarks/purchase_intent.py [--seeds 3]

Both see the same prepared sessions (data=clickstream, the given split 0) and are tested on the same
test sessions. The trees are scikit-learn's HistGradientBoostingClassifier, with early stopping on
a tenth of the training sessions, on features made by hand: number of pages, counts and shares of
each page type, first and last page types, times and gaps.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from unrolled.data.store import JaggedSequences
from unrolled.run.compose import compose
from unrolled.run.directory import RunDirectory
from unrolled.run.experiment import Experiment
from unrolled.run.launch import launch
from unrolled.run.overrides import read_command_line
from unrolled.run.work import FINISHED

LAST = 5
"""How many of the last (and first) pages are features of their own."""


def features(sessions: JaggedSequences, num_pages: int) -> np.ndarray:
    """Hand-made features, one row a session; no loop over sessions."""
    offsets = sessions.offsets.numpy()
    page = sessions.columns["page_type"].numpy()
    gap = sessions.columns["gap"].numpy()
    elapsed = sessions.columns["t_seconds"].numpy()
    n, lengths = len(sessions), np.diff(offsets)
    session = np.repeat(np.arange(n), lengths)
    counts = np.zeros((n, num_pages))
    np.add.at(counts, (session, page), 1)
    seconds = np.zeros((n, num_pages))
    np.add.at(seconds, (session, page), gap)
    columns = [lengths[:, None], counts, counts / lengths[:, None], seconds]
    columns += [
        np.stack([f(gap, offsets[:-1]) for f in (np.add.reduceat, np.maximum.reduceat)], 1),
        elapsed[offsets[1:] - 1][:, None],
    ]
    for back in range(1, LAST + 1):
        inside = lengths >= back
        last = np.where(inside, page[np.maximum(offsets[1:] - back, 0)], -1)
        first = np.where(inside, page[np.minimum(offsets[:-1] + back - 1, len(page) - 1)], -1)
        last_gap = np.where(inside, gap[np.maximum(offsets[1:] - back, 0)], np.nan)
        columns.append(np.stack([last, first, last_gap], 1))
    return np.concatenate(columns, 1)


def trees(experiment: Experiment, seed: int) -> tuple[float, float, float, float]:
    """AUROC, average precision, log loss, CPU seconds."""
    data = experiment.build_data()
    pages = next(f.num_ids for f in data.schema.features if f.name == "page_type")
    train, test = data.source("train"), data.source("test")
    start = time.process_time()
    model = HistGradientBoostingClassifier(
        max_iter=500, learning_rate=0.05, early_stopping=True, random_state=seed
    )
    model.fit(features(train, pages), train.labels.numpy())
    probability = model.predict_proba(features(test, pages))[:, 1]
    cpu = time.process_time() - start
    labels = test.labels.numpy()
    return (
        roc_auc_score(labels, probability),
        average_precision_score(labels, probability),
        log_loss(labels, probability),
        cpu,
    )


def ours(config: dict, seed: int) -> tuple[float, float, float, float]:
    """AUROC, average precision, log loss, CPU seconds of the run's process, start-up included."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create({**config, "seed": seed}, Path(folder) / "run", "benchmark")
        before = sum(os.times()[2:4])
        if launch(run) != FINISHED:
            raise SystemExit(run.status()["error"])
        cpu = sum(os.times()[2:4]) - before
        scores = run.read_json("metrics.json")["metrics"]
        names = ("auroc", "average_precision", "log_loss")
        return (*(scores[f"test/{name}"]["value"] for name in names), cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    command = ["task=purchase_intent", "data=clickstream", "trainer=cpu"]
    rows: dict[str, list[tuple[float, float, float, float]]] = {"ours": [], "trees": []}
    for seed in seeds:
        config = compose(read_command_line([*command, f"seed={seed}"])).config
        rows["trees"].append(trees(Experiment(**config), seed))
        rows["ours"].append(ours(config, seed))
    print(f"\n{'':8} AUROC           average precision  log loss        CPU s")
    for name, results in rows.items():
        cells = []
        for values in zip(*results, strict=True):
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4f} ± {deviation:.4f}")
        print(f"{name:8} {cells[0]} {cells[1]}    {cells[2]} {cells[3]}")
    print(f"mean ± deviation over {len(seeds)} seeds; 22.60 % of the test sessions buy")


if __name__ == "__main__":
    main()

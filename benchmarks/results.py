"""Every task and every tutorial, trained and tested: writes docs/results.md.

    python benchmarks/results.py [--jobs 2] [--only NAME ...]
    python benchmarks/results.py --sweep runs/sweeps/NAME

Each row is a run of its own with one thread, seed 0. Runs that would take longer than some minutes
are made shorter, and say so. With --only the other rows stay as they are in docs/results.json.
With --sweep the table of a sweep that is over is taken up (docs/sweeps.json), beside what the
task's present default scores with the same fixed parameters, which is run for it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from unrolled.run.directory import RunDirectory
from unrolled.sweep.folder import SweepFolder
from unrolled.sweep.history import Histories

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "docs" / "results.md"
VALUES = ROOT / "docs" / "results.json"
SWEEPS = ROOT / "docs" / "sweeps.json"
MOST_TRIALS = 8
"""Of a sweep that are shown, the best first."""


@dataclass(frozen=True)
class Row:
    """One run: what is typed, the metrics that are shown, and what the reader has to know."""

    name: str
    typed: str
    metrics: tuple[str, ...]
    note: str = ""


LENGTHS = ("test/mse", "length_2/mse", "length_3/mse", "length_4/mse")
TASKS = [
    Row("memorize", "task=memorize", ("test/loss", "test/error"), "loss summed over 8 steps"),
    Row("wave_inverse", "task=wave_inverse", LENGTHS),
    Row("wave_inverse {3,4}", "task=wave_inverse data.source.lengths=[3,4]", LENGTHS),
    Row("next_word", "task=next_word", ("test/perplexity", "test/error")),
    Row("cosine", "task=cosine", ("test/free_run", "test/mse")),
    Row("bitcount", "task=bitcount", ("test/error", "test/mistakes")),
    Row(
        "bitcount_lengths",
        "experiment=bitcount_lengths",
        ("test/error", "length_40/error", "length_100/error", "length_100/mae"),
        "trained on 20 bits",
    ),
    Row("parity", "task=parity", ("test/error", "length_100/error"), "trained on 1 to 50 bits"),
    Row("adding", "task=adding", ("test/mse", "test/off"), "600 numbers"),
    Row("multiplication", "task=multiplication", ("test/mse", "test/off"), "100 numbers"),
    Row("temporal_order", "task=temporal_order", ("test/error",), "experiment 6a"),
    Row("temporal_order 6b", "task=temporal_order data.source.important=3", ("test/error",)),
    Row("copy", "task=copy", ("test/loss", "test/error"), "pause of 200"),
    Row("seq_images", "task=seq_images", ("test/error",)),
    Row(
        "seq_images, glimpses",
        "experiment=seq_images_attention",
        ("test/error",),
        "recurrent attention, REINFORCE",
    ),
    Row("recall", "task=recall", ("test/error",)),
    Row(
        "recall, LSTM",
        "experiment=recall_lstm",
        ("test/error",),
        "as many parameters and updates as the Transformer",
    ),
    Row("purchase_intent", "task=purchase_intent", ("test/auroc", "test/average_precision")),
    Row("shop_intent", "experiment=shop_intent", ("test/auroc", "test/average_precision")),
    Row(
        "shop_next_item",
        "experiment=shop_next_item task.references=false",
        ("test/recall@20", "test/mrr@20"),
    ),
    Row(
        "next_event",
        "task=next_event",
        ("test/log_likelihood", "test/time_log_likelihood", "test/type_log_likelihood"),
        "nats an event",
    ),
]
TUTORIALS = [
    Row(
        "seed0_memorize",
        "experiment=seed0_memorize",
        ("test/loss",),
        "summed over 8 steps; published .00110, of a version with 3 steps",
    ),
    Row(
        "seed0_memorize, 3 steps",
        "experiment=seed0_memorize data.source.length=3",
        ("test/loss",),
        "published .00110",
    ),
    Row("seed1_rnn", "experiment=seed1_rnn", ("test/mse",), "published .0757"),
    Row("seed1_lstm", "experiment=seed1_lstm", ("test/mse",), "published (train) .0794"),
    Row(
        "seed1_lstm_variable, 3 of 12 epochs",
        "experiment=seed1_lstm_variable trainer.max_epochs=3",
        ("test/mse", "length_3/mse", "length_4/mse"),
        "published (train, 5 epochs, other rate) .0478",
    ),
    Row(
        "seed2_cosine",
        "experiment=seed2_cosine",
        ("test/mse", "test/free_run"),
        "the tutorial plots 190 steps",
    ),
    Row("seed2_simple", "experiment=seed2_simple", ("test/perplexity", "test/error")),
    Row(
        "seed3_bitcount, 1 of 10 parts",
        "experiment=seed3_bitcount trainer.max_epochs=500",
        ("test/error",),
        "5,000 of 50,000 updates; published .001 after all",
    ),
]


def run(row: Row) -> dict[str, Any]:
    """Train and test; the row with its results."""
    with tempfile.TemporaryDirectory() as folder:
        directory = train(row.typed.split(), Path(folder))
        result = json.loads((directory / "metrics.json").read_text())
    print(f"{row.name}: {result['seconds']['fit']:.0f} s", flush=True)
    return {**asdict(row), "commit": commit(), **result}


def train(typed: list[str], folder: Path) -> Path:
    """Run `train.py` in a folder; the run directory."""
    directory = folder / "run"
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *typed,
         "logger=none", "trainer.accelerator=cpu", f"run_dir={directory}"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(typed)}: {done.stderr[-2000:]}")
    return directory


def take_up(path: Path) -> None:
    """Add a sweep's table and the default's value beside it to docs/sweeps.json."""
    sweep = SweepFolder(path).sweep
    fixed = {key: p.ends()[0] for key, p in sweep.parameters.items() if key not in sweep.searched}
    with tempfile.TemporaryDirectory() as folder:
        run_dir = train([*sweep.arguments(fixed), "test=false"], Path(folder))
        config = RunDirectory(run_dir).config()
        history = Histories(run_dir.parent, sweep.metric.name).of(run_dir.name)
    with (path / "summary" / "trials.csv").open() as file:
        trials = list(csv.DictReader(file))
    taken = json.loads(SWEEPS.read_text()) if SWEEPS.exists() else {}
    taken[path.name] = {
        "metric": sweep.metric.name,
        "fixed": sweep.arguments(fixed),
        "commit": commit(),
        "default": {"value": sweep.best(history)}
        | {key: chosen(config, key) for key in sweep.searched},
        "trials": [
            {"state": t["state"], "value": t[sweep.metric.name]}
            | {key: t[key] for key in sweep.searched}
            for t in trials
        ],
    }
    SWEEPS.write_text(json.dumps(taken, indent=1, default=str) + "\n")


def chosen(config: dict[str, Any], key: str) -> Any:
    """A value of a config; of a section, its class."""
    value = OmegaConf.select(OmegaConf.create(config), key)
    return value["_target_"].rpartition(".")[2] if OmegaConf.is_dict(value) else value


def sweep_tables() -> list[str]:
    """The sweeps as Markdown: the best trials, and the default that they were to beat."""
    lines = []
    for name, sweep in (json.loads(SWEEPS.read_text()) if SWEEPS.exists() else {}).items():
        ended = [trial["state"] for trial in sweep["trials"]]
        counts = ", ".join(f"{ended.count(state)} {state}" for state in dict.fromkeys(ended))
        keys = [key for key in sweep["default"] if key != "value"]
        lines += [
            f"### {name}",
            "",
            f"`{' '.join(sweep['fixed'])}`; {counts}; at commit {sweep['commit']}.",
            "",
            f"| | {sweep['metric']} | {' | '.join(f'`{key}`' for key in keys)} |",
            f"| --- | ---: |{' ---: |' * len(keys)}",
        ]
        best = [trial for trial in sweep["trials"] if trial["state"] == "finished"][:MOST_TRIALS]
        for label, row in [("default until then", sweep["default"]), *(("", t) for t in best)]:
            cells = [label, *(shown(row[key]) for key in ("value", *keys))]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines


def shown(value: Any) -> str:
    """A parameter's value, numbers with four digits."""
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return "-" if value is None else str(value)


def commit() -> str:
    """The short hash of the commit; with a plus when there are changes beside it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", "src", "conf", "train.py")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def table(rows: list[Row], results: dict[str, Any]) -> list[str]:
    """The rows as Markdown; a line for each metric."""
    lines = [
        "| run | updates | fit, s | parameters | metric | trivial | ours | best possible | |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        if row.name not in results:
            continue
        result = results[row.name]
        shown = [m for m in row.metrics if m in result["metrics"]]
        for index, metric in enumerate(shown):
            first = index == 0
            score = result["metrics"][metric]
            cells = [
                f"`{row.typed}`" if first else "",
                f"{result['steps']:,}" if first else "",
                f"{result['seconds']['fit']:.0f}" if first else "",
                f"{result['parameters']:,}" if first else "",
                metric,
                *(number(score.get(key)) for key in ("trivial", "value", "best")),
                row.note if first else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def number(value: float | None) -> str:
    """Four digits; a dash for what is not known."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def write(results: dict[str, Any]) -> None:
    """docs/results.md and docs/results.json."""
    commits = sorted({result["commit"] for result in results.values()})
    text = [
        "# Results",
        "",
        f"Written by `python benchmarks/results.py` at commit {', '.join(commits)}. Seed 0, one",
        "thread of a CPU that other machines share. *Trivial* is what an answer scores that does",
        "not look at the sequence, *best possible* what no model can beat (the Bayes error, where",
        "there is noise). Metrics are of test data; for memorize these are the training data.",
        "",
        "## Tasks by their defaults",
        "",
        *table(TASKS, results),
        "",
        "## The tutorials to the letter",
        "",
        *table(TUTORIALS, results),
        "",
        "## Defaults that a sweep has found",
        "",
        "Each trial has as many updates as the default. The best became the default (rounded).",
        "",
        *sweep_tables(),
    ]
    OUTPUT.write_text("\n".join(text))
    VALUES.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=None, metavar="NAME")
    parser.add_argument("--sweep", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.sweep is not None:
        take_up(arguments.sweep)
        write(json.loads(VALUES.read_text()))
        return
    rows = [*TASKS, *TUTORIALS]
    results: dict[str, Any] = {}
    if arguments.only is not None:
        unknown = set(arguments.only) - {row.name for row in rows}
        if unknown:
            parser.error(f"unknown: {sorted(unknown)}; there are {[row.name for row in rows]}")
        rows = [row for row in rows if row.name in arguments.only]
        results = json.loads(VALUES.read_text()) if VALUES.exists() else {}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for result in pool.map(run, rows):
            results[result["name"]] = result
            # What is done is kept when a later run fails.
            write(results)


if __name__ == "__main__":
    main()

"""Pictures of one run: its learning curves, and what its predictions look like."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from unrolled.plain_files import written_beside


def plot_run(run_dir: Path, main_metric: str, predictions: pa.Table | None) -> None:
    """Write the PNG files of `plots/`.

    Args:
        run_dir: With metrics.csv and metrics.json.
        main_metric: The task's, without the split.
        predictions: Of the test set, where it is not too large.
    """
    (run_dir / "plots").mkdir(exist_ok=True)
    _learning_curves(run_dir, main_metric)
    if predictions is not None and "probability" in predictions.column_names:
        _reliability(run_dir, predictions)
    if predictions is not None and {"target_time", "median_time"} <= set(predictions.column_names):
        _times(run_dir, predictions)
    if (run_dir / "predictions" / "free_run.parquet").exists():
        _free_run(run_dir)
    if (run_dir / "predictions" / "events_seen.parquet").exists():
        _events_seen(run_dir)


def _save(figure: Figure, run_dir: Path, name: str) -> None:
    with written_beside(run_dir / "plots" / f"{name}.png") as partial:
        figure.savefig(partial, dpi=120, format="png")


def read_curves(run_dir: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of every metric in metrics.csv."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    with (run_dir / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(int(row["step"]))
                    values.append(float(value))
    return curves


def _learning_curves(run_dir: Path, main_metric: str) -> None:
    curves = read_curves(run_dir)
    result = json.loads((run_dir / "metrics.json").read_text())
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, metric_axes = figure.subplots(1, 2)
    for name in ("train/loss", "val/loss"):
        if name in curves:
            loss_axes.plot(*curves[name], label=name)
    loss_axes.set(xlabel="step", ylabel="loss")
    if all(v > 0 for n in ("train/loss", "val/loss") for v in curves.get(n, ([], [1.0]))[1]):
        loss_axes.set_yscale("log")
    loss_axes.legend()

    name = f"val/{main_metric}"
    if name in curves:
        metric_axes.plot(*curves[name], label=name)
    score = result["metrics"].get(f"test/{main_metric}", {})
    styles: list[tuple[str, str, dict[str, Any]]] = [
        ("trivial", "trivial", {"color": "grey", "linestyle": ":"}),
        ("value", "test", {"color": "black", "linestyle": "--"}),
        ("best", "best possible", {"color": "green", "linestyle": ":"}),
    ]
    for key, label, style in styles:
        if score.get(key) is not None:
            metric_axes.axhline(score[key], label=f"{label} {score[key]:.4g}", **style)
    metric_axes.set(xlabel="step", ylabel=main_metric)
    if metric_axes.lines:  # None of a metric that is not defined.
        metric_axes.legend()
    _save(figure, run_dir, "learning_curves")


def _reliability(run_dir: Path, predictions: pa.Table, bins: int = 15) -> None:
    import numpy as np

    target = _last_of_each(predictions["target"])
    figure = Figure(figsize=(5, 6), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
    for column, label in (
        ("probability", "test sequences"),
        ("probability_scaled", "by the temperature of the validation"),
    ):
        if column not in predictions.column_names:
            continue
        predicted, observed, count = reliability(_last_of_each(predictions[column]), target, bins)
        axes.plot(predicted, observed, marker="o", label=label)
        edges = np.linspace(0, 1, bins + 1)
        below.stairs(count, edges, fill=column == "probability")
    axes.set(ylabel="share with label 1", title=f"Reliability, {bins} bins")
    axes.legend()
    below.set(xlabel="predicted probability", ylabel="sequences", yscale="log")
    _save(figure, run_dir, "reliability")


def reliability(probability: Any, target: Any, bins: int) -> tuple[Any, Any, Any]:
    """A reliability diagram (Guo et al. 2017): bins of equal width.

    Args:
        probability: Of class 1, `[item]`; those that are not finite are left out.
        target: `[item]`, 0 or 1.
        bins: Their number.

    Returns:
        Of the bins that are not empty the mean probability and the share of ones; of all bins the
        number of items.
    """
    import numpy as np

    finite = np.isfinite(probability)
    probability, target = probability[finite], target[finite]
    which = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    seen = count > 0
    predicted = np.bincount(which, probability, bins)[seen] / count[seen]
    observed = np.bincount(which, target, bins)[seen] / count[seen]
    return predicted, observed, count


def _last_of_each(column: pa.ChunkedArray) -> Any:
    """A column as numbers; of lists, which have a number for each step, the last of each."""
    array = column.combine_chunks()
    if pa.types.is_list(array.type):
        array = array.values.take(pc.subtract(array.offsets[1:], 1))
    return array.to_numpy(zero_copy_only=False)


def _events_seen(run_dir: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(run_dir / "predictions" / "events_seen.parquet")
    result = json.loads((run_dir / "metrics.json").read_text())
    events = table["events"].to_numpy()
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), table.column_names[1:], strict=True):
        label = name.replace("_", " ") if name != "auroc" else "AUROC"
        axes.plot(events, table[name].to_numpy(), marker="o", label="model")
        score = result["metrics"][f"test/{name}"]
        if score["value"] is not None:
            axes.axhline(score["value"], linestyle="--", color="black", label="model, all events")
        for other, scores in result.get("references", {}).items():
            keys = [f"test/{name}@{count}" for count in events]
            if all(key in scores for key in keys):
                axes.plot(events, [scores[key] for key in keys], marker="s", color="grey",
                          label=other.replace("_", " "))  # fmt: skip
        if score["trivial"] is not None:
            axes.axhline(score["trivial"], color="grey", linestyle=":", label="trivial")
        axes.set(xscale="log", xlabel="events seen of each sequence", ylabel=label)
        axes.set_xticks(events, [str(count) for count in events])
        axes.minorticks_off()
        axes.legend()
    figure.suptitle("Test sequences cut to their first events; shorter ones are whole")
    _save(figure, run_dir, "events_seen")


def _times(run_dir: Path, predictions: pa.Table, bins: int = 20) -> None:
    import numpy as np

    observed, median = (
        pc.list_flatten(predictions[name]).to_numpy() for name in ("target_time", "median_time")
    )
    shown = (observed > 0) & (median > 0) & np.isfinite(median)
    observed, median = observed[shown], median[shown]
    if len(observed) == 0:
        return
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    cells = axes.hexbin(
        median, observed, xscale="log", yscale="log", bins="log", mincnt=1, cmap="Greys"
    )
    figure.colorbar(cells, label="test events")
    # Of the events with about the same prediction, half should have come by then.
    order = np.argsort(median)
    groups = [part for part in np.array_split(order, bins) if len(part)]
    middle = [float(np.median(median[part])) for part in groups]
    half = [float(np.median(observed[part])) for part in groups]
    axes.plot(middle, half, marker="o", label="median of those observed")
    axes.plot(middle, middle, color="grey", linestyle=":", label="calibrated")
    axes.set(xlabel="predicted median of the time until the event", ylabel="observed time")
    axes.legend(loc="upper left")
    _save(figure, run_dir, "times")


def _free_run(run_dir: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(run_dir / "predictions" / "free_run.parquet")
    step, truth, prediction = (table[n].to_numpy() for n in ("step", "truth", "prediction"))
    result = json.loads((run_dir / "metrics.json").read_text())
    lasts = int(result["metrics"]["test/free_run"]["value"])
    figure = Figure(figsize=(10, 7), layout="constrained")
    first, last, error = figure.subplots(3, 1)
    for axes, part, title in (
        (first, slice(0, 200), "First 200 steps of the free run"),
        (last, slice(-200, None), f"Last 200 of {len(step):,} steps"),
    ):
        axes.plot(step[part], truth[part], color="grey", linewidth=3, alpha=0.5, label="truth")
        axes.plot(step[part], prediction[part], label="model, reading its own predictions")
        axes.set(title=title, ylabel="value")
    first.legend(loc="upper right")
    error.semilogy(step, np.abs(prediction - truth).clip(1e-8))
    error.axhline(0.1, color="grey", linestyle=":", label=f"0.1, reached after {lasts:,} steps")
    if lasts == len(step):
        error.lines[-1].set_label("0.1, not reached")
    error.set(xlabel="step", ylabel="absolute error")
    error.legend()
    _save(figure, run_dir, "free_run")

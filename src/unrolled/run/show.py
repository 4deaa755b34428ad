"""What the terminal shows of a run when it is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from unrolled.run.directory import RunDirectory
from unrolled.terminal import Terminal


def show_result(run: RunDirectory) -> None:
    """The table at the end: metric, trivial, ours, best possible; time and run directory."""
    result = run.read_json("metrics.json")
    seconds = result.get("seconds", {})
    if result.get("metrics"):
        show_scores(result["metrics"], result.get("references"))
    for remark in result.get("remarks", []):
        Terminal().print(remark)
    for what, words in result.get("protocol", {}).items():
        Terminal().print(f"{what}: {words}", style="dim")
    times = [f"{what} {s:.1f} s" for what, s in seconds.items() if s is not None]
    steps = result.get("steps", 0)
    Terminal(soft_wrap=True).print(
        f"{steps:,} {'step' if steps == 1 else 'steps'}, "
        f"{result.get('parameters', 0):,} parameters, "
        f"{', '.join(times)}\n{short(run)}"
    )


def show_scores(
    scores: dict[str, Any], references: dict[str, dict[str, float | None]] | None = None
) -> None:
    """A row a metric, between its trivial and its best possible value, beside the references'."""
    references = references or {}
    table = Table(box=SIMPLE_HEAD, pad_edge=False) if references else Table()
    table.add_column("metric", no_wrap=True)
    # A column without a value takes the place of others.
    best = any(score.get("best") is not None for score in scores.values())
    for header in ("trivial", *references, "ours", *(["best possible"] if best else [])):
        table.add_column(header.replace("_", " "), justify="right")
    reasons: dict[str, list[str]] = {}
    for name, score in scores.items():
        if reason := score.get("undefined"):
            reasons.setdefault(reason, []).append(name)
        arrow = {"min": " ↓", "max": " ↑"}.get(score.get("better"), "")
        table.add_row(
            f"{name}{arrow}",
            *(
                _number(value)
                for value in (
                    score.get("trivial"),
                    *(found.get(name) for found in references.values()),
                )
            ),
            _value(score),
            *([_number(score.get("best"))] if best else []),
        )
    Terminal().print(table)
    for reason, names in reasons.items():
        Terminal().print(f"{', '.join(names)}: undefined, {reason}")


def show_runs(rows: list[tuple[list[str], RunDirectory]]) -> None:
    """The summary of a multirun: a row a run, the failed ones with their reason.

    Args:
        rows: What was typed for each run, and its directory.
    """
    common = set.intersection(*(set(typed) for typed, _ in rows)) if len(rows) > 1 else set()
    parents = {short(RunDirectory(run.path.parent)) for _, run in rows}
    table = Table("directory", "run", "state", "result", title=", ".join(sorted(parents)))
    for typed, run in rows:
        status, result = run.status(), run.read_json("metrics.json")
        main = result.get("main_metric")
        score = result.get("metrics", {}).get(main)
        text = f"{main} {_value(score)}" if score else str(status.get("error") or "")
        own = " ".join(part for part in typed if part not in common)
        table.add_row(run.path.name, own, str(status.get("state", "failed")), text)
    Terminal().print(table)


def short(run: RunDirectory) -> str:
    """The path of a run as the user would type it."""
    try:
        return str(run.path.relative_to(Path.cwd()))
    except ValueError:
        return str(run.path)


def _value(score: dict[str, Any]) -> str:
    return "undefined" if score.get("undefined") else _number(score["value"])


def _number(value: float | None) -> str:
    """Four significant digits; whole numbers, which count something, in full."""
    if value is None:
        return "-"
    return f"{int(value):,}" if float(value).is_integer() and value else f"{value:.4g}"

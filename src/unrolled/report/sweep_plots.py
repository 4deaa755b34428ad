"""Pictures of a sweep: each parameter against the metric, and all of them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from unrolled.plain_files import written_beside
from unrolled.terminal import as_seen

P = ParamSpec("P")


def _shown(value: Any) -> str:
    return as_seen(str(value)).replace("\n", "\\n")


@dataclass(frozen=True)
class Column:
    """One parameter of all trials.

    Args:
        name: Its dotted key.
        values: One a trial.
        spread_in_log: Whether the search spread it in its logarithm.
    """

    name: str
    values: list[Any]
    spread_in_log: bool = False

    @property
    def log(self) -> bool:
        """Whether it is drawn in its logarithm: rounding may have made 0 of some values."""
        return self.spread_in_log and self.is_number and min(self.values) > 0

    @property
    def is_number(self) -> bool:
        """Whether the values have an order."""
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values)

    def categories(self) -> list[str]:
        """The different values as texts, in the order in which they came."""
        return list(dict.fromkeys(map(_shown, self.values)))

    def places(self) -> list[float]:
        """From 0 to 1, one a trial."""
        if not self.is_number:
            names = self.categories()
            return [names.index(_shown(v)) / max(1, len(names) - 1) for v in self.values]
        numbers = [math.log(v) if self.log else float(v) for v in self.values]
        low, high = min(numbers), max(numbers)
        return [(number - low) / ((high - low) or 1.0) for number in numbers]

    def marks(self) -> list[tuple[float, str]]:
        """Places with what stands there."""
        if not self.is_number:
            names = self.categories()
            return [(i / max(1, len(names) - 1), name) for i, name in enumerate(names)]
        different = sorted(set(zip(self.places(), self.values, strict=True)))
        if len(different) <= 6:
            return [(place, f"{value:.4g}") for place, value in different]
        low, high = min(self.values), max(self.values)
        steps = [i / 4 for i in range(5)]
        return [
            (s, f"{(low * (high / low) ** s if self.log else low + (high - low) * s):.3g}")
            for s in steps
        ]


def _as_they_are(draw: Callable[P, None]) -> Callable[P, None]:
    """Make a function that draws show texts as they are: `$x$` is no formula."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> None:
        with rc_context({"text.parse_math": False}):
            draw(*args, **kwargs)

    return drawn


@_as_they_are
def plot_slices(path: Path, columns: list[Column], scores: list[float], metric: str) -> None:
    """A panel a parameter, a point a trial; later trials are darker."""
    figure = Figure(figsize=(max(4.5, 3.0 * len(columns)), 3.4), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    order = list(range(len(scores)))
    for panel, column in zip(panels, columns, strict=True):
        if column.is_number:
            panel.scatter(column.values, scores, c=order, cmap="viridis_r", s=18)
            if column.log:
                panel.set_xscale("log")
                # In a range of one or two decades every tick would be written, one over the other.
                panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
                panel.xaxis.set_major_formatter("{x:g}")
                panel.xaxis.set_minor_formatter(NullFormatter())
        else:
            names = column.categories()
            at = [names.index(_shown(value)) for value in column.values]
            panel.scatter(at, scores, c=order, cmap="viridis_r", s=18)
            panel.set_xticks(range(len(names)), names)
            panel.margins(x=0.3)
        panel.set_xlabel(column.name)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(metric)
    with written_beside(path) as partial:
        figure.savefig(partial, dpi=120, format="png")


@_as_they_are
def plot_parallel(
    path: Path, columns: list[Column], scores: list[float], metric: str, *, maximize: bool
) -> None:
    """A line a trial through all its values to its metric; the better, the darker and in front."""
    shown = [*columns, Column(metric, scores)]
    figure = Figure(figsize=(max(5.0, 1.9 * len(shown)), 4.2), layout="constrained")
    axes = figure.subplots()
    # By rank: one trial that went astray would leave all others the same colour.
    worst_first = sorted(range(len(scores)), key=lambda i: scores[i], reverse=not maximize)
    colours = colormaps["viridis_r"]
    places = [column.places() for column in shown]
    for rank, trial in enumerate(worst_first):
        share = rank / max(1, len(scores) - 1)
        axes.plot(
            range(len(shown)), [column[trial] for column in places],
            color=colours(share), alpha=0.25 + 0.75 * share, linewidth=1 + share,
        )  # fmt: skip
    for at, column in enumerate(shown):
        axes.axvline(at, color="black", linewidth=0.8)
        for place, text in column.marks():
            axes.annotate(
                text, (at, place), (4, 0), textcoords="offset points", fontsize=8, va="center",
                bbox={"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.8},
            )  # fmt: skip
    axes.set_xticks(range(len(shown)), [column.name for column in shown], rotation=15)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(shown) - 0.6)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    with written_beside(path) as partial:
        figure.savefig(partial, dpi=120, format="png")

"""Metrics that have no value: NaN in the program, and a sentence that says why.

AUROC of targets that are all of one class, a mean over nothing: no number is right there, and each
that a library puts in its place (torchmetrics: 0) reads as a result.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

NOTHING = "there is nothing to judge"
"""The reason of a mean over no targets."""
_TOLD = re.compile(r"\b(meaningless|undefined|not defined)\b")
"""Words by which torchmetrics warns that the number it returns has no meaning."""


def compute_each(
    metrics: Iterable[tuple[str, Metric]],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The values of metrics by name, and of those without a value the reason.

    A class of ours says by its attribute `undefined` when its value is NaN. For the others the
    warning counts by which torchmetrics takes back the number that it returns.

    Args:
        metrics: Name and metric.

    Returns:
        The values, NaN where there is none; and the reasons by name.
    """
    values: dict[str, Tensor] = {}
    reasons: dict[str, str] = {}
    for name, metric in metrics:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = metric.compute()
        told = [str(w.message) for w in caught if _TOLD.search(str(w.message))]
        for other in caught:
            if "before the ``update`` method" not in str(other.message) and not told:
                warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        # A metric of several values names them itself.
        parts: dict[str, Any] = value if isinstance(value, dict) else {name: value}
        for part, number in parts.items():
            values[part] = torch.full_like(number, math.nan) if told else number
            reason = told[0] if told else why_not(metric, float(number))
            if reason is not None:
                reasons[part] = reason
    return values, reasons


def why_not(metric: Metric, value: float) -> str | None:
    """Why a metric's value is not defined; None where it is."""
    if math.isfinite(value):
        return None
    if math.isnan(value):
        return str(getattr(metric, "undefined", NOTHING))
    return "it is beyond the largest number"

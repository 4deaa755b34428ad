"""A metric without a value is NaN and says why; no number takes its place."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryAUROC

from unrolled.metrics.at_k import (
    CoverageAtK,
    MRRAtK,
    NDCGAtK,
    PopularityAtK,
    RankedQueries,
    RecallAtK,
    UnseenShare,
)
from unrolled.metrics.binary import AUROC, AveragePrecision
from unrolled.metrics.calibration import Scaled
from unrolled.metrics.counting import ErrorRate, Mistakes
from unrolled.metrics.forecast import MeanLogLikelihood, TimeMAE, TimeRMSE, TypeAccuracy
from unrolled.metrics.log_loss import LogLoss
from unrolled.metrics.perplexity import Perplexity, TopErrorRate
from unrolled.metrics.undefined import NOTHING, compute_each

NO_ITEM = "no target is an item of the training log"
NOT_RECOMMENDED = f"nothing was recommended: {NO_ITEM}"


def why(metric: Metric) -> str | None:
    values, reasons = compute_each([("m", metric)])
    assert math.isnan(float(values["m"])) == ("m" in reasons)
    return reasons.get("m")


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), max_size=30))
def test_ranking_metrics_have_a_value_where_both_classes_are_and_only_there(
    items: list[tuple[float, int]],
) -> None:
    scores = torch.tensor([score for score, _ in items], dtype=torch.float64)
    labels = torch.tensor([label for _, label in items], dtype=torch.int64)
    auroc, precision = AUROC(), AveragePrecision()
    for metric in (auroc, precision):
        if items:
            metric.update(scores, labels)
    ones, count = int(labels.sum()), len(items)
    if 0 < ones < count:
        assert why(auroc) is None
        assert float(auroc.compute()) == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    else:
        assert why(auroc) == (f"all {count} targets are {labels[0]}" if count else NOTHING)
    if ones:
        expected = average_precision_score(labels, scores)
        assert why(precision) is None
        assert float(precision.compute()) == pytest.approx(expected, abs=1e-5)
    else:
        assert why(precision) == (f"none of {count} targets is 1" if count else NOTHING)


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (ErrorRate(), NOTHING),
        (LogLoss(), NOTHING),
        (Scaled(LogLoss(), 2.0), NOTHING),
        (Perplexity(), NOTHING),
        (TopErrorRate(), NOTHING),
        (MeanLogLikelihood(), NOTHING),
        (TypeAccuracy(), NOTHING),
        (TimeMAE(), NOTHING),
        (TimeRMSE(), NOTHING),
        (MeanMetric(), NOTHING),
        (RecallAtK(20), NO_ITEM),
        (MRRAtK(20), NO_ITEM),
        (NDCGAtK(20), NO_ITEM),
        (UnseenShare(), NOTHING),
        (CoverageAtK(torch.tensor([False, True])), NOT_RECOMMENDED),
        (PopularityAtK(torch.tensor([0, 3])), NOT_RECOMMENDED),
    ],
)
@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_a_mean_over_nothing_is_undefined(metric: Any, reason: str) -> None:
    assert why(metric) == reason


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_a_number_of_nothing_is_0() -> None:
    values, reasons = compute_each([("mistakes", Mistakes()), ("targets", RankedQueries())])
    assert {name: float(value) for name, value in values.items()} == {"mistakes": 0, "targets": 0}
    assert reasons == {}


def test_recall_over_targets_that_are_all_unseen_is_undefined_and_0_where_they_are_misses() -> None:
    seen, of_all = RecallAtK(20), RecallAtK(20, unseen_missed=True)
    for metric in (seen, of_all):
        metric.update(torch.empty(0, dtype=torch.int64), torch.tensor(3))
    assert why(seen) == NO_ITEM
    assert (why(of_all), float(of_all.compute())) == (None, 0.0)


def test_what_torchmetrics_takes_back_by_a_warning_is_undefined_too() -> None:
    metric = BinaryAUROC()
    metric.update(torch.tensor([0.2, 0.7]), torch.tensor([0, 0]))
    reason = why(metric)
    assert reason is not None
    assert reason.startswith("No positive samples in targets")


def test_a_value_beyond_all_numbers_is_none() -> None:
    metric = Perplexity()
    metric.update(torch.tensor([[-1e6, 0.0]]), torch.tensor([0]))
    _, reasons = compute_each([("perplexity", metric)])
    assert reasons == {"perplexity": "it is beyond the largest number"}

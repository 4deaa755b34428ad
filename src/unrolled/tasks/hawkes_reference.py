"""The classical reference for point processes: a Hawkes process fitted by maximum likelihood.

The intensity of type m is `mu_m + sum_(n, d) a[m, n, d] d sum_j exp(-d (t - t_j))` over types n,
decays d, and the events j of type n so far. With fixed decays, several for each pair of types, the
log-likelihood is concave in mu and a, and the EM algorithm (Veen & Schoenberg 2008) climbs to its
maximum without a step size and without leaving the positive numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.data.store import JaggedSequences
from unrolled.metrics.forecast import Forecast
from unrolled.synthetic.hawkes import excitation, flat_events
from unrolled.tasks.judge import judge_predictions

LARGEST_NUM_TYPES = 64
"""With more types there is no such reference: it has parameters for each pair of them."""
MOST_VALUES = 8_000_000
"""It is fitted to the first training sequences, as many as have so many events times decays times
types together: about 100,000 events of 20 types."""
DECAYS_AT = (0.1, 0.4, 0.7, 0.95)
"""Quantiles of the gaps in training whose inverses are the decays."""
ITERATIONS = 200


@dataclass(frozen=True)
class Steps:
    """Events but the first of each sequence, and the past of each.

    Args:
        past: `sum_j exp(-decay (t - t_j))` over the past by decay and type, right after the event
            before; `[event, decay, type]`.
        gaps: Time since the event before, `[event]`.
        types: `[event]`, ids.
    """

    past: Tensor
    gaps: Tensor
    types: Tensor


@dataclass(frozen=True)
class HawkesFit:
    """A fitted Hawkes process.

    Args:
        background: mu, `[type]`, events of each type per unit of time.
        offspring: a, `[type, decay, type]`.
        decays: `[decay]`, per unit of time.
        min_gap: A shorter time between two events counts as this one.
        max_gap: Means are of the time until the event or until this, whichever is earlier.
    """

    background: Tensor
    offspring: Tensor
    decays: Tensor
    min_gap: float
    max_gap: float

    def forecast(self, steps: Steps) -> Forecast:
        """What the process says of events."""
        gaps = steps.gaps.clamp(min=self.min_gap)
        # Right after the event before: what each decay adds to the intensity of each type.
        caused = torch.einsum("edn,mdn,d->emd", steps.past, self.offspring, self.decays)
        at_gap = torch.exp(-gaps.unsqueeze(1) * self.decays)
        intensities = self.background + torch.einsum("emd,ed->em", caused, at_gap)
        total = intensities.sum(1).log()
        chosen = intensities.gather(1, steps.types.unsqueeze(1)).squeeze(1).log()
        all_types = caused.sum(1)

        low, high = torch.full_like(gaps, 1e-3 * self.min_gap), torch.full_like(gaps, self.max_gap)
        for _ in range(40):
            middle = (low * high).sqrt()
            early = self.expected(all_types, middle) < math.log(2)
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)

        # With the survival function S, the mean is the integral of S, and the probability of a type
        # that of its intensity times S.
        grid = self._grid()
        expected = torch.stack([self.expected(all_types, end.expand_as(gaps)) for end in grid], 1)
        survival = torch.exp(-expected)
        mean = torch.trapezoid(survival, grid, dim=1)
        falling = torch.exp(-self.decays.unsqueeze(1) * grid)
        while_waiting = torch.trapezoid(survival.unsqueeze(1) * falling, grid, dim=2)
        kinds = self.background * mean.unsqueeze(1)
        kinds = kinds + torch.einsum("emd,ed->em", caused, while_waiting)
        return Forecast(
            total - self.expected(all_types, gaps), chosen - total, kinds.argmax(1), low, mean
        )

    def _grid(self) -> Tensor:
        """Times from 0 to `max_gap`, closest where the fastest decay is."""
        start = min(1e-2 / float(self.decays.max()), 1e-3 * self.max_gap)
        ratio = torch.linspace(0, 1, 160, dtype=self.decays.dtype)
        return F.pad(start * (self.max_gap / start) ** ratio, (1, 0))

    def expected(self, all_types: Tensor, gaps: Tensor) -> Tensor:
        """The compensator: events expected within `gaps`, `[event]`.

        Args:
            all_types: What each decay adds to the intensity of all types together right after the
                event before, `[event, decay]`.
            gaps: `[event]`.
        """
        risen = -torch.expm1(-gaps.unsqueeze(1) * self.decays) / self.decays
        return self.background.sum() * gaps + (all_types * risen).sum(1)


def hawkes_reference(
    train: JaggedSequences,
    test: JaggedSequences,
    metrics: dict[str, Any],
    num_types: int,
    min_gap: float,
    max_gap: float,
) -> dict[str, float]:
    """The metrics of a Hawkes process that was fitted to the training sequences, by name.

    Args:
        train: Sequences whose target is the next event.
        test: Of the same types.
        metrics: By name; they take a `Forecast` and `[event, 2]`.
        num_types: Ids of types, padding and unknown included; `LARGEST_NUM_TYPES` at most.
        min_gap: A shorter time between two events counts as this one.
        max_gap: Means are of the time until the event or until this, whichever is earlier.
    """
    num_events = MOST_VALUES // (len(DECAYS_AT) * num_types)
    sample = next(_blocks(train, num_events))
    fit = fit_hawkes(*sample, num_types, min_gap, max_gap)
    parts, targets = [], []
    for block in _blocks(test, num_events // 10):
        steps = steps_of(*block, fit.decays, num_types)
        parts.append(fit.forecast(steps))
        targets.append(torch.stack([steps.types.double(), steps.gaps], 1))
    whole = Forecast(*(torch.cat(values) for values in zip(*parts, strict=True)))
    return judge_predictions(metrics, whole, torch.cat(targets))


def fit_hawkes(
    ids: Tensor, gaps: Tensor, longest: int, num_types: int, min_gap: float, max_gap: float
) -> HawkesFit:
    """The Hawkes process of highest likelihood.

    Args:
        ids: `[event]`, types; sequence after sequence.
        gaps: Time since the event before, `[event]`; infinite at the start of a sequence.
        longest: Events of the longest sequence.
        num_types: Ids are below it.
        min_gap: A shorter time between two events counts as this one.
        max_gap: Means are of the time until the event or until this, whichever is earlier.
    """
    waited = gaps[gaps.isfinite()]
    quantiles = torch.quantile(waited, torch.tensor(DECAYS_AT, dtype=torch.float64))
    decays = 1 / quantiles.clamp(min=min_gap)
    steps = steps_of(ids, gaps, longest, decays, num_types)
    waited = steps.gaps.clamp(min=min_gap).unsqueeze(1)

    # The intensity of a type is linear in these; the last one is the background's.
    left = torch.exp(-waited * decays)
    parts = (steps.past * (decays * left).unsqueeze(2)).flatten(1)
    x = torch.cat([parts, torch.ones_like(waited)], 1)
    over = (steps.past * (1 - left).unsqueeze(2)).flatten(1)
    exposure = torch.cat([over, waited], 1).sum(0).clamp(min=1e-12)
    counts = torch.bincount(steps.types, minlength=num_types)
    of_type = torch.split(x[steps.types.argsort(stable=True)], counts.tolist())
    weights = counts.double().clamp(min=1).unsqueeze(1) / (x.shape[1] * exposure)
    for _ in range(ITERATIONS):
        for kind, mine in enumerate(of_type):
            if len(mine):
                weights[kind] *= (1 / (mine @ weights[kind])) @ mine / exposure
    # No type has the probability 0: each counts as if it came once more by chance. Padding is none.
    background = weights[:, -1] + 1 / exposure[-1]
    background[0] = 0
    offspring = torch.where((counts > 0).unsqueeze(1), weights[:, :-1], 0)
    offspring = offspring.view(num_types, len(decays), num_types)
    return HawkesFit(background, offspring, decays, min_gap, max_gap)


def steps_of(ids: Tensor, gaps: Tensor, longest: int, decays: Tensor, num_types: int) -> Steps:
    """The events that come next, and the past of each; arguments as of `fit_hawkes`."""
    sums = excitation(F.one_hot(ids, num_types).double(), gaps, decays, longest)
    next_one = gaps.isfinite().nonzero()[:, 0]
    return Steps(sums[next_one - 1], gaps[next_one], ids[next_one])


def _blocks(source: JaggedSequences, num_events: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Whole sequences of about `num_events` events together, as `flat_events` gives them."""
    ends = (source.lengths + 1).cumsum(0)
    start = 0
    while start < len(source):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, before + num_events, right=True)))
        yield flat_events(source, start, stop)
        start = stop

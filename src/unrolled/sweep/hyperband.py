"""W&B's early termination: which trials stop because others are better.

The rule is that of W&B's sweep engine as it is since 2024 (`hyperband_stop_runs` of `sweeps` 0.3.0,
after Li et al., Hyperband, https://arxiv.org/abs/1603.06560):

- A trial's history is the metric's values in the order in which they were logged, without those
  that are not finite. Its length, not the number of optimizer steps, is the iteration.
- Bands are at the iterations `min_iter * eta^k`, or, with `max_iter` and `s`, at
  `max_iter / eta^k` for k from 1 to `s`, as whole numbers. Band 5 judges the fifth value.
- A band's threshold is the value that, of the `n` trials that have come so far (those too that
  are over), `int(n / eta)` are better than.
- A running trial is judged at the last band that it has reached: it stops if its value there is
  worse than the threshold; without `strict`, if its best value so far is worse.

`tests/sweep/test_wandb_engine.py` holds the equality. Optuna's HyperbandPruner is another rule: it
gives each trial one of several bands by its number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from unrolled.sweep.sections import EarlyTerminate

MOST_BANDS = 100


def bands(rule: EarlyTerminate) -> list[int]:
    """The iterations, counted from 1, at which trials are judged, in their order."""
    # Step by step, as W&B's engine does: a power would round differently.
    found: list[int] = []
    if rule.max_iter is not None and rule.s is not None:
        band = float(rule.max_iter)
        for _ in range(rule.s):
            band /= rule.eta
            found.append(int(band))
    else:
        assert rule.min_iter is not None
        band = rule.min_iter
        for _ in range(MOST_BANDS):
            found.append(int(band))
            band *= rule.eta
            if math.isinf(band):
                break
    return sorted({band for band in found if band >= 1})


def should_stop(
    rule: EarlyTerminate, own: Sequence[float], others: Sequence[Sequence[float]], *, maximize: bool
) -> bool:
    """Whether a running trial is to stop.

    Args:
        rule: The sweep file's `early_terminate`.
        own: History of the trial.
        others: Histories of all other trials, whatever became of them.
        maximize: Whether more is better.
    """
    sign = -1.0 if maximize else 1.0
    history = [sign * value for value in own if math.isfinite(value)]
    reached = [band for band in bands(rule) if band <= len(history)]
    if not reached:
        return False
    last = reached[-1] - 1
    there = [history[last]]
    for other in others:
        finite = [sign * value for value in other if math.isfinite(value)]
        if len(finite) > last:
            there.append(finite[last])
    threshold = sorted(there)[int(1.0 / rule.eta * len(there))]
    judged = history[last] if rule.strict else min(history)
    return judged > threshold

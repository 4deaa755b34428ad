"""W&B's early termination: which trials stop because others are better.

The rule is that of W&B's sweep engine (`hyperband_stop_runs` of https://github.com/wandb/sweeps,
after Li et al., Hyperband, https://arxiv.org/abs/1603.06560), in words:

- A trial's history is the metric's values in the order in which they were logged, without those
  that are not finite. Its length, not the number of optimizer steps, is the iteration.
- Iterations are counted from 0: at iteration 5 a trial has six values.
- Brackets are at the iterations `min_iter * eta^k`, or, with `max_iter` and `s`, at
  `max_iter / eta^k` for k from 1 to `s`, as whole numbers.
- A bracket's threshold is the value that, of the `n` trials that have come so far (those too that
  are over), `int(n / eta)` are better than.
- A running trial is judged at the last bracket that it has reached: it stops where its best value
  so far is worse than the threshold; with `strict`, where its value at the bracket is.

Not Optuna's HyperbandPruner, which gives each trial one of several brackets by its number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from unrolled.sweep.space import EarlyTerminate

MOST_BRACKETS = 100


def brackets(rule: EarlyTerminate) -> list[int]:
    """The iterations at which trials are judged, in their order."""
    if rule.max_iter is not None and rule.s is not None:
        below = [rule.max_iter / rule.eta**k for k in range(1, rule.s + 1)]
        return sorted({int(bracket) for bracket in below if bracket >= 1})
    assert rule.min_iter is not None
    return sorted({int(rule.min_iter * rule.eta**k) for k in range(MOST_BRACKETS)})


def should_stop(
    rule: EarlyTerminate, own: Sequence[float], others: Sequence[Sequence[float]], *, maximize: bool
) -> bool:
    """Whether a running trial is to stop.

    Args:
        rule: What the sweep file says.
        own: The history of the trial.
        others: Those of all other trials, whatever became of them.
        maximize: Whether more is better.
    """
    sign = -1.0 if maximize else 1.0
    history = [sign * value for value in own if math.isfinite(value)]
    reached = [bracket for bracket in brackets(rule) if bracket < len(history)]
    if not reached:
        return False
    last = reached[-1]
    there = [history[last]]
    for other in others:
        finite = [sign * value for value in other if math.isfinite(value)]
        if len(finite) > last:
            there.append(finite[last])
    threshold = sorted(there)[int(len(there) / rule.eta)]
    judged = history[last] if rule.strict else min(history)
    return judged > threshold

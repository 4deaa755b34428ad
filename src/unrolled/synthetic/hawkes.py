"""A multivariate Hawkes process with exponential kernels, whose likelihood is known exactly.

The intensity of type m at time t is `mu_m + sum_j a[m, m_j] beta exp(-beta (t - t_j))` over the
events j before t (Hawkes 1971): each event makes others likelier for a while, `a[m, n]` of type m
for each one of type n, in the mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from unrolled.data.log import LogColumns
from unrolled.data.schema import UNKNOWN_ID
from unrolled.data.store import JaggedSequences

_VERSION = 1  # Of the law below: a change makes another store.
_DAYS = 30


def excitation(marks: Tensor, gaps: Tensor, decays: Tensor, longest: int) -> Tensor:
    """Sums over the past of each sequence that decay with time, right after each event.

    `S_i = marks_i + exp(-decay gap_i) S_(i-1)` for all sequences at once, in `log2(longest)`
    passes (the recursion of Ozaki 1979 as a parallel scan).

    Args:
        marks: What each event adds, `[event, channel]`; sequence after sequence.
        gaps: Seconds since the event before, `[event]`; infinite at the start of a sequence.
        decays: `[decay]`, per second.
        longest: Events of the longest sequence.

    Returns:
        `[event, decay, channel]`.
    """
    # At a start no time has passed for what is not there: 0 * inf would be NaN.
    keep = torch.exp(-decays * gaps.unsqueeze(1)).unsqueeze(2)
    sums = marks.unsqueeze(1).expand(-1, len(decays), -1)
    shift = 1
    while shift < longest:
        sums = torch.cat([sums[:shift], sums[shift:] + keep[shift:] * sums[:-shift]])
        keep = torch.cat([keep[:shift], keep[shift:] * keep[:-shift]])
        shift *= 2
    return sums


def flat_events(
    source: JaggedSequences, start: int = 0, stop: int | None = None
) -> tuple[Tensor, Tensor, int]:
    """All events of the sequences `start` to `stop`, sequence after sequence.

    Returns:
        The ids of their types, `[event]` int64; the seconds since the event before, `[event]`
        float64, infinite at the start of a sequence; the events of the longest sequence.
    """
    assert source.times is not None
    assert source.target_feature is not None
    lengths = source.lengths[start:stop] + 1
    first = lengths.cumsum(0) - lengths
    positions = torch.arange(int(lengths.sum()))
    positions += (source.starts[start:stop] - first).repeat_interleave(lengths)
    # The sequences may lie on another device.
    times = source.times[positions.to(source.times.device)].cpu()
    gaps = times.diff(prepend=times[:1])
    gaps[first] = torch.inf
    types = source.columns[source.target_feature]
    ids = types[positions.to(types.device)].cpu().long()
    return ids, gaps, int(lengths.max())


@dataclass(frozen=True, kw_only=True)
class HawkesLog:
    """An event log of sequences from a Hawkes process, all drawn at once from one seed.

    The process of a sequence begins with its first event, and ends after a number of events that
    was drawn beforehand: the end says nothing about the process.

    Args:
        sequences: Number of sequences.
        types: Number of event types.
        min_events: Least events of a sequence; 2 at least, or nothing comes next.
        max_events: Most events of a sequence.
        background: Events a second, of all types, that have no cause.
        branching: Largest eigenvalue of the matrix a: how many events one causes, in the mean over
            the long run. Below 1, or the process would explode.
        decay: Of what an event causes, per second.
        seed: Of the law's parameters and of all draws.
    """

    sequences: PositiveInt = 6_000
    types: PositiveInt = 5
    min_events: Annotated[int, Field(ge=2)] = 20
    max_events: Annotated[int, Field(ge=2)] = 100
    background: PositiveFloat = 0.01
    branching: Annotated[float, Field(ge=0, lt=1)] = 0.8
    decay: PositiveFloat = 0.1
    seed: int = 0

    def columns(self) -> LogColumns:
        """What the columns of the generated log mean."""
        return LogColumns(
            sequence="sequence_id",
            order="time",
            time="time",
            event_type="type",
            categorical=["type"],
            gap=True,
        )

    def fingerprint(self) -> str:
        """A hash of the parameters: they determine the log."""
        parameters = json.dumps({"version": _VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(parameters.encode()).hexdigest()

    def tables(self) -> dict[str, Path | pa.Table | None]:
        """The generated events."""
        return {"events": self.generate(), "labels": None}

    @cached_property
    def rates(self) -> Tensor:
        """The background rates mu, `[type]` per second; they fall by a power law."""
        weight = 1 / torch.arange(1, self.types + 1, dtype=torch.float64)
        return self.background * weight / weight.sum()

    @cached_property
    def offspring(self) -> Tensor:
        """The matrix a, `[type, type]`: how many of the first type one of the second causes."""
        random = np.random.default_rng([self.seed, 0])
        # Few large entries: what comes next depends on what came.
        draws = random.gamma(0.3, size=(self.types, self.types)) + 1e-3
        return torch.from_numpy(draws * self.branching / np.abs(np.linalg.eigvals(draws)).max())

    def generate(self) -> pa.Table:
        """One row an event: `sequence_id, time (seconds), type`."""
        random = np.random.default_rng([self.seed, 1])
        lengths = random.integers(
            self.min_events, max(self.max_events, self.min_events) + 1, self.sequences
        )
        gaps, types = self._draw(random, int(lengths.max()))
        begin = random.random(self.sequences) * _DAYS * 86_400
        times = begin[:, None] + gaps.cumsum(1)
        real = np.arange(times.shape[1]) < lengths[:, None]
        return pa.table(
            {
                "sequence_id": np.repeat(np.arange(self.sequences), lengths),
                "time": times[real],
                "type": types[real],
            }
        )

    def _draw(self, random: np.random.Generator, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Gaps and types, `[sequence, step]`, exactly by Dassios & Zhao (2013).

        Between events the caused part of the intensity falls exponentially, so its next event has
        a distribution function that can be inverted; the next event of all is the earlier one of
        that and of the background's.
        """
        mu, a = self.rates.numpy(), self.offspring.numpy()
        gaps = np.zeros((self.sequences, steps))
        types = np.zeros((self.sequences, steps), dtype=np.int64)
        caused = np.zeros((self.sequences, self.types))
        for step in range(steps):
            if step > 0:
                wait, other = random.exponential(size=(2, self.sequences))
                with np.errstate(divide="ignore"):
                    left = 1 - self.decay * wait / caused.sum(1)
                    # The caused part may end without an event.
                    gap = np.where(left > 0, -np.log(np.maximum(left, 0)) / self.decay, np.inf)
                gaps[:, step] = np.minimum(gap, other / mu.sum())
                caused *= np.exp(-self.decay * gaps[:, step, None])
            cumulative = (mu + caused).cumsum(1)
            drawn = random.random(self.sequences) * cumulative[:, -1]
            types[:, step] = (drawn[:, None] >= cumulative[:, :-1]).sum(1)
            caused += self.decay * a.T[types[:, step]]
        return gaps, types

    def log_likelihood(self, types: Tensor, gaps: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Of the time of each event given all before it, and of its type given that time; nats.

        Args:
            types: `[event]`, 0 .. types - 1; sequence after sequence.
            gaps: Seconds since the event before, `[event]`; infinite at the start of a sequence.
            longest: Events of the longest sequence.

        Returns:
            Two of `[step]`: all events but the first of each sequence.
        """
        beta = self.decay
        one_hot = F.one_hot(types, self.types).double()
        decays = torch.tensor([beta], dtype=torch.float64)
        caused = beta * excitation(one_hot, gaps, decays, longest)[:, 0] @ self.offspring.T
        next_one = (~gaps.isinf()).nonzero()[:, 0]
        gap, before = gaps[next_one], caused[next_one - 1]
        left = torch.exp(-beta * gap)
        intensity = self.rates + before * left.unsqueeze(1)
        expected = self.rates.sum() * gap + before.sum(1) * (1 - left) / beta
        total = intensity.sum(1).log()
        chosen = intensity.gather(1, types[next_one].unsqueeze(1)).squeeze(1).log()
        return total - expected, chosen - total

    def best_possible(
        self, sequences: JaggedSequences, vocabularies: Mapping[str, pa.Array]
    ) -> dict[str, float]:
        """The mean log-likelihoods of the sequences under the law itself.

        In the mean over logs no model has a higher one; on one log of finitely many events chance
        decides within a standard error.

        Args:
            sequences: As read from a store; the best is known where the next event is asked.
            vocabularies: The values of each categorical column in the order of their ids.
        """
        if sequences.target != "next_event":
            return {}
        ids, gaps, longest = flat_events(sequences)
        names = torch.tensor([int(name) for name in vocabularies["type"].to_pylist()])
        time, kind = self.log_likelihood(names[ids - UNKNOWN_ID - 1], gaps, longest)
        return {
            "log_likelihood": float((time + kind).mean()),
            "time_log_likelihood": float(time.mean()),
            "type_log_likelihood": float(kind.mean()),
        }

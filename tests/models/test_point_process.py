"""Heads for the next event: densities that integrate to one, and what is foretold from them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unrolled.models.point_process import ExponentialHead, LogNormalMixtureHead, PointProcessHead

NUM_IDS = 5


def _train_targets() -> Tensor:
    random = torch.Generator().manual_seed(0)
    gaps = torch.randn(500, generator=random, dtype=torch.float64).mul(1.5).sub(1).exp()
    types = torch.randint(2, NUM_IDS, (500,), generator=random)
    return torch.stack([types.double(), gaps], 1)


def _head(kind: type[PointProcessHead], type_hidden: int = 3) -> PointProcessHead:
    torch.manual_seed(1)
    options = {"num_components": 4} if kind is LogNormalMixtureHead else {}
    head = kind(6, NUM_IDS, type_hidden=type_hidden, train_targets=_train_targets(), **options)  # type: ignore[call-arg]
    if head.to_type is not None:
        torch.nn.init.normal_(head.to_type.weight, std=0.5)
    return head.double()


def _outputs(head: PointProcessHead, count: int = 7) -> Tensor:
    random = torch.Generator().manual_seed(2)
    x = torch.randn(count, 6, generator=random, dtype=torch.float64)
    outputs: Tensor = head(x)
    return outputs.detach()


def _grid() -> Tensor:
    # Below min_gap the log-likelihood is that of min_gap; the density itself is not.
    return torch.linspace(-18, 14, 20_001, dtype=torch.float64)


heads = pytest.mark.parametrize("kind", [LogNormalMixtureHead, ExponentialHead])


@heads
def test_the_density_integrates_to_one(kind: type[PointProcessHead]) -> None:
    head = _head(kind)
    _, time, _ = head.split(_outputs(head).unsqueeze(1))
    log_gaps = _grid()
    density = head.log_density(time, log_gaps.expand(len(time), -1)).exp()
    whole = torch.trapezoid(density * log_gaps.exp(), log_gaps, dim=1)
    torch.testing.assert_close(whole, torch.ones_like(whole), rtol=0, atol=1e-6)


@heads
def test_the_distribution_function_is_the_integral_of_the_density(
    kind: type[PointProcessHead],
) -> None:
    head = _head(kind)
    outputs = _outputs(head)
    ends = torch.linspace(0.1, 5, len(outputs), dtype=torch.float64)
    within = head.cumulative(outputs, ends)
    log_gaps = _grid()
    _, time, _ = head.split(outputs.unsqueeze(1))
    density = head.log_density(time, log_gaps.expand(len(time), -1)).exp() * log_gaps.exp()
    before = log_gaps <= ends.log().unsqueeze(1)
    integral = torch.trapezoid(density * before, log_gaps, dim=1)
    # The last cell of the grid is cut off.
    torch.testing.assert_close(within, integral, rtol=0, atol=2e-3)


@heads
def test_half_of_the_events_come_before_the_median(kind: type[PointProcessHead]) -> None:
    head = _head(kind)
    outputs = _outputs(head)
    half = head.cumulative(outputs, head.median(outputs))
    torch.testing.assert_close(half, torch.full_like(half, 0.5), rtol=0, atol=1e-6)


@heads
def test_the_restricted_mean_is_the_integral_of_the_survival_function(
    kind: type[PointProcessHead],
) -> None:
    head = _head(kind)
    outputs = _outputs(head)
    end = torch.tensor(3.0, dtype=torch.float64)
    times = torch.linspace(1e-6, 3, 20_001, dtype=torch.float64)
    survival = 1 - head.cumulative(outputs.unsqueeze(1), times.expand(len(outputs), -1))
    mean = head.restricted_mean(outputs, end.expand(len(outputs)))
    torch.testing.assert_close(mean, torch.trapezoid(survival, times, dim=1), rtol=1e-4, atol=0)
    assert bool((head.expectation(outputs) <= head.long_gap).all())


@heads
@pytest.mark.parametrize("type_hidden", [0, 3])
def test_types_whenever_the_event_comes_are_the_mean_over_its_time(
    kind: type[PointProcessHead], type_hidden: int
) -> None:
    head = _head(kind, type_hidden)
    outputs = _outputs(head)
    log_gaps = torch.linspace(-14, 10, 4_001, dtype=torch.float64)
    _, time, _ = head.split(outputs.unsqueeze(1))
    density = head.log_density(time, log_gaps.expand(len(time), -1)).exp() * log_gaps.exp()
    head.min_gap.fill_(1e-9)
    expected = []
    for kind_id in range(1, NUM_IDS):
        targets = torch.stack([torch.full_like(log_gaps, kind_id), log_gaps.exp()], 1)
        at_all = outputs.unsqueeze(1).expand(-1, len(log_gaps), -1)
        _, given = head.log_likelihood(at_all, targets.expand(len(outputs), -1, -1))
        expected.append(torch.trapezoid(density * given.exp(), log_gaps, dim=1))
    probabilities = head.log_probabilities(outputs).exp()
    assert probabilities[:, 0].tolist() == [0.0] * len(outputs)
    torch.testing.assert_close(probabilities[:, 1:], torch.stack(expected, 1), rtol=0, atol=0.01)
    torch.testing.assert_close(
        probabilities.sum(1), torch.ones(len(outputs), dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_the_mixture_is_that_of_the_paper() -> None:
    head = _head(LogNormalMixtureHead, type_hidden=0)
    outputs = _outputs(head)
    targets = _train_targets()[: len(outputs)]
    logs = _train_targets()[:, 1].log()
    mean, std = float(logs.mean()), float(logs.std(correction=0))
    for row, (kind, gap) in enumerate(targets.tolist()):
        types, parameters = outputs[row, :NUM_IDS], outputs[row, NUM_IDS:].tolist()
        weights = [math.exp(w) for w in parameters[:4]]
        density = 0.0
        for weight, m, s in zip(weights, parameters[4:8], parameters[8:], strict=True):
            scale = (0.1 + math.log1p(math.exp(s))) * std
            z = (math.log(gap) - mean - std * m) / scale
            normal = math.exp(-z * z / 2) / (gap * scale * math.sqrt(2 * math.pi))
            density += weight / sum(weights) * normal
        time_part, type_part = head.log_likelihood(outputs[row], targets[row])
        assert float(time_part) == pytest.approx(math.log(density), abs=1e-9)
        exponentials = types[1:].exp()
        assert float(type_part) == pytest.approx(
            math.log(exponentials[int(kind) - 1] / exponentials.sum()), abs=1e-9
        )


def test_the_exponential_density_is_the_rate_times_the_survival() -> None:
    head = _head(ExponentialHead, type_hidden=0)
    outputs = _outputs(head)
    targets = _train_targets()[: len(outputs)]
    rate = outputs[:, -1].exp() / _train_targets()[:, 1].mean()
    time, _ = head.log_likelihood(outputs, targets)
    torch.testing.assert_close(time, rate.log() - rate * targets[:, 1], rtol=1e-9, atol=1e-9)


@heads
def test_gradients_are_those_of_the_loss(kind: type[PointProcessHead]) -> None:
    head = _head(kind)
    outputs = _outputs(head, 3).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda o: head.loss(o, _train_targets()[:3]), outputs)


@heads
def test_a_head_starts_at_the_frequencies_of_the_types(kind: type[PointProcessHead]) -> None:
    head = _head(kind)
    assert head.to_type is not None
    torch.nn.init.zeros_(head.to_type.weight)
    outputs: Tensor = head(torch.zeros(1, 6, dtype=torch.float64))
    counts = torch.bincount(_train_targets()[:, 0].long(), minlength=NUM_IDS)[1:] + 1.0
    expected = (counts / counts.sum()).double()
    torch.testing.assert_close(
        head.log_probabilities(outputs).exp()[0, 1:], expected, rtol=1e-5, atol=1e-7
    )


@heads
def test_no_time_between_events_counts_as_the_shortest(kind: type[PointProcessHead]) -> None:
    head = _head(kind)
    outputs = _outputs(head, 1)
    shortest = float(_train_targets()[:, 1].min())
    zero, least = (head.loss(outputs, torch.tensor([[2.0, gap]])) for gap in (0.0, shortest))
    assert zero.item() == least.item()
    assert math.isfinite(zero.item())


@heads
def test_a_gap_is_worth_what_its_unit_is(kind: type[PointProcessHead]) -> None:
    # In a unit a thousand times as large the density is a thousand times as high.
    head = _head(kind, type_hidden=0)
    torch.manual_seed(1)
    targets = _train_targets() / torch.tensor([1.0, 1000.0])
    options = {"num_components": 4} if kind is LogNormalMixtureHead else {}
    other = kind(6, NUM_IDS, type_hidden=0, train_targets=targets, **options).double()  # type: ignore[call-arg]
    time, _ = head.log_likelihood(_outputs(head), _train_targets()[:7])
    shifted, _ = other.log_likelihood(_outputs(other), targets[:7])
    torch.testing.assert_close(shifted, time + math.log(1000), rtol=1e-6, atol=1e-6)


def test_negative_gaps_are_refused() -> None:
    targets = torch.tensor([[2.0, 1.0], [3.0, -0.5], [2.0, -2.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"2 of the 3 times .* \(least -2\).*data.source.order"):
        ExponentialHead(4, 5, train_targets=targets)


def test_a_log_without_time_between_events_is_refused() -> None:
    with pytest.raises(ValueError, match="all events of a sequence have the same time"):
        LogNormalMixtureHead(4, 5, train_targets=torch.tensor([[2.0, 0.0], [3.0, 0.0]]))


def test_the_scale_comes_with_the_weights() -> None:
    head = _head(LogNormalMixtureHead)
    bare = LogNormalMixtureHead(6, NUM_IDS, num_components=4, type_hidden=3).double()
    bare.load_state_dict(head.state_dict())
    outputs = _outputs(head)
    assert bare.loss(outputs, _train_targets()[:7]).equal(head.loss(outputs, _train_targets()[:7]))

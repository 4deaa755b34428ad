"""Heads with sampled losses: the formulas for given samples, their limits, and what they learn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from unrolled.models.head import ClassificationHead
from unrolled.models.sampled import NoiseContrastiveHead, SampledHead, SampledSoftmaxHead

HEADS: dict[str, Callable[..., SampledHead]] = {
    "nce": NoiseContrastiveHead,
    "sampled_softmax": SampledSoftmaxHead,
}
SIZE = 3
EXACT = {"rtol": 1e-10, "atol": 1e-10}
law = settings(max_examples=25, deadline=None)


def example(num_classes: int, events: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors `[event, 3]`, targets `[event]` and unequal counts `[class]`."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(events, SIZE, generator=generator, dtype=torch.float64),
        torch.randint(num_classes, (events,), generator=generator),
        torch.randint(0, 50, (num_classes,), generator=generator),
    )


def numbers(head: SampledHead, counts: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, biases and the noise distribution."""
    q = np.maximum(counts.numpy(), 1)
    weight = head.linear.weight.detach().numpy()
    return weight, head.linear.bias.detach().numpy(), q / q.sum()


@law
@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 2**31), st.floats(-2, 9))
def test_nce_equals_its_formula_for_given_noise(
    num_classes: int, k: int, seed: int, log_z: float
) -> None:
    x, targets, counts = example(num_classes, 4, seed)
    head = NoiseContrastiveHead(SIZE, num_classes, k, counts, log_z).double()
    head.log_normalizer.fill_(log_z)
    noise = torch.randint(num_classes, (k,), generator=torch.Generator().manual_seed(seed))
    weight, bias, q = numbers(head, counts)

    def is_data(event: int, label: int) -> float:
        score = math.exp(weight[label] @ x[event].numpy() + bias[label] - log_z)
        return float(score / (score + k * q[label]))

    expected = [
        -math.log(is_data(i, int(targets[i])))
        - sum(math.log(1 - is_data(i, label)) for label in noise.tolist())
        for i in range(4)
    ]
    found = head.sampled_loss(x, targets, noise)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


@law
@given(st.integers(2, 9), st.integers(1, 12), st.integers(0, 2**31))
def test_sampled_softmax_equals_its_formula_for_given_samples(
    num_classes: int, k: int, seed: int
) -> None:
    x, targets, counts = example(num_classes, 4, seed)
    head = SampledSoftmaxHead(SIZE, num_classes, k, counts).double()
    samples = torch.randint(num_classes, (k,), generator=torch.Generator().manual_seed(seed))
    weight, bias, q = numbers(head, counts)
    chance = 1 - (1 - q) ** k
    expected = []
    for i, target in enumerate(targets.tolist()):
        power = np.exp(weight @ x[i].numpy() + bias) / chance
        others = set(samples.tolist()) - {target}
        expected.append(
            math.log(power[target] + sum(power[j] for j in others)) - math.log(power[target])
        )
    found = head.sampled_loss(x, targets, samples)
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_sampled_softmax_with_all_classes_is_the_cross_entropy_with_its_gradient() -> None:
    x, targets, _ = example(6, 20, 0)
    x.requires_grad_()
    # Of 3,000 draws every class is one, and surely so: the correction is zero.
    head = SampledSoftmaxHead(SIZE, 6, 3000).double().train()
    loss = head.loss(head(x), targets)
    full = F.cross_entropy(head.linear(x), targets, reduction="none")
    torch.testing.assert_close(loss, full, **EXACT)
    inputs = [x, head.linear.weight, head.linear.bias]
    for one, other in zip(
        torch.autograd.grad(loss.sum(), inputs),
        torch.autograd.grad(full.sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **EXACT)


def test_the_expected_gradient_of_nce_tends_to_that_of_maximum_likelihood() -> None:
    x, targets, counts = example(5, 12, 1)
    head = NoiseContrastiveHead(SIZE, 5, 1, counts + 5).double()
    q = head.log_probability(torch.arange(5), torch.float64).exp()
    # NCE's limit needs a normalised model: take the scores' own normaliser off, event by event.
    events = [(x[i : i + 1], targets[i : i + 1]) for i in range(len(x))]
    distances = []
    for k in (1, 10, 100, 1000, 10000):
        total, exact = torch.zeros(5, SIZE).double(), torch.zeros(5, SIZE).double()
        for vector, target in events:
            scores = head.linear(vector)
            head.log_normalizer.copy_(scores.logsumexp(-1).detach().squeeze())
            # k times the expectation over one noise class; k enters the formula as the number of
            # samples, so each class stands for all k of them.
            shift = head.log_normalizer + math.log(k) + q.log()
            loss = (
                F.softplus(-(scores - shift)[0, target]).sum()
                + k * (q * F.softplus((scores - shift)[0])).sum()
            )
            total += torch.autograd.grad(loss, head.linear.weight)[0]
            full = F.cross_entropy(head.linear(vector), target)
            exact += torch.autograd.grad(full, head.linear.weight)[0]
        distances.append(float((total - exact).norm() / exact.norm()))
    assert all(later < 0.5 * earlier for earlier, later in itertools.pairwise(distances))
    assert distances[-1] < 1e-3


def test_the_mean_gradient_of_nce_over_drawn_noise_is_the_expected_one() -> None:
    x, targets, counts = example(5, 6, 2)
    k, draws = 4, 1500
    head = NoiseContrastiveHead(SIZE, 5, k, counts + 5).double()
    torch.manual_seed(0)
    losses = (head.sampled_loss(x, targets, head.draw()).sum() for _ in range(draws))
    drawn = torch.stack([torch.autograd.grad(v, head.linear.weight)[0] for v in losses])
    log_q = head.log_probability(torch.arange(5), torch.float64)
    logits = head.linear(x) - math.log(k) - log_q
    own = logits[torch.arange(6), targets]
    loss = F.softplus(-own).sum() + k * (log_q.exp() * F.softplus(logits)).sum()
    (expected,) = torch.autograd.grad(loss, head.linear.weight)
    # Four and a half standard errors: one seed in ten thousand would miss it.
    assert bool(((drawn.mean(0) - expected).abs() < 4.5 * drawn.std(0) / math.sqrt(draws)).all())


@pytest.mark.parametrize("name", HEADS)
def test_classes_are_drawn_as_often_as_they_are_counted(name: str) -> None:
    torch.manual_seed(0)
    counts = torch.tensor([6, 0, 1, 2])
    head = HEADS[name](SIZE, 4, 20000, counts)
    shares = torch.bincount(head.draw(), minlength=4) / 20000
    # One that never occurs is drawn as if it had once.
    assert shares.tolist() == pytest.approx([0.6, 0.1, 0.1, 0.2], abs=0.015)
    log_q = head.log_probability(torch.arange(4), torch.float64)
    assert log_q.exp().tolist() == pytest.approx([0.6, 0.1, 0.1, 0.2], rel=1e-12)
    uniform = HEADS[name](SIZE, 4, 20000)
    assert (torch.bincount(uniform.draw()) / 20000).tolist() == pytest.approx([0.25] * 4, abs=0.015)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_evaluation_and_predictions_are_those_of_the_full_softmax(
    name: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    head = HEADS[name](SIZE, 7, 2).double()
    full = ClassificationHead(SIZE, 7).double()
    full.linear.load_state_dict(head.linear.state_dict())
    x = torch.randn(*shape, SIZE, dtype=torch.float64)
    targets = torch.randint(7, shape)
    outputs, scores = head(x), full(x)
    assert torch.equal(head.predict(outputs), full.predict(scores))
    torch.testing.assert_close(head.expectation(outputs), full.expectation(scores), **EXACT)
    assert head.loss(outputs, targets).shape == shape
    head.eval()
    expected = full.loss(scores.view(-1, 7), targets.flatten()).view(shape)
    torch.testing.assert_close(head.loss(outputs, targets), expected, **EXACT)


@pytest.mark.parametrize("name", HEADS)
def test_a_model_starts_from_the_frequencies_of_its_classes(name: str) -> None:
    head = HEADS[name](SIZE, 3, class_counts=torch.tensor([1, 2, 7]))
    probabilities = head.linear(torch.zeros(1, SIZE)).exp()
    assert probabilities[0].tolist() == pytest.approx([0.1, 0.2, 0.7])


@pytest.mark.parametrize("counts", [torch.ones(3), torch.tensor([1, -1, 2, 3])])
def test_counts_that_fit_no_distribution_are_refused(counts: Tensor) -> None:
    with pytest.raises(ValueError, match=r"it must be \[4\], one count for each class"):
        SampledSoftmaxHead(SIZE, 4, class_counts=counts)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("counted", [False, True])
def test_a_small_model_learns_the_entropy_of_its_data(name: str, counted: bool) -> None:
    torch.manual_seed(0)
    num_classes, contexts = 30, 3
    truth = (2.0 * torch.randn(contexts, num_classes)).softmax(-1)
    entropy = float(-(truth * truth.log()).sum(-1).mean())
    counts = (truth.mean(0) * 10000).long() if counted else None
    head = HEADS[name](contexts, num_classes, 25, class_counts=counts)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    steps = 400
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    context = torch.arange(contexts).repeat(150)
    x = F.one_hot(context, contexts).float()
    for _ in range(steps):
        targets = torch.multinomial(truth[context[:contexts]], 150, replacement=True).T.flatten()
        optimizer.zero_grad()
        head.loss(head(x), targets).mean().backward()
        optimizer.step()
        schedule.step()
    log_p = head.linear(torch.eye(contexts)).log_softmax(-1)
    reached = float(-(truth * log_p).sum(-1).mean().detach())
    assert entropy <= reached < 1.03 * entropy
    if name == "nce":
        # The scores have learned to be normalised by themselves.
        assert float(head.linear(torch.eye(contexts)).logsumexp(-1).detach().abs().max()) < 0.2


def test_a_learned_normaliser_finds_what_the_scores_add_up_to() -> None:
    fixed = NoiseContrastiveHead(SIZE, 4, log_normalizer=9.0)
    assert "log_normalizer" not in dict(fixed.named_parameters())
    learned = NoiseContrastiveHead(1, 4, 50, log_normalizer=2.0, learn_normalizer=True)
    learned.linear.requires_grad_(False)
    learned.linear.weight.zero_()
    optimizer = torch.optim.Adam([learned.log_normalizer], lr=0.1)
    torch.manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        loss = learned.loss(torch.zeros(40, 1), torch.arange(4).repeat(10)).mean()
        loss.backward()
        optimizer.step()
    # The biases are log probabilities: what they stand for adds up to one.
    assert float(learned.log_normalizer.detach()) == pytest.approx(0.0, abs=0.1)

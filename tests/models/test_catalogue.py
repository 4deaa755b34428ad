"""Heads over a catalogue: their formulas for given negatives, and what they draw."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.models.catalogue import CatalogueHead, SoftmaxHead
from unrolled.models.negatives import (
    BPRMaxHead,
    GBCEHead,
    ItemSampledSoftmaxHead,
    NegativesHead,
)

IDS, SIZE = 9, 4
COUNTS = torch.tensor([0, 3, 40, 20, 10, 5, 5, 1, 0])
HEADS: dict[str, type[CatalogueHead]] = {
    "softmax": SoftmaxHead,
    "sampled": ItemSampledSoftmaxHead,
    "bpr_max": BPRMaxHead,
    "gbce": GBCEHead,
}
EXACT = {"rtol": 1e-9, "atol": 1e-9}
TARGETS = torch.tensor([2, 5, 8, 4])
NEGATIVES = torch.tensor([2, 3, 5, 7])


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    table = nn.Embedding(IDS, SIZE, padding_idx=0)
    return HEADS[name](SIZE, IDS, table, COUNTS, **options).double()


def vectors() -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(4, SIZE, generator=random, dtype=torch.float64)


def dense(head: CatalogueHead, x: Tensor) -> Tensor:
    """All scores by their definition, with a loop over events and items."""
    weight = head.items.weight.detach()
    bias = torch.zeros(IDS) if head.bias is None else head.bias.detach()
    rows = []
    for v in x:
        row = []
        for item, w in enumerate(weight):
            score = float(v @ w)
            if head.scale is not None:
                score *= head.scale / float(v.norm() * w.norm().clamp(min=1e-12))
            row.append(score + float(bias[item]))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("scale", [None, 7.0])
@pytest.mark.parametrize("bias", [False, True])
def test_scores_and_the_loss_in_evaluation_are_exact(
    name: str, scale: float | None, bias: bool
) -> None:
    head = make(name, scale=scale, bias=bias, dropout=0.5).eval()
    expected = dense(head, vectors())
    scores = head.all_scores()(vectors())
    torch.testing.assert_close(scores[:, 2:], expected[:, 2:], **EXACT)
    assert bool(scores[:, :2].isneginf().all())
    losses = F.cross_entropy(expected[:, 2:], TARGETS - 2, reduction="none")
    torch.testing.assert_close(head.loss(vectors(), TARGETS), losses, **EXACT)
    assert head.predict(vectors()).tolist() == (2 + expected[:, 2:].argmax(1)).tolist()
    mean = expected[:, 2:].softmax(1) @ torch.arange(2.0, IDS, dtype=torch.float64)
    torch.testing.assert_close(head.expectation(vectors()), mean, **EXACT)


def test_the_exact_head_trains_on_the_cross_entropy() -> None:
    head = make("softmax", scale=None)
    expected = F.cross_entropy(dense(head, vectors())[:, 2:], TARGETS - 2, reduction="none")
    torch.testing.assert_close(head.train().loss(vectors(), TARGETS), expected, **EXACT)


@pytest.mark.parametrize("correction", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("in_batch", [False, True])
def test_sampled_softmax_equals_its_formula(correction: float, in_batch: bool) -> None:
    head = make(
        "sampled", bias=True, correction=correction, num_negatives=3, in_batch=in_batch,
        negatives_power=0.5,
    )  # fmt: skip
    scores = dense(head, vectors())
    popularity = COUNTS.double().clamp(min=1)
    popularity[:2] = 0
    q = popularity.sqrt() / popularity.sqrt().sum()
    p = popularity / popularity.sum()
    missing = (1 - q) ** 3 * ((1 - p) ** len(TARGETS) if in_batch else 1)
    corrected = scores - correction * (1 - missing).clamp(min=1e-300).log()
    losses = head.sampled_loss(head.vectors(vectors()), TARGETS, NEGATIVES)
    for event, target in enumerate(TARGETS.tolist()):
        others = [corrected[event, n] for n in NEGATIVES.tolist() if n != target]
        own = corrected[event, target]
        total = sum(math.exp(s - own) for s in [own, *others])
        assert float(losses[event].detach()) == pytest.approx(math.log(total), rel=1e-9)


def test_with_all_items_drawn_sampled_softmax_is_the_cross_entropy() -> None:
    head = make("sampled", num_negatives=100_000)
    x = vectors()
    exact = head.eval().loss(x, TARGETS)
    torch.testing.assert_close(head.train().loss(x, TARGETS), exact, rtol=1e-6, atol=1e-6)


def test_bpr_max_equals_its_formula() -> None:
    head = make("bpr_max", penalty=0.3, bias=True)
    scores = dense(head, vectors())
    losses = head.sampled_loss(head.vectors(vectors()), TARGETS, NEGATIVES)
    for event, target in enumerate(TARGETS.tolist()):
        r = [float(scores[event, n]) for n in NEGATIVES.tolist() if n != target]
        own = float(scores[event, target])
        total = sum(math.exp(v) for v in r)
        share = [math.exp(v) / total for v in r]
        won = sum(s / (1 + math.exp(v - own)) for s, v in zip(share, r, strict=True))
        penalty = sum(s * v * v for s, v in zip(share, r, strict=True))
        expected = -math.log(won) + 0.3 * penalty
        assert float(losses[event].detach()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_gbce_equals_its_formula(calibration: float) -> None:
    head = make("gbce", calibration=calibration)
    scores = dense(head, vectors())
    losses = head.sampled_loss(head.vectors(vectors()), TARGETS, NEGATIVES)
    for event, target in enumerate(TARGETS.tolist()):
        r = [float(scores[event, n]) for n in NEGATIVES.tolist() if n != target]
        a = len(r) / (IDS - 2 - 1)
        b = a * (calibration * (1 - 1 / a) + 1 / a)
        sigmoid = 1 / (1 + math.exp(-float(scores[event, target])))
        expected = -b * math.log(sigmoid) - sum(math.log(1 - 1 / (1 + math.exp(-v))) for v in r)
        assert float(losses[event].detach()) == pytest.approx(expected / (len(r) + 1), rel=1e-9)


@pytest.mark.parametrize("name", ["sampled", "bpr_max", "gbce"])
def test_losses_have_the_gradients_of_small_differences(name: str) -> None:
    head = make(name, bias=True, scale=2.0)

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        head.items = nn.Embedding(IDS, SIZE).double()
        del head.items.weight, head.bias
        head.items.weight, head.bias = weight, bias
        losses: Tensor = head.sampled_loss(head.vectors(x), TARGETS, NEGATIVES)
        return losses

    weight = torch.randn(IDS, SIZE, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(IDS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (vectors().requires_grad_(), weight, bias))


def test_negatives_are_drawn_by_a_power_of_their_popularity_and_are_all_different() -> None:
    torch.manual_seed(0)
    head = make("sampled", num_negatives=1, negatives_power=0.5)
    drawn = torch.cat([head.draw(TARGETS) for _ in range(4000)])
    share = torch.bincount(drawn, minlength=IDS) / len(drawn)
    expected = COUNTS.clamp(min=1).sqrt()
    expected[:2] = 0
    assert share.tolist() == pytest.approx((expected / expected.sum()).tolist(), abs=0.03)
    assert share[:2].tolist() == [0, 0]
    many = make("sampled", num_negatives=500, negatives_power=0.0).draw(TARGETS)
    assert many.tolist() == list(range(2, IDS))
    both = make("sampled", num_negatives=1, in_batch=True).draw(TARGETS)
    assert set(TARGETS.tolist()) <= set(both.tolist())


@pytest.mark.parametrize("name", HEADS)
def test_padding_and_unknown_items_learn_nothing(name: str) -> None:
    head = make(name, tied=False).train()
    for _ in range(5):
        head.loss(vectors(), TARGETS).sum().backward()
    assert head.items.weight.grad[:2].abs().sum() == 0
    assert head.items.weight.grad[2:].abs().sum() > 0


def test_a_tied_head_has_no_item_vectors_of_its_own() -> None:
    table = nn.Embedding(IDS, SIZE)
    tied = SoftmaxHead(SIZE, IDS, table)
    assert tied.items is table
    assert sum(p.numel() for p in tied.parameters()) == IDS * SIZE
    mapped = SoftmaxHead(SIZE + 3, IDS, table)
    assert mapped.all_scores()(torch.randn(2, SIZE + 3)).shape == (2, IDS)
    assert sum(p.numel() for p in mapped.parameters()) == IDS * SIZE + (SIZE + 4) * SIZE
    own = SoftmaxHead(SIZE + 3, IDS, table, tied=False)
    assert own.items.weight.shape == (IDS, SIZE + 3)


def test_a_bias_starts_at_the_log_of_the_items_share() -> None:
    head = make("softmax", bias=True)
    assert head.bias is not None
    counts = COUNTS[2:].clamp(min=1)
    assert head.bias[2:].exp().tolist() == pytest.approx((counts / counts.sum()).tolist())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^tied=true needs the target among the embedded"):
        SoftmaxHead(SIZE, IDS)
    with pytest.raises(ValueError, match=r"^there is no item in the catalogue"):
        SoftmaxHead(SIZE, 2, tied=False)
    with pytest.raises(ValueError, match=r"it must be \[9\], one count for each class"):
        SoftmaxHead(SIZE, IDS, None, torch.ones(4), tied=False)


def test_dropout_is_of_the_vector_and_only_in_training() -> None:
    head = make("softmax", scale=None, dropout=0.5)
    x = torch.ones(1, 1000, dtype=torch.float64)
    assert head.eval().vectors(x).eq(1).all()
    assert set(head.train().vectors(x).flatten().tolist()) == {0.0, 2.0}


def test_negatives_heads_are_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        NegativesHead(SIZE, IDS, None, None, 1, 0.0, False, None, False, 0.0)  # type: ignore[abstract]


@pytest.mark.parametrize("name", HEADS)
def test_losses_and_scores_are_the_same_under_mixed_precision(name: str) -> None:
    head = make(name).float()
    x = vectors().float().requires_grad_()
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss, scores = head.loss(x, TARGETS), head.all_scores()(x.detach())
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        found.append((loss, gradient, scores))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)

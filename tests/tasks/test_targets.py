"""Which target belongs to which output: steps without one and padding take no part in anything."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled.data.batch import NO_TARGET, SequenceBatch
from unrolled.data.schema import Numeric, Schema
from unrolled.models.embedding import DenseEmbedding
from unrolled.models.head import BinaryHead, ClassificationHead, Head, OrdinalHead
from unrolled.models.readout import EveryStep, Last
from unrolled.models.real_head import RealHead
from unrolled.models.recurrent import GRU
from unrolled.models.sequence import SequenceModel
from unrolled.tasks.base import SequenceTask
from unrolled.tasks.classification import Classification
from unrolled.tasks.regression import Regression
from unrolled.tasks.targets import asked, judged, last_targets, repeated_targets, trained_on

law = settings(max_examples=25, deadline=None)
NONE, NAN = NO_TARGET, float("nan")


def make_task(head: Head, every_step: bool, **options: Any) -> SequenceTask:
    schema = Schema((Numeric("x"),), 3)
    readout = EveryStep(4) if every_step else Last(4)
    model = SequenceModel(DenseEmbedding(schema), GRU(1, 4), readout, head)
    kind = Regression if isinstance(head, RealHead) else Classification
    return kind(model, partial(torch.optim.SGD, lr=0.1), **options)


def batch_of(targets: Tensor, lengths: list[int]) -> SequenceBatch:
    x = torch.zeros(len(lengths), max(lengths))
    return SequenceBatch({"x": x}, torch.tensor(lengths), targets, torch.arange(len(lengths)))


def test_the_last_target_is_that_of_the_last_step_that_has_one() -> None:
    targets = torch.tensor([[1, 2, 0], [1, NONE, NONE], [NONE, 2, NONE], [NONE, NONE, NONE]])
    assert last_targets(targets).tolist() == [0, 1, 2, NONE]
    real = torch.tensor([[0.5, NAN], [NAN, NAN]])
    assert torch.equal(last_targets(real).isnan(), torch.tensor([False, True]))
    assert float(last_targets(real)[0]) == 0.5


def test_a_repeated_target_stands_at_every_step_and_not_past_the_end() -> None:
    lengths = torch.tensor([3, 1])
    assert repeated_targets(torch.tensor([2, 1]), lengths, 3).tolist() == [
        [2, 2, 2],
        [1, NONE, NONE],
    ]
    real = repeated_targets(torch.tensor([0.5, 1.5]), lengths, 3)
    assert real[0].tolist() == [0.5, 0.5, 0.5]
    assert float(real[1, 0]) == 1.5
    assert real[1, 1:].isnan().all()


def test_the_four_ways_that_targets_and_outputs_meet() -> None:
    lengths = torch.tensor([3, 2])
    one, many = torch.tensor([1, 2]), torch.tensor([[0, NONE, 2], [1, NONE, NONE]])
    vectors = torch.arange(4.0).view(2, 2)
    steps = torch.arange(12.0).view(2, 3, 2)
    assert trained_on(vectors, one, lengths).tolist() == [1, 2]
    assert trained_on(vectors, many, lengths).tolist() == [2, 1]
    assert trained_on(steps, one, lengths).tolist() == [[1, 1, 1], [2, 2, NONE]]
    assert trained_on(steps, many, lengths) is many

    def lists(pair: tuple[Tensor, Tensor]) -> tuple[Any, Any]:
        return pair[0].tolist(), pair[1].tolist()

    assert lists(judged(vectors, one, lengths)) == ([[0, 1], [2, 3]], [1, 2])
    assert lists(judged(vectors, many, lengths)) == ([[0, 1], [2, 3]], [2, 1])
    # A repeated target is judged at the last real step.
    assert lists(judged(steps, one, lengths)) == ([[4, 5], [8, 9]], [1, 2])
    assert lists(judged(steps, many, lengths)) == ([[0, 1], [4, 5], [6, 7]], [0, 2, 1])
    assert asked(one, True).tolist() == asked(one, False).tolist() == [1, 2]
    assert asked(many, True).tolist() == [0, 2, 1]
    assert asked(many, False).tolist() == [2, 1]


@pytest.mark.parametrize("none", [NONE, NAN])
def test_a_sequence_without_any_target_is_not_judged(none: float) -> None:
    targets = torch.tensor([[none, none], [0, 1]])
    lengths = torch.tensor([2, 2])
    vectors, steps = torch.arange(2.0).view(2, 1), torch.arange(4.0).view(2, 2, 1)
    outputs, left = judged(vectors, targets, lengths)
    assert (outputs.tolist(), left.tolist()) == ([[1.0]], [1])
    outputs, left = judged(steps, targets, lengths)
    assert (outputs.tolist(), left.tolist()) == ([[2.0], [3.0]], [0, 1])
    assert asked(targets, False).tolist() == [1]


HEADS = {
    "classification": lambda: ClassificationHead(4, 3),
    "ordinal": lambda: OrdinalHead(4, 3),
    "binary": lambda: BinaryHead(4, 3),
    "real": lambda: RealHead(4, 1.0, 2.0),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("every_step", [True, False])
def test_a_sequence_without_any_target_costs_nothing(name: str, every_step: bool) -> None:
    task = make_task(HEADS[name](), every_step)
    none = NAN if name == "real" else NONE
    targets = torch.tensor([[none, none], [none, 1]])
    size = task.model.head.linear.out_features
    outputs = torch.randn(2, 2, size) if every_step else torch.randn(2, size)
    outputs.requires_grad_()
    losses = task.losses(outputs, batch_of(targets, [2, 2]))
    assert float(losses.detach()[0]) == 0.0
    assert float(losses.detach()[1]) > 0.0
    losses.sum().backward()
    assert outputs.grad is not None
    assert not outputs.grad[0].any()
    assert outputs.grad.isfinite().all()
    assert outputs.grad[1].any()


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, SequenceBatch, Tensor]:
    """A head, a batch with holes in its targets, and outputs for every step."""
    name = draw(st.sampled_from(sorted(HEADS)))
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    none = NAN if name == "real" else NONE
    targets = torch.full((len(lengths), max(lengths)), none)
    for row, length in enumerate(lengths):
        for step in range(length):
            targets[row, step] = draw(st.sampled_from([0, 1, 2, none]))
    torch.manual_seed(draw(st.integers(0, 99)))
    outputs = 2 * torch.randn(*targets.shape, 4)
    return name, batch_of(targets if name == "real" else targets.long(), lengths), outputs


@law
@given(cases(), st.sampled_from(["mean", "sum"]))
def test_the_loss_is_that_of_a_loop_over_sequences_and_steps(
    case: tuple[str, SequenceBatch, Tensor], over_time: Literal["mean", "sum"]
) -> None:
    name, batch, encoded = case
    task = make_task(HEADS[name](), True, over_time=over_time)
    head = task.model.head
    outputs = head(encoded).detach()
    expected = []
    for row, length in enumerate(batch.lengths.tolist()):
        each = [
            float(head.loss(outputs[row, step][None], batch.targets[row, step][None]))
            for step in range(length)
            if batch.targets[row, step] in (0, 1, 2)
        ]
        expected.append(sum(each) / (max(len(each), 1) if over_time == "mean" else 1))
    losses = task.losses(outputs, batch)
    assert losses.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@law
@given(cases(), st.sampled_from(["mean", "sum"]))
def test_what_stands_in_the_padding_changes_neither_loss_nor_gradient(
    case: tuple[str, SequenceBatch, Tensor], over_time: Literal["mean", "sum"]
) -> None:
    name, batch, encoded = case
    task = make_task(HEADS[name](), True, over_time=over_time)
    past = torch.arange(encoded.shape[1]) >= batch.lengths.unsqueeze(1)
    results = []
    for garbage in (0.0, 1e4):
        x = encoded.masked_fill(past.unsqueeze(-1), garbage).requires_grad_()
        loss = task.losses(task.model.head(x), batch).sum()
        gradients = torch.autograd.grad(loss, [x, *task.model.head.parameters()])
        assert not gradients[0][past].any()
        results.append([loss.detach(), *gradients])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("over_time", ["mean", "sum"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_training_step_reduces_over_time_then_over_sequences(
    reduction: Any, over_time: Any
) -> None:
    torch.manual_seed(0)
    task = make_task(ClassificationHead(4, 3), True, over_time=over_time, loss_reduction=reduction)
    targets = torch.tensor([[0, 2, 1], [1, NONE, NONE]])
    batch = batch_of(targets, [3, 1])
    task._trainer = type("Trainer", (), {"world_size": 1, "accumulate_grad_batches": 1})()
    losses = -task(batch).log_softmax(-1).detach()
    first = [float(losses[0, t, k]) for t, k in enumerate([0, 2, 1])]
    second = float(losses[1, 0, 1])
    total = sum(first) / (3 if over_time == "mean" else 1) + second
    expected = total / 2 if reduction == "mean" else total
    assert float(task.training_step(batch, 0).detach()) == pytest.approx(expected, rel=1e-5)


def test_a_repeated_target_costs_the_mean_over_its_real_steps() -> None:
    torch.manual_seed(0)
    task = make_task(RealHead(4, 0.0, 1.0), True)
    outputs = torch.tensor([[[1.0], [3.0]], [[2.0], [99.0]]])
    losses = task.losses(outputs, batch_of(torch.tensor([2.0, 5.0]), [2, 1]))
    assert losses.tolist() == [1.0, 9.0]

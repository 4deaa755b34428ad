"""Gradients of gradients are right or refused, of everything that a config can choose."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from parts import (
    CLASSES,
    ENCODERS,
    HEADS,
    INPUT,
    READOUTS,
    REGULARIZERS,
    make_encoder,
    make_head,
    make_targets,
)
from torch import Tensor, nn

from unrolled.models.cells.mufuru import MuFuRu
from unrolled.models.linear_recurrent import constant_recurrence
from unrolled.models.min_gru import linear_recurrence
from unrolled.models.softmax_loss import chunked_cross_entropy, sampled_cross_entropy
from unrolled.run.experiment import build

REFUSED = re.compile("derivative for .* is not implemented|not differentiable")
LENGTHS = torch.tensor([4, 2, 4])


def gradient(function: Callable[[], Tensor], inputs: list[Tensor], graph: bool) -> list[Tensor]:
    torch.manual_seed(3)  # The same dropout and the same samples each time.
    # Of a plain sum: the incoming gradient is constant, so that every second derivative comes from
    # what the function has saved.
    found = torch.autograd.grad(
        function().sum(), inputs, create_graph=graph, materialize_grads=True
    )
    return list(found)


def assert_second_derivatives_are_right_or_refused(
    function: Callable[[], Tensor], inputs: list[Tensor]
) -> bool:
    """By central differences along a random direction; False where torch refuses them."""
    generator = torch.Generator().manual_seed(5)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in inputs]
    try:
        first = gradient(function, inputs, graph=True)
        along = sum((g * d).sum() for g, d in zip(first, direction, strict=True))
        assert isinstance(along, Tensor)
        second = torch.autograd.grad(along, inputs, materialize_grads=True)
    except RuntimeError as error:
        if not REFUSED.search(str(error)):
            raise
        return False
    step = 1e-5
    shifted = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(inputs, direction, strict=True):
                p.add_(d, alpha=sign * step)
        shifted.append(gradient(function, inputs, graph=False))
        with torch.no_grad():
            for p, d in zip(inputs, direction, strict=True):
                p.sub_(d, alpha=sign * step)
    for found, above, below in zip(second, *shifted, strict=True):
        torch.testing.assert_close(found, (above - below) / (2 * step), rtol=1e-5, atol=1e-7)
    return True


@pytest.mark.parametrize("name", ENCODERS)
def test_of_every_encoder_they_are_right_or_refused(name: str) -> None:
    torch.manual_seed(1)
    encoder = make_encoder(name).double()
    lengths = torch.tensor([4, 4]) if name == "recurrent_attention" else LENGTHS
    x = torch.randn(len(lengths), 4, INPUT, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(len(lengths), 4, encoder.output_size, dtype=torch.float64)  # type: ignore[arg-type]
    inputs = [x, *(p for p in encoder.parameters() if p.requires_grad)]
    right = assert_second_derivatives_are_right_or_refused(
        lambda: (encoder(x, lengths)[0] * weights).square(), inputs
    )
    # torch refuses them of its attention.
    assert right == (name != "transformer")


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "reset_before_gru", "mufuru", "min_gru"])
def test_in_single_precision_they_are_those_of_double_precision_or_refused(name: str) -> None:
    torch.manual_seed(1)
    encoder = make_encoder(name, hidden_size=160)
    x = torch.randn(96, 4, INPUT)
    found = []
    for dtype in (torch.float64, torch.float32):
        encoder.to(dtype)
        inputs = [x.to(dtype).requires_grad_(), *encoder.parameters()]
        try:
            first = gradient(
                lambda i=inputs: encoder(i[0], torch.full((96,), 4))[0].square(), inputs, True
            )
            norm = torch.stack([g.square().sum() for g in first]).sum()
            found.append(torch.autograd.grad(norm, inputs, materialize_grads=True))
        except RuntimeError as error:
            # oneDNN's layer.
            if dtype == torch.float64 or not REFUSED.search(str(error)):
                raise
            return
    for double, single in zip(*found, strict=True):
        assert (single - double).norm() <= 1e-2 * double.norm()


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", HEADS)
def test_of_every_heads_loss_they_are_right(name: str, training: bool) -> None:
    torch.manual_seed(1)
    head = make_head(name).double().train(training)
    x = torch.randn(6, INPUT, dtype=torch.float64, requires_grad=True)
    targets = make_targets(name, 6)
    targets = targets.double() if name == "real" else targets
    inputs = [x, *(p for p in head.parameters() if p.requires_grad)]
    assert assert_second_derivatives_are_right_or_refused(
        lambda: head.loss(head(x), targets), inputs
    )


@pytest.mark.parametrize("name", [*READOUTS, *REGULARIZERS])
def test_of_every_read_out_and_penalty_they_are_right(name: str) -> None:
    torch.manual_seed(1)
    if name in READOUTS:
        part: nn.Module = build(READOUTS[name], "readout", input_size=INPUT)
    else:
        part = build(REGULARIZERS[name], "regularizer")
    part.double()
    x = torch.randn(3, 4, INPUT, dtype=torch.float64, requires_grad=True)
    assert assert_second_derivatives_are_right_or_refused(
        lambda: part(x, LENGTHS).square(), [x, *part.parameters()]
    )


def test_of_hand_written_gradients_they_are_right_of_every_input() -> None:
    torch.manual_seed(2)

    def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    def check(function: Callable[..., Tensor], *inputs: Tensor) -> None:
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)

    check(linear_recurrence, draw(2, 5, 2), draw(2, 5, 2), draw(2, 2))
    check(constant_recurrence, draw(2), draw(1, 5, 2), draw(1, 2))
    complex_type = torch.complex128
    check(constant_recurrence, draw(2, dtype=complex_type), draw(1, 3, 2, dtype=complex_type))
    targets = torch.tensor([1, 3, 0])
    check(lambda x, w, b: chunked_cross_entropy(x, w, b, targets), draw(3, 2), draw(4, 2), draw(4))
    left_out = (torch.tensor([0, 2]), torch.tensor([3, 1]))
    check(
        lambda x, own, w, b: sampled_cross_entropy(x, own, w, b, left_out),
        draw(3, 2), draw(3), draw(4, 2), draw(4),
    )  # fmt: skip


def test_inputs_that_depend_on_each_other_count_once() -> None:
    torch.manual_seed(4)
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1, 2, 0])

    def function(x: Tensor) -> Tensor:
        weight = x.square() + x.flip(0)
        return chunked_cross_entropy(x, weight, weight.sum(1), targets)

    assert torch.autograd.gradgradcheck(function, (x,))
    # The choices of its second step are made of the state that they are applied to.
    encoder = MuFuRu(1, 2).double()
    x = torch.randn(1, 3, 1, dtype=torch.float64, requires_grad=True)
    assert assert_second_derivatives_are_right_or_refused(
        lambda: encoder(x, torch.tensor([3]))[0].square(), [x, *encoder.parameters()]
    )


def test_the_catalogue_is_as_wide_as_its_heads_in_these_tests() -> None:
    assert {name for name in HEADS if name.startswith("item_")} >= {"item_softmax", "item_gbce"}
    assert make_head("item_softmax").num_classes == CLASSES

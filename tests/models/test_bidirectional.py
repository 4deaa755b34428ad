"""Both directions put together, and the language model's shift, against a hand computation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unrolled.models.bidirectional import LanguageModelShift
from unrolled.models.cells.peephole_lstm import PeepholeLSTM
from unrolled.models.compose import Recurrence
from unrolled.models.recurrent import GRU, LSTM, RNN
from unrolled.models.unroll import Unroll

KINDS: dict[str, Callable[..., Any]] = {
    "lstm": LSTM, "gru": GRU, "rnn": RNN, "peepholes": PeepholeLSTM
}  # fmt: skip


class Digits(nn.Module):
    """Writes the step down as the next digit: the output spells what has been read."""

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return 10 * h + x


def spelling(input_size: int) -> Unroll:
    return Unroll([Recurrence(Digits(), input_size)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_directions_are_added_averaged_or_side_by_side(kind: str, layers: int) -> None:
    torch.manual_seed(0)
    x, lengths = torch.randn(3, 5, 2), torch.tensor([5, 2, 4])
    outputs = {}
    for merge in ("concat", "sum", "mean"):
        torch.manual_seed(1)
        encoder = KINDS[kind](2, 3, layers, bidirectional=True, merge=merge)
        outputs[merge], _ = encoder(x, lengths)
        assert encoder.output_size == outputs[merge].shape[-1] == (6 if merge == "concat" else 3)
    forward, backward = outputs["concat"].split(3, -1)
    torch.testing.assert_close(outputs["sum"], forward + backward)
    torch.testing.assert_close(outputs["mean"], (forward + backward) / 2)


@pytest.mark.parametrize("merge", ["sum", "mean"])
def test_one_direction_has_nothing_to_put_together(merge: Any) -> None:
    for kind in KINDS.values():
        encoder = kind(2, 3, merge=merge)
        assert encoder.output_size == 3
        assert encoder(torch.ones(1, 2, 2), torch.tensor([2]))[0].shape == (1, 2, 3)


def test_both_directions_by_hand() -> None:
    cells = [Recurrence(Digits(), 1) for _ in range(2)]
    encoder = Unroll(cells, bidirectional=True, merge="sum")
    x = torch.tensor([[1.0, 2, 3], [4, 5, 9]]).unsqueeze(-1)
    outputs, state = encoder(x, torch.tensor([3, 2]))
    expected = torch.tensor([[1.0 + 321, 12 + 32, 123 + 3], [4 + 54, 45 + 5, 0]])
    assert torch.equal(outputs.squeeze(-1), expected)
    assert isinstance(state, Tensor)
    assert torch.equal(state.squeeze(-1), torch.tensor([[123.0, 45], [321, 54]]))


def test_the_shift_by_hand() -> None:
    encoder = LanguageModelShift(1, spelling)
    x = torch.tensor([[1.0, 2, 3], [4, 5, 9], [6, 9, 9]]).unsqueeze(-1)
    outputs, (past, future) = encoder(x, torch.tensor([3, 2, 1]))
    before = torch.tensor([[0.0, 1, 12], [0, 4, 0], [0, 0, 0]])
    after = torch.tensor([[32.0, 3, 0], [5, 0, 0], [0, 0, 0]])
    assert torch.equal(outputs, torch.stack([before, after], -1))
    assert isinstance(past, Tensor)
    assert isinstance(future, Tensor)
    assert past.flatten().tolist() == [123.0, 45, 6]
    assert future.flatten().tolist() == [321.0, 54, 6]
    summed = LanguageModelShift(1, spelling, merge="sum")
    assert torch.equal(summed(x, torch.tensor([3, 2, 1]))[0].squeeze(-1), before + after)


@pytest.mark.parametrize("kind", KINDS)
def test_no_output_of_the_shift_sees_its_own_step_but_all_others(kind: str) -> None:
    torch.manual_seed(0)
    encoder = LanguageModelShift(2, partial(KINDS[kind], num_layers=2), hidden_size=3).double()
    assert not encoder.causal
    assert encoder.output_size == 6
    lengths = torch.tensor([5, 3])
    x = torch.randn(2, 6, 2, dtype=torch.float64, requires_grad=True)
    outputs, _ = encoder(x, lengths)
    for k, length in enumerate(lengths.tolist()):
        for t in range(6):
            (gradient,) = torch.autograd.grad(outputs[k, t].sum(), x, retain_graph=True)
            seen = {(int(b), int(s)) for b, s in gradient.any(-1).nonzero()}
            others = {(k, s) for s in range(length) if s != t}
            assert seen == (others if t < length else set())
    assert torch.count_nonzero(outputs[1, 3:]) == 0


def test_the_shift_refuses_encoders_that_see_the_future_and_single_steps() -> None:
    with pytest.raises(ValueError, match=r"^the shift needs an encoder that reads forward only$"):
        LanguageModelShift(2, partial(LSTM, bidirectional=True))
    with pytest.raises(ValueError, match=r"^a bidirectional encoder can't go step by step"):
        LanguageModelShift(2, LSTM).step(torch.zeros(1, 2))

"""Every part that a config can choose learns in mixed precision as in single precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from parts import ENCODERS, HEADS, INPUT, make_encoder, make_head, make_targets
from torch import Tensor, nn

from unrolled.models import recurrent
from unrolled.models.recurrent import LSTM


def assert_learns_alike(parts: list[nn.Module], loss: Callable[[], Tensor]) -> None:
    """Gradients are finite, of the weights' type, and nearly those of single precision."""
    found = []
    for mixed in (False, True):
        for part in parts:
            part.zero_grad()
        torch.manual_seed(2)  # The same samples both times.
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            value = loss()
        value.float().sum().backward()
        parameters = [p for part in parts for p in part.parameters() if p.grad is not None]
        assert all(p.grad.dtype == p.dtype == torch.float32 for p in parameters)  # type: ignore[union-attr]
        found.append(torch.cat([p.grad.flatten() for p in parameters]))  # type: ignore[union-attr]
    single, mixed_one = found
    assert bool(mixed_one.isfinite().all())
    assert (mixed_one - single).norm() < 0.1 * single.norm()


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_learns_in_mixed_precision(name: str) -> None:
    torch.manual_seed(1)
    encoder, below = make_encoder(name), nn.Linear(INPUT, INPUT)
    lengths = torch.tensor([4, 4] if name == "recurrent_attention" else [4, 2])
    x = torch.randn(2, 4, INPUT)
    # What comes from a linear map below is in 16 bits already.
    assert_learns_alike([encoder, below], lambda: encoder(below(x), lengths)[0].square())


@pytest.mark.parametrize("name", HEADS)
def test_every_head_learns_in_mixed_precision(name: str) -> None:
    torch.manual_seed(1)
    head, below = make_head(name), nn.Linear(INPUT, INPUT)
    x, targets = torch.randn(6, INPUT), make_targets(name, 6)
    assert_learns_alike([head, below], lambda: head.loss(head(below(x)), targets))
    with torch.autocast("cpu", torch.bfloat16):
        head.eval()
        assert bool(head.loss(head(below(x)), targets).isfinite().all())


def test_where_onednn_has_no_lstm_in_16_bits_it_is_computed_in_32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(1)
    encoder = LSTM(INPUT, 4)
    x, lengths = torch.randn(3, 5, INPUT).bfloat16(), torch.tensor([5, 3, 1])
    whole, (h, c) = encoder(x.float(), lengths)
    monkeypatch.setattr(recurrent, "_lstm_takes_bfloat16", lambda: False)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, state = encoder(x, lengths)
        again, _ = encoder.step(x[:, 0], (h.bfloat16(), c.bfloat16()))
    assert torch.equal(mixed, whole)
    assert torch.equal(state[0], h)
    assert again.dtype == torch.float32


def test_the_probe_of_onednn_says_what_torchs_layer_does() -> None:
    layer = nn.LSTM(INPUT, 4, batch_first=True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            layer(torch.randn(2, 3, INPUT))[0].float().sum().backward()
        works = True
    except RuntimeError:
        works = False
    assert recurrent._lstm_takes_bfloat16() is works


@pytest.mark.parametrize("first", ["in training", "in inference"])
def test_to_look_for_bfloat16_changes_no_random_state_and_answers_alike(first: str) -> None:
    look = recurrent._lstm_takes_bfloat16
    look.cache_clear()
    answer = look()
    look.cache_clear()
    before = torch.get_rng_state()
    with torch.inference_mode(first == "in inference"):
        assert look() == answer
    assert torch.equal(torch.get_rng_state(), before)

"""The causal Transformer: the published equations in numpy, torch's own layer, and its limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unrolled.models.transformer import Transformer

TOLERANCE = {"rtol": 0.0, "atol": 1e-10}


def weights_of(layer: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


def norm(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    weight, bias = weights_of(layer)
    centred = x - x.mean(-1, keepdims=True)
    return weight * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + bias


def linear(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    weight, bias = weights_of(layer)
    return x @ weight.T + bias


def attention(layer: Any, x: np.ndarray) -> np.ndarray:
    """Attention(Q, K, V) = softmax(Q K' / sqrt(d)) V for each head and step, by loops."""
    size, heads = x.shape[1], layer.num_heads
    width = size // heads
    query, key, value = np.split(linear(layer.query_key_value, x), 3, -1)
    result = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for t in range(len(x)):
            scores = key[: t + 1, part] @ query[t, part] / np.sqrt(width)
            shares = np.exp(scores) / np.exp(scores).sum()
            result[t, part] = shares @ value[: t + 1, part]
    return linear(layer.attention_out, result)


def published(encoder: Transformer, x: np.ndarray) -> np.ndarray:
    h = linear(encoder.project, x) + encoder.positions.detach().numpy()[: len(x)]
    for layer in encoder.layers:
        first, _, _, second = layer.feedforward

        def feedforward(v: np.ndarray, first: Any = first, second: Any = second) -> np.ndarray:
            return linear(second, np.maximum(linear(first, v), 0.0))

        if layer.norm == "pre":
            h = h + attention(layer, norm(layer.attention_norm, h))
            h = h + feedforward(norm(layer.feedforward_norm, h))
        else:
            h = norm(layer.attention_norm, h + attention(layer, h))
            h = norm(layer.feedforward_norm, h + feedforward(h))
    return norm(encoder.final_norm, h)


@pytest.mark.parametrize("place", ["pre", "post"])
@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (1, 2), (3, 2)])
def test_outputs_equal_the_published_equations(place: Any, layers: int, heads: int) -> None:
    torch.manual_seed(layers + heads)
    encoder = Transformer(3, 6, layers, heads, feedforward_size=9, norm=place).double()
    for parameter in encoder.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    x = torch.randn(2, 11, 3, dtype=torch.float64)
    outputs, _ = encoder(x, torch.tensor([11, 11]))
    for i in range(2):
        expected = torch.from_numpy(published(encoder, x[i].numpy()))
        torch.testing.assert_close(outputs[i], expected, **TOLERANCE)


@pytest.mark.parametrize("place", ["pre", "post"])
def test_a_layer_equals_torchs_own_with_the_same_weights(place: Any) -> None:
    torch.manual_seed(0)
    ours = Transformer(3, 6, 1, 2, feedforward_size=9, norm=place).double().layers[0]
    torchs = nn.TransformerEncoderLayer(6, 2, 9, 0.0, norm_first=place == "pre", batch_first=True)
    torchs = torchs.double()
    names = {
        "self_attn.in_proj_weight": "query_key_value.weight",
        "self_attn.in_proj_bias": "query_key_value.bias",
        "self_attn.out_proj.weight": "attention_out.weight",
        "self_attn.out_proj.bias": "attention_out.bias",
        "linear1.weight": "feedforward.0.weight",
        "linear1.bias": "feedforward.0.bias",
        "linear2.weight": "feedforward.3.weight",
        "linear2.bias": "feedforward.3.bias",
        "norm1.weight": "attention_norm.weight",
        "norm1.bias": "attention_norm.bias",
        "norm2.weight": "feedforward_norm.weight",
        "norm2.bias": "feedforward_norm.bias",
    }
    torchs.load_state_dict({name: ours.state_dict()[own] for name, own in names.items()})
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    later = torch.ones(7, 7, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x, None, None)[0], torchs(x, src_mask=later), **TOLERANCE)


def test_a_sequence_longer_than_the_limit_is_refused() -> None:
    encoder = Transformer(2, 4, max_length=5)
    message = r"^a sequence of 6 steps is longer than max_length=5$"
    with pytest.raises(ValueError, match=message):
        encoder(torch.zeros(1, 6, 2), torch.tensor([6]))
    # It is the sequences that count, not their padding.
    outputs, _ = encoder(torch.zeros(2, 9, 2), torch.tensor([5, 2]))
    assert outputs.shape == (2, 9, 4)


def test_a_carried_state_forgets_its_oldest_steps_when_there_is_no_more_room() -> None:
    torch.manual_seed(0)
    encoder = Transformer(2, 4, max_length=5)
    x = torch.randn(2, 5, 2)
    _, state = encoder(x, torch.tensor([5, 2]))
    outputs, after = encoder.step(torch.randn(2, 2), state)
    assert torch.isfinite(outputs).all()
    # The first sequence lost its first step, the second nothing.
    assert after[-1].sum(-1).tolist() == [[5, 3]]
    for layer, kept in zip(state[:-1], after[:-1], strict=True):
        torch.testing.assert_close(kept[:, 0, -5:-1], layer[:, 0, 1:])
    with pytest.raises(ValueError, match=r"^a sequence of 6 steps is longer than max_length=5$"):
        encoder(torch.zeros(2, 6, 2), torch.tensor([6, 1]), state)
    # A window that takes all the room leaves nothing of the state.
    full, _ = encoder(x, torch.tensor([5, 5]), state)
    torch.testing.assert_close(full, encoder(x, torch.tensor([5, 5]))[0])


def test_a_state_never_grows_past_the_limit_however_unequal_the_chunks() -> None:
    torch.manual_seed(0)
    encoder = Transformer(2, 4, max_length=8).double()
    state: tuple[Tensor, ...] | None = None
    for _ in range(3):
        _, state = encoder(torch.randn(2, 2, 2).double(), torch.tensor([2, 1]), state)
    _, state = encoder(torch.randn(2, 2, 2).double(), torch.tensor([2, 2]), state)
    assert state[-1].sum(-1).tolist() == [[8, 5]]
    # Rows that begin again, as sessions do in a stream, while others go on.
    for _ in range(20):
        full = state[-1][0].sum(-1) == 8
        state = tuple(s.masked_fill(full.view(1, 2, *[1] * (s.dim() - 2)), 0) for s in state)
        _, state = encoder.step(torch.randn(2, 2).double(), state)
        assert all(s.shape[2] <= 9 for s in state)


def test_heads_have_to_divide_the_hidden_size() -> None:
    with pytest.raises(ValueError, match=r"^num_heads=3 does not divide hidden_size=4$"):
        Transformer(2, 4, num_heads=3)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    encoder = Transformer(3, 4, dropout=0.5)
    x, lengths = torch.randn(4, 6, 3), torch.tensor([6, 3, 5, 1])
    assert not torch.equal(encoder(x, lengths)[0], encoder(x, lengths)[0])
    encoder.eval()
    assert torch.equal(encoder(x, lengths)[0], encoder(x, lengths)[0])

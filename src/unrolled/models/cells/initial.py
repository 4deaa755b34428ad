"""How the weights of the cells start."""

from __future__ import annotations

from torch import Tensor, nn

from unrolled.models.state import State


def draw_uniform(cell: nn.Module, init_range: float | None) -> None:
    """Draw all weights and biases from U(-init_range, init_range).

    Args:
        cell: Linear maps, and parameters of its own.
        init_range: None takes 1 / sqrt(fan_in) for each linear map, torch's default, and
            1 / sqrt(size) for the cell's own parameters.
    """
    for module in cell.modules():
        for parameter in module.parameters(recurse=False):
            fan_in = module.in_features if isinstance(module, nn.Linear) else parameter.shape[-1]
            bound = fan_in**-0.5 if init_range is None else init_range
            nn.init.uniform_(parameter, -bound, bound)


def zero_state(batch_size: int, size: int, parts: int, like: Tensor) -> State:
    """Zeros, `[batch, size]`: a tensor, or a tuple of several."""
    zeros = like.new_zeros(batch_size, size)
    return zeros if parts == 1 else (zeros,) * parts

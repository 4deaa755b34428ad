"""The states of all random generators of this process, as a checkpoint can hold them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """The states of torch (CPU and this process's GPU), Python and NumPy: tensors and numbers.

    A checkpoint that is loaded with `weights_only=True` has no place for NumPy's arrays.
    """
    kind, keys, *rest = np.random.get_state()
    assert isinstance(keys, np.ndarray)
    states = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Take up what `random_states` gave."""
    torch.set_rng_state(states["torch"].cpu())
    version, numbers, normal = states["python"]
    random.setstate((version, tuple(numbers), normal))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())

"""Every encoder, head and read-out that a config can choose, small, for tests over all of them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from unrolled.models.head import Head
from unrolled.run.conf import conf_dir
from unrolled.run.experiment import build

INPUT = 3
CLASSES = 9


def choices(group: str) -> dict[str, dict[str, Any]]:
    """The config nodes of a group by name, without interpolations."""
    found = {}
    for path in sorted((conf_dir() / group).glob("*.yaml")):
        node = yaml.safe_load(path.read_text())
        # Some files hold one named part, as those of regularizers do.
        if "_target_" not in node:
            node = next(iter(node.values()), None)
        if node:
            found[path.stem] = node
    return found


ENCODERS = choices("model")
HEADS = choices("head")
READOUTS = choices("readout")
REGULARIZERS = choices("regularizer")


def make_encoder(name: str, **options: Any) -> nn.Module:
    """An encoder of `INPUT` channels with a few units."""
    if "hidden_size" in inspect.signature(_target(ENCODERS[name])).parameters:
        options = {"hidden_size": 4, **options}
    if name == "recurrent_attention":
        # With one glimpse no gradient is stopped on its way.
        options |= {"glimpse_size": 2, "patch_size": 4, "place_size": 4, "num_glimpses": 1}
    encoder: nn.Module = build(ENCODERS[name], "model", input_size=INPUT, **options)
    return encoder


def make_head(name: str) -> Head:
    """A head on vectors of `INPUT` channels."""
    takes = inspect.signature(_target(HEADS[name])).parameters
    targets = make_targets(name, 50)
    supplied = {
        "input_size": INPUT,
        "num_classes": 2 if name in ("binary", "focal") else CLASSES,
        "class_counts": torch.arange(1, (2 if name in ("binary", "focal") else CLASSES) + 1),
        "item_embedding": nn.Embedding(CLASSES, INPUT, padding_idx=0),
        "train_targets": targets,
        "target_mean": 0.5,
        "target_std": 2.0,
    }
    head: Head = build(HEADS[name], "head", **{k: v for k, v in supplied.items() if k in takes})
    return head


def make_targets(name: str, count: int) -> Tensor:
    """Targets of a head, `[count, ...]`."""
    generator = torch.Generator().manual_seed(1)
    classes = torch.randint(2, CLASSES, (count,), generator=generator)
    numbers = torch.rand(count, generator=generator, dtype=torch.float64) + 0.1
    if name == "real":
        return numbers.float()
    if name in ("exponential", "lognormal_mixture"):
        return torch.stack([classes.double(), numbers], 1)
    return classes % 2 if name in ("binary", "focal") else classes


def _target(node: dict[str, Any]) -> Any:
    from unrolled.run.targets import find_target

    return find_target(node["_target_"])

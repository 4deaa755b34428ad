"""Numbers as the machine computes them: precision, and the same ones each time."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from unrolled.errors import UserError

log = logging.getLogger(__name__)

_SINGLE = (
    "features, targets and losses are in 32 bits, which a model in 64 bits does not take; use "
    "trainer.precision=32-true"
)
_HALF = (
    "a weight in 16 bits is as it was after an update of less than its 256th part, so that nothing "
    "is learned in the end; use bf16-mixed, which computes in 16 bits and keeps the weights in 32"
)
_ENGINE = (
    "this needs the layers of NVIDIA's Transformer Engine, which no model here has; use bf16-mixed"
)
_NO_TRAINING = {
    "64": _SINGLE,
    "64-true": _SINGLE,
    "bf16-true": _HALF,
    "16-true": _HALF,
    "transformer-engine": _ENGINE,
}
"""Lightning's other precisions, and why no model trains in them."""

_NOT_DETERMINISTIC = re.compile(r"([\w.:]+) does not have a deterministic implementation")


def numerics(trainer: dict[str, Any]) -> dict[str, Any]:
    """`precision` and `deterministic` of a trainer, as they are on this machine.

    Where `deterministic` is not set, it is on on the CPU, where it costs next to nothing.

    Args:
        trainer: The config's.

    Raises:
        UserError: When models do not train in this precision, or this machine has not got it.
    """
    on_cpu = trainer.get("accelerator", "auto") == "cpu" or not torch.accelerator.is_available()
    precision, deterministic = trainer.get("precision"), trainer.get("deterministic")
    if (reason := _NO_TRAINING.get(str(precision).partition("-float16")[0])) is not None:
        raise UserError(f"trainer.precision={precision}: {reason}")
    if on_cpu and str(precision) in ("16-mixed", "16"):
        # Lightning would train in bf16-mixed instead, with a warning.
        raise UserError(
            f"trainer.precision={precision}: the CPU does not train in 16 bits of this kind; use "
            "trainer.precision=bf16-mixed, or a GPU (trainer=gpu)"
        )
    if deterministic is None:
        deterministic = on_cpu
    if deterministic:
        # For those who read memory that nothing was written to; it fills each new tensor.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        warnings = logging.getLogger("py.warnings")
        if not any(isinstance(handler, _Told) for handler in warnings.handlers):
            warnings.addHandler(_Told())
    return {"precision": precision, "deterministic": deterministic}


@contextmanager
def deterministic_errors() -> Iterator[None]:
    """Torch's error about an operation that is not deterministic in our words.

    Raises:
        UserError: With what can be done.
    """
    try:
        yield
    except RuntimeError as error:
        found = _NOT_DETERMINISTIC.search(str(error))
        if found is None:
            raise
        raise UserError(
            f"trainer.deterministic=true: {_operation(found)}; trainer.deterministic=warn computes "
            "it all the same, false does not ask"
        ) from error


class _Told(logging.Handler):
    """Says on the terminal, once for each operation, what torch warns of in the log."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        found = _NOT_DETERMINISTIC.search(record.getMessage())
        if found is not None and found[1] not in self.told:
            self.told.add(found[1])
            log.warning("trainer.deterministic=warn: %s", _operation(found))


def _operation(found: re.Match[str]) -> str:
    return f"torch has no deterministic {found[1]} on this device"

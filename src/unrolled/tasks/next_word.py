"""Which symbol is next?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unrolled.data.schema import Schema
from unrolled.errors import UserError
from unrolled.metrics.perplexity import Perplexity, TopErrorRate
from unrolled.tasks.base import SequenceTask


class NextWord(SequenceTask):
    """The distribution of the next symbol, given all before it."""

    main_metric = "perplexity"
    monitor = "val/perplexity"
    mode = "min"

    def check_schema(self, schema: Schema) -> None:
        """The question is asked at every step, of an encoder that does not see the answer."""
        if not schema.per_step:
            raise UserError("task=next_word needs data with a target for each step")
        if not getattr(self.model.encoder, "causal", True):
            raise UserError(
                "task=next_word: this encoder reads the future, where the answers stand; use one "
                "that goes forward only (model.bidirectional=false)"
            )
        if not hasattr(self.model.head, "log_probabilities"):
            raise UserError("task=next_word needs a distribution: use head=classification")

    def metrics(self) -> dict[str, Any]:
        """Perplexity, and the share of steps where the likeliest symbol is not the next."""
        return {"perplexity": Perplexity(), "error": TopErrorRate()}

    def metric_input(self, outputs: Tensor) -> Tensor:
        """Log-probabilities of all symbols, `[item, symbol]`."""
        log_probabilities: Tensor = self.model.head.log_probabilities(outputs)  # type: ignore[operator]
        return log_probabilities

    def trivial_input(self, train_targets: Tensor) -> Tensor:
        """The frequencies of the symbols, each counted once more than it was seen; their logs."""
        counts = 1.0 + torch.bincount(train_targets, minlength=self.model.head.num_classes)
        return (counts / counts.sum()).log()

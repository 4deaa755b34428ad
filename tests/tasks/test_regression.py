"""Weights of the losses by length."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from unrolled.data.batch import SequenceBatch
from unrolled.data.schema import Numeric, Schema
from unrolled.models.embedding import DenseEmbedding
from unrolled.models.readout import Last
from unrolled.models.real_head import RealHead
from unrolled.models.recurrent import GRU
from unrolled.models.sequence import SequenceModel
from unrolled.tasks.regression import WaveInverse


def _task(weights: dict[int, float] | None) -> WaveInverse:
    torch.manual_seed(0)
    embedding = DenseEmbedding(Schema((Numeric("value"),), None))
    model = SequenceModel(embedding, GRU(1, 4), Last(4), RealHead(4, 0.0, 1.0))
    return WaveInverse(model, partial(torch.optim.SGD, lr=0.1), length_weights=weights)


@pytest.mark.parametrize("training", [True, False])
def test_losses_are_weighted_by_length_in_training_alone(training: bool) -> None:
    lengths = torch.tensor([2, 3, 4, 5])
    batch = SequenceBatch({"value": torch.zeros(4, 5)}, lengths, torch.arange(4.0), torch.arange(4))
    plain, weighted = _task(None).train(training), _task({3: 10.0, 4: 0.5}).train(training)
    outputs = plain(batch)
    expected = plain.losses(outputs, batch)
    if training:
        expected = expected * torch.tensor([1.0, 10.0, 0.5, 1.0])
    torch.testing.assert_close(weighted.losses(outputs, batch), expected)

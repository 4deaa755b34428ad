"""Outputs that are not finite are an error with their number, never a prediction."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unrolled.data.batch import SequenceBatch
from unrolled.errors import TrainingError, UserError
from unrolled.models.embedding import DenseEmbedding
from unrolled.models.head import ClassificationHead
from unrolled.models.readout import EveryStep, Last
from unrolled.models.recurrent import GRU
from unrolled.models.sequence import SequenceModel
from unrolled.run.predictions import named, predict_split
from unrolled.synthetic.generated import GeneratedData
from unrolled.synthetic.parity import Parity
from unrolled.tasks.classification import Classification
from unrolled.tasks.finite_outputs import FiniteOutputs, NotFiniteError


def make_task(every_step: bool = False) -> tuple[GeneratedData, Classification]:
    torch.manual_seed(0)
    data = GeneratedData(Parity(2, 9, []), 5, 5, 40, eval_batch_size=7)
    readout = EveryStep(4) if every_step else Last(4)
    model = SequenceModel(DenseEmbedding(data.schema), GRU(1, 4), readout, ClassificationHead(4, 2))
    return data, Classification(model, partial(torch.optim.SGD, lr=0.1))


@pytest.mark.parametrize("every_step", [False, True])
def test_predictions_of_lost_weights_are_an_error_with_the_number_of_sequences(
    every_step: bool,
) -> None:
    data, task = make_task(every_step)
    assert len(predict_split(task, data, "test")) == 40
    with torch.no_grad():
        next(task.model.head.parameters()).fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="the predictions of 40 of 40 sequences are not fini"):
        predict_split(task, data, "test")
    # The hook is gone.
    task(data.source("test").gather(torch.arange(3)))


def found(batch: SequenceBatch, outputs: Tensor) -> NotFiniteError | None:
    task = nn.Identity()
    task.forward = lambda batch: outputs  # type: ignore[assignment]
    finite = FiniteOutputs(task)
    task(batch)
    return finite.close(10)


def batch_of(lengths: list[int], packed: bool = False) -> SequenceBatch:
    sizes = torch.tensor(lengths)
    ids = torch.arange(len(lengths)) + 5
    return SequenceBatch({}, sizes, torch.zeros(len(lengths)), ids, packed=packed)


@pytest.mark.parametrize(
    ("number", "lost"), [(torch.nan, True), (torch.inf, True), (-torch.inf, False), (1e38, False)]
)
def test_minus_infinity_is_the_logit_of_a_probability_of_0(number: float, lost: bool) -> None:
    outputs = torch.zeros(3, 2)
    outputs[1, 0] = number
    error = found(batch_of([3, 2, 1]), outputs)
    assert (error is not None) == lost
    if error is not None:
        assert (str(error), error.first) == (
            "the predictions of 1 of 10 sequences are not finite", 6
        )  # fmt: skip


def test_what_lies_past_the_end_of_a_sequence_is_in_no_prediction() -> None:
    outputs = torch.zeros(3, 3, 2)
    outputs[1, 2] = outputs[2, 1] = torch.nan
    assert found(batch_of([3, 2, 1]), outputs) is None
    outputs[2, 0, 1] = torch.nan
    error = found(batch_of([3, 2, 1]), outputs)
    assert error is not None
    assert error.first == 7


def test_steps_of_packed_batches_belong_to_their_sequences() -> None:
    outputs = torch.zeros(6, 2)
    # Steps 0 of the three, 1 of two, 2 of one: the second step of the second sequence.
    outputs[4] = torch.nan
    error = found(batch_of([3, 2, 1], packed=True), outputs)
    assert error is not None
    assert error.first == 6


@pytest.mark.parametrize("kind", [UserError, TrainingError])
def test_the_error_names_the_checkpoint_and_the_first_sequence(kind: Any) -> None:
    with (
        pytest.raises(kind, match=r"run/best.ckpt: the predictions of 2 of 9 .* sequence id 4; "),
        named(Path("run/best.ckpt"), lambda error: f"id {error.first}", kind),
    ):
        raise NotFiniteError(2, 9, 0, 4)

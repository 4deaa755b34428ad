"""Training that touches the rows of a table that a step uses, through the trainer."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_next_item import data  # noqa: F401  # A fixture.
from torch import nn

from unrolled.data.events import EventData
from unrolled.errors import TrainingError
from unrolled.models.catalogue import SoftmaxHead
from unrolled.models.embedding import EventEmbedding
from unrolled.models.negatives import ItemSampledSoftmaxHead
from unrolled.models.readout import EveryStep
from unrolled.models.recurrent import GRU
from unrolled.models.row_adam import RowAdam
from unrolled.models.sequence import SequenceModel
from unrolled.run.finite import FiniteCheck
from unrolled.tasks.next_item import NextItem

OPTIMIZER = partial(RowAdam, lr=0.05)


class Layouts(Callback):
    """Notes whether the item vectors' gradient has rows alone, each once."""

    def __init__(self) -> None:
        self.seen: set[bool] = set()

    def on_before_optimizer_step(self, trainer: Any, task: Any, optimizer: Any) -> None:
        gradient = task.model.embedding.tables[0].weight.grad
        self.seen.add(gradient.is_sparse)
        assert not gradient.is_sparse or gradient.is_coalesced()


def make(data: EventData, head: type = ItemSampledSoftmaxHead) -> NextItem:  # noqa: F811
    torch.manual_seed(0)
    embedding = EventEmbedding(data.schema, 6)
    made: Any = head(6, data.schema.num_classes, embedding.table("item"), data.class_counts())
    model = SequenceModel(embedding, GRU(6, 6), EveryStep(6), made)
    return NextItem(model, OPTIMIZER, k=3)


def fit(task: NextItem, data: EventData, *callbacks: Callback, **options: Any) -> NextItem:  # noqa: F811
    torch.manual_seed(1)
    lightning.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        callbacks=list(callbacks), **options,
    ).fit(task, datamodule=data)  # fmt: skip
    return task


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip_val": 0.05, "accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value", "precision": "bf16-mixed"},
    ],
    ids=["norm", "value"],
)
def test_rows_are_trained_as_whole_tables_are(
    data: EventData, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    layouts, others = Layouts(), Layouts()
    rows = fit(make(data), data, layouts, FiniteCheck(), **options)
    monkeypatch.setattr(NextItem, "setup", lambda self, stage: None)
    whole = fit(make(data), data, others, FiniteCheck(), **options)
    assert (layouts.seen, others.seen) == ({True}, {False})
    for mine, its in zip(rows.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)
    start = make(data)
    assert not torch.allclose(rows.head.items.weight, start.head.items.weight, atol=1e-2)


@pytest.mark.filterwarnings("ignore")
def test_a_gradient_of_a_row_that_is_not_finite_ends_the_run_by_name(data: EventData) -> None:  # noqa: F811
    class Spoil(Callback):
        def on_after_backward(self, trainer: Any, task: Any) -> None:
            task.model.embedding.tables[0].weight.grad._values()[0, 0] = torch.inf

    with pytest.raises(TrainingError, match=r"the gradient of model\.embedding\.tables\.0\.weight"):
        fit(make(data), data, Spoil(), FiniteCheck())


def test_only_tables_of_which_a_step_uses_some_rows_are_updated_by_row(data: EventData) -> None:  # noqa: F811
    sampled = make(data)
    assert sampled.model.row_tables() == [sampled.head.items]
    softmax = make(data, SoftmaxHead)
    assert softmax.model.row_tables() == []
    softmax.head.items = nn.Embedding(14, 6)
    assert softmax.model.row_tables() == [softmax.model.embedding.tables[0]]  # type: ignore[union-attr, index]

"""Test sets beside the test split, in results and trivial scores, each under its prefix."""

from __future__ import annotations

from functools import partial

import lightning
import pytest
import torch

from unrolled.data.batch import has_target
from unrolled.models.embedding import DenseEmbedding
from unrolled.models.head import ClassificationHead
from unrolled.models.readout import EveryStep, Last
from unrolled.models.recurrent import GRU
from unrolled.models.sequence import SequenceModel
from unrolled.synthetic.copy_memory import CopyMemory
from unrolled.synthetic.generated import GeneratedData
from unrolled.synthetic.parity import Parity
from unrolled.tasks.base import SequenceTask
from unrolled.tasks.classification import Classification


def make_task(data: GeneratedData, every_step: bool = True, **options: str) -> SequenceTask:
    torch.manual_seed(0)
    assert data.schema.num_classes is not None
    embedding = DenseEmbedding(data.schema)
    readout = EveryStep(4) if every_step else Last(4)
    head = ClassificationHead(4, data.schema.num_classes)
    model = SequenceModel(embedding, GRU(embedding.output_size, 4), readout, head)
    return Classification(model, partial(torch.optim.SGD, lr=0.1), **options)  # type: ignore[arg-type]


def test_every_test_set_is_judged_under_its_own_name() -> None:
    data = GeneratedData(Parity(1, 6, [9, 12]), 20, 10, 30, eval_batch_size=7)
    task = make_task(data)
    lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).test(task, datamodule=data, verbose=False)  # fmt: skip
    prefixes = ["test", "length_9", "length_12"]
    assert list(task.results) == [
        f"{prefix}/{name}"
        for prefix in prefixes
        for name in ("loss", "answers", "error", "mistakes")
    ]
    task.eval()
    for prefix, source in data.test_sources().items():
        batch = source.gather(torch.arange(30))
        with torch.no_grad():
            outputs = task(batch)
        present = has_target(batch.targets)
        wrong = int((outputs.argmax(-1) != batch.targets)[present].sum())
        costs = -outputs.log_softmax(-1).gather(2, batch.targets.clamp(min=0).unsqueeze(2))
        each = costs.squeeze(2).masked_fill(~present, 0).sum(1) / batch.lengths
        assert task.results[f"{prefix}/answers"] == int(batch.lengths.sum())
        assert task.results[f"{prefix}/mistakes"] == wrong
        assert task.results[f"{prefix}/error"] == pytest.approx(wrong / int(batch.lengths.sum()))
        assert task.results[f"{prefix}/loss"] == pytest.approx(float(each.mean()), rel=1e-5)
    trivial = task.trivial_scores(data)
    assert [trivial[f"{prefix}/error"] for prefix in prefixes] == [0.5, 0.5, 0.5]
    assert trivial["length_12/answers"] == 360


def test_what_the_data_know_of_every_step_is_not_said_of_the_last_alone() -> None:
    data = GeneratedData(CopyMemory(5), 400, 10, 400)
    every = make_task(data).trivial_scores(data)
    assert every["test/error"] == pytest.approx(10 / 25 * 7 / 8)
    assert every["test/loss"] == pytest.approx(10 / 25 * 2.0794415)
    last = make_task(data, every_step=False).trivial_scores(data)
    assert last["test/error"] == pytest.approx(7 / 8, abs=0.06)
    assert "test/loss" not in last


def test_a_sum_over_time_has_no_known_trivial_loss() -> None:
    data = GeneratedData(CopyMemory(5), 20, 10, 20)
    scores = make_task(data, over_time="sum").trivial_scores(data)
    assert "test/loss" not in scores
    assert scores["test/error"] == pytest.approx(0.35)

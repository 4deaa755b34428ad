"""Tasks: the scale that results are read on, the refusal of unfit data, and exact scores."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from unrolled.data.batch import SequenceBatch
from unrolled.data.module import SequenceData, Split
from unrolled.data.schema import Numeric, Schema
from unrolled.errors import UserError
from unrolled.models.embedding import DenseEmbedding
from unrolled.models.head import BinaryHead, ClassificationHead, Head
from unrolled.models.readout import Mean
from unrolled.models.recurrent import GRU
from unrolled.models.sequence import SequenceModel
from unrolled.synthetic.bitcount import BitcountData
from unrolled.tasks.base import SequenceTask
from unrolled.tasks.bitcount import Bitcount
from unrolled.tasks.purchase_intent import PurchaseIntent

law = settings(max_examples=25, deadline=None)

# https://github.com/Lightning-AI/pytorch-lightning/issues/21326
lightning_runs = pytest.mark.filterwarnings(
    "ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"
)


def make_task(kind: type[SequenceTask], head: Head, **options: Any) -> SequenceTask:
    embedding = DenseEmbedding(Schema((Numeric("bit"),), head.num_classes))
    model = SequenceModel(embedding, GRU(1, 4), Mean(4), head)
    return kind(model, partial(torch.optim.SGD, lr=0.1), **options)


class Labels:
    """Sequences of one zero with given targets."""

    def __init__(self, labels: list[int]) -> None:
        self.labels = torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: Tensor) -> SequenceBatch:
        ones = torch.ones_like(indices)
        zeros = torch.zeros(len(indices), 1)
        return SequenceBatch({"bit": zeros}, ones, self.labels[indices], indices)

    def targets(self) -> Tensor:
        return self.labels


class LabelData(SequenceData):
    """Given targets to train and to test on."""

    def __init__(self, train: list[int], test: list[int]) -> None:
        super().__init__(4, 4, False, 0)
        self.labels = {"train": train, "val": test, "test": test}

    @property
    def schema(self) -> Schema:
        return Schema((Numeric("bit"),), 2)

    def source(self, split: Split) -> Labels:
        return Labels(self.labels[split])

    def read(self, path: Path) -> Any:
        raise AssertionError("nothing is read in these tests")


@law
@given(st.integers(2, 10), st.integers(0, 1000))
def test_the_trivial_scores_of_bitcount_are_those_of_the_most_frequent_count(
    length: int, seed: int
) -> None:
    data = BitcountData(length, seed=seed)
    scores = make_task(Bitcount, ClassificationHead(4, length + 1)).trivial_scores(data)
    frequent = Counter(data.source("train").bits.sum(1).tolist())
    counts = data.source("test").bits.sum(1).tolist()
    candidates = []
    for answer, times in frequent.items():
        if times == max(frequent.values()):
            mistakes = sum(count != answer for count in counts)
            distance = sum(abs(count - answer) for count in counts)
            candidates.append((mistakes, distance))
    assert scores["test/sequences"] == len(counts)
    assert scores["test/error"] == scores["test/mistakes"] / len(counts)
    assert any(
        scores["test/mistakes"] == mistakes
        and scores["test/mae"] == pytest.approx(distance / len(counts), rel=1e-6)
        for mistakes, distance in candidates
    )


def test_the_trivial_error_of_twenty_bits_is_that_of_always_ten() -> None:
    data = BitcountData()
    scores = make_task(Bitcount, ClassificationHead(4, 21)).trivial_scores(data)
    seen = sum(int((data.source(split).targets() == 10).sum()) for split in ("train", "val"))
    right = math.comb(20, 10) - seen
    assert scores["test/sequences"] == 2**20 - 12_000
    assert scores["test/mistakes"] == 2**20 - 12_000 - right
    assert scores["test/error"] == pytest.approx(0.8238, abs=1e-4)


@law
@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=20),
    st.lists(st.integers(0, 1), max_size=20),
)
def test_the_trivial_scores_of_purchase_intent_are_those_of_the_share_that_buys(
    train: list[int], more: list[int]
) -> None:
    test = [0, 1, *more]
    task = make_task(PurchaseIntent, BinaryHead(4))
    scores = task.trivial_scores(LabelData(train, test))
    share, buyers = sum(train) / len(train), sum(test) / len(test)
    p = min(max(share, 1e-7), 1 - 1e-7)
    squared = buyers * (1 - share) ** 2 + (1 - buyers) * share**2
    whole = {name: score for name, score in scores.items() if "@" not in name}
    assert {n: s for n, s in whole.items() if not n.endswith("_scaled")} == pytest.approx(
        {
            "test/auroc": 0.5,
            "test/average_precision": buyers,
            "test/log_loss": -(buyers * math.log(p) + (1 - buyers) * math.log1p(-p)),
            "test/brier": squared,
            "test/calibration_error": abs(share - buyers),
            "test/sequences": len(test),
        },
        rel=1e-5,
        abs=1e-6,
    )


def test_the_directions_of_bitcount_are_all_down() -> None:
    task = make_task(Bitcount, ClassificationHead(4, 6))
    assert task.metric_direction() == {"error": "min", "mistakes": "min", "mae": "min"}


def test_the_directions_of_purchase_intent_are_up_for_ranking_and_down_for_calibration() -> None:
    assert make_task(PurchaseIntent, BinaryHead(4)).metric_direction() == {
        **dict.fromkeys(["auroc", "average_precision"], "max"),
        **{f"{name}{scaled}": "min" for name in ("log_loss", "brier", "calibration_error")
           for scaled in ("", "_scaled")},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "head"), [(Bitcount, ClassificationHead(4, 6)), (PurchaseIntent, BinaryHead(4))]
)
def test_the_watched_metric_exists_and_has_the_direction_of_the_task(
    kind: type[SequenceTask], head: Head
) -> None:
    task = make_task(kind, head)
    directions = {**task.metric_direction(), "loss": "min"}
    assert task.main_metric in task.metrics()
    split, _, watched = task.monitor.partition("/")
    assert split == "val"
    assert directions[watched] == task.mode


def test_purchase_intent_refuses_data_with_more_than_two_classes() -> None:
    task = make_task(PurchaseIntent, BinaryHead(4))
    with pytest.raises(UserError) as error:
        task.check_schema(BitcountData(20).schema)
    assert str(error.value) == (
        "task=purchase_intent needs data with two classes; these have 21; "
        "use data=shop or data=clickstream"
    )


@pytest.mark.parametrize("length", [1, 20])
def test_what_fits_is_not_refused(length: int) -> None:
    make_task(Bitcount, ClassificationHead(4, length + 1)).check_schema(BitcountData(length).schema)
    make_task(PurchaseIntent, BinaryHead(4)).check_schema(BitcountData(1).schema)


def trainer(**options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def all_outputs(task: SequenceTask, data: SequenceData, split: Split) -> tuple[Tensor, Tensor]:
    """Outputs and targets of a whole split in one batch."""
    source = data.source(split)
    batch = source.gather(torch.arange(len(source)))
    task.eval()
    with torch.no_grad():
        return task(batch), batch.targets


@lightning_runs
def test_the_test_scores_equal_those_of_the_whole_split_in_one_batch() -> None:
    torch.manual_seed(0)
    # 29 strings in batches of 8 or 7: a mean of the batches' means would be another number.
    data = BitcountData(6, 30, 5, eval_batch_size=8)
    task = make_task(Bitcount, ClassificationHead(4, 7))
    trainer().test(task, datamodule=data, verbose=False)
    outputs, targets = all_outputs(task, data, "test")
    predicted = outputs.argmax(-1)
    wrong = int((predicted != targets).sum())
    assert task.results == pytest.approx(
        {
            "test/loss": float(F.cross_entropy(outputs, targets)),
            "test/error": wrong / 29,
            "test/mistakes": wrong,
            "test/mae": float((predicted - targets).abs().float().mean()),
            "test/sequences": 29,
        },
        rel=1e-6,
    )


@lightning_runs
def test_a_second_validation_forgets_the_first() -> None:
    torch.manual_seed(0)
    data = BitcountData(6, 30, 20, eval_batch_size=8)
    task = make_task(Bitcount, ClassificationHead(4, 7))
    runner = trainer()
    runner.validate(task, datamodule=data, verbose=False)
    first = dict(task.results)
    assert first["val/sequences"] == 20
    runner.validate(task, datamodule=data, verbose=False)
    assert task.results == first


@lightning_runs
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_one_training_step_follows_the_reduced_loss(reduction: str) -> None:
    torch.manual_seed(0)
    data = BitcountData(4, 8, 2, batch_size=8, shuffle=False)
    task = make_task(Bitcount, ClassificationHead(4, 5), loss_reduction=reduction)
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    batch = data.source("train").gather(torch.arange(8))
    losses = F.cross_entropy(task(batch), batch.targets, reduction="none")
    loss = losses.mean() if reduction == "mean" else losses.sum()
    gradients = torch.autograd.grad(loss, list(task.model.parameters()))
    trainer(max_steps=1, log_every_n_steps=1).fit(task, datamodule=data)
    for (name, parameter), gradient in zip(task.model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * gradient)


@lightning_runs
def test_the_schedule_moves_at_every_step() -> None:
    task = make_task(
        Bitcount,
        ClassificationHead(4, 5),
        scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5),
    )
    data = BitcountData(4, 8, 2, batch_size=2)
    trainer(max_steps=3).fit(task, datamodule=data)
    optimizer = task.optimizers()
    assert isinstance(optimizer, lightning.pytorch.core.optimizer.LightningOptimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


def test_predictions_carry_the_ids_of_their_sequences() -> None:
    torch.manual_seed(0)
    data = BitcountData(4, 8, 0)
    task = make_task(Bitcount, ClassificationHead(4, 5)).eval()
    batch = data.source("test").gather(torch.tensor([5, 1, 6]))
    columns = task.predict_step(batch, 0)
    outputs = task(batch)
    assert list(columns) == ["ids", "prediction", "expectation"]
    assert columns["ids"].tolist() == [5, 1, 6]
    assert torch.equal(columns["prediction"], outputs.argmax(-1))
    expected = outputs.softmax(-1) @ torch.arange(5.0)
    torch.testing.assert_close(columns["expectation"], expected)


def test_purchase_intent_predicts_a_class_and_its_probability() -> None:
    outputs = torch.tensor([[-1.0], [0.5]])
    columns = make_task(PurchaseIntent, BinaryHead(4)).predictions(outputs)
    assert columns["prediction"].tolist() == [0, 1]
    torch.testing.assert_close(columns["probability"], outputs.squeeze(-1).sigmoid())

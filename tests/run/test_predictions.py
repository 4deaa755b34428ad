"""Predictions as columns, a list where every step has one; and heads that fit the target."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from unrolled.errors import UserError
from unrolled.models.embedding import DenseEmbedding
from unrolled.models.head import ClassificationHead
from unrolled.models.readout import EveryStep
from unrolled.models.recurrent import GRU
from unrolled.models.sequence import SequenceModel
from unrolled.run.experiment import _of_target, wanted
from unrolled.run.predictions import predict_split
from unrolled.synthetic.generated import GeneratedData
from unrolled.synthetic.marked_numbers import MarkedNumbers
from unrolled.synthetic.parity import Parity
from unrolled.tasks.classification import Classification

HEAD = "unrolled.models.head."


def test_a_prediction_for_each_step_is_a_list_as_long_as_the_sequence() -> None:
    torch.manual_seed(0)
    data = GeneratedData(Parity(1, 9, []), 5, 5, 40, eval_batch_size=7)
    model = SequenceModel(
        DenseEmbedding(data.schema), GRU(1, 4), EveryStep(4), ClassificationHead(4, 2)
    )
    task = Classification(model, partial(torch.optim.SGD, lr=0.1))
    table = predict_split(task, data, "test")
    assert task.training
    assert table.column_names == ["target", "prediction"]
    source = data.source("test")
    targets, predictions = table["target"].to_pylist(), table["prediction"].to_pylist()
    assert len(targets) == len(predictions) == 40
    for row in range(40):
        length = int(source.lengths[row])
        assert targets[row] == source.targets()[row, :length].tolist()
        with torch.no_grad():
            alone = task(source.gather(torch.tensor([row])))
        assert predictions[row] == alone[0].argmax(-1).tolist()


@pytest.mark.parametrize("head", ["ClassificationHead", "OrdinalHead", "BinaryHead"])
def test_a_head_for_classes_is_refused_where_the_target_is_a_number(head: str) -> None:
    with pytest.raises(UserError) as error:
        _of_target({"_target_": HEAD + head}, GeneratedData(MarkedNumbers(4), 4, 4, 4))
    assert str(error.value) == (
        f"head: {head} predicts classes, the target of these data is a real number; use head=real"
    )


def test_a_head_for_numbers_is_refused_where_the_target_is_a_class() -> None:
    with pytest.raises(UserError) as error:
        _of_target({"_target_": "unrolled.models.real_head.RealHead"}, GeneratedData(Parity()))
    assert str(error.value) == (
        "head: RealHead predicts real numbers, the target of these data is one of 2 classes; "
        "use head=classification or head=regression"
    )


@pytest.mark.parametrize("head", ["catalogue.SoftmaxHead", "point_process.LogNormalMixtureHead"])
def test_a_head_for_events_is_refused_where_there_are_none(head: str) -> None:
    with pytest.raises(UserError, match=f"head: {head.partition('.')[2]} asks what comes next"):
        _of_target({"_target_": f"unrolled.models.{head}"}, GeneratedData(Parity()))


def test_a_head_is_told_what_it_asks_for() -> None:
    real = GeneratedData(MarkedNumbers(4), 4, 4, 4)
    assert _of_target({"_target_": "unrolled.models.real_head.RealHead"}, real) == {
        "target_mean": 1.0,
        "target_std": pytest.approx(6**-0.5),
    }
    classes = GeneratedData(Parity(), 50, 5, 5)
    assert _of_target({"_target_": HEAD + "ClassificationHead"}, classes) == {"num_classes": 2}
    sampled = _of_target({"_target_": "unrolled.models.sampled.SampledSoftmaxHead"}, classes)
    targets = classes.train_targets()
    counts = [int((targets == k).sum()) for k in (0, 1)]
    assert sampled["num_classes"] == 2
    assert sampled["class_counts"].tolist() == counts
    node = {"_target_": HEAD + "ClassificationHead", "num_classes": 7}
    assert wanted(node, {"num_classes": 2, "bias": 0.5, "nonsense": 1}) == {"bias": 0.5}

"""Heads: the loss by its formula, predictions and expectations in range, and each one trains."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Bernoulli, Binomial, Categorical

from unrolled.data.batch import SequenceBatch
from unrolled.data.schema import Categorical as CategoricalFeature
from unrolled.data.schema import Numeric, Schema
from unrolled.models.embedding import DenseEmbedding, EventEmbedding
from unrolled.models.head import (
    BinaryHead,
    ClassificationHead,
    Head,
    OrdinalHead,
    RegressionHead,
)
from unrolled.models.readout import Attention, Last, Max, Mean
from unrolled.models.recurrent import GRU, LSTM, RNN, RecurrentEncoder
from unrolled.models.sequence import SequenceModel

HEADS: dict[str, Callable[[int, int], Head]] = {
    "classification": ClassificationHead,
    "ordinal": OrdinalHead,
    "binary": BinaryHead,
    "regression": RegressionHead,
}
READOUTS: dict[str, Callable[[int], nn.Module]] = {
    "last": Last,
    "mean": Mean,
    "max": Max,
    "attention": Attention,
}
ENCODERS: dict[str, Callable[[int], RecurrentEncoder]] = {
    "lstm": lambda size: LSTM(size, 6),
    "gru": lambda size: GRU(size, 6, num_layers=2),
    "rnn": lambda size: RNN(size, 6),
    "bidirectional": lambda size: LSTM(size, 6, bidirectional=True),
}
EXACT = {"rtol": 1e-10, "atol": 1e-10}

law = settings(max_examples=25, deadline=None)
classes = st.integers(2, 12)
logits = st.floats(-30, 30)


@st.composite
def judged(draw: st.DrawFn, name: str) -> tuple[Head, Tensor, Tensor]:
    """A head, outputs `[batch, output]` in float64 and targets `[batch]`."""
    num_classes = draw(classes)
    head = HEADS[name](3, num_classes)
    width = head.linear.out_features
    batch = draw(st.integers(1, 5))
    values = draw(st.lists(logits, min_size=batch * width, max_size=batch * width))
    targets = draw(st.lists(st.integers(0, num_classes - 1), min_size=batch, max_size=batch))
    outputs = torch.tensor(values, dtype=torch.float64).view(batch, width)
    return head, outputs, torch.tensor(targets)


@law
@given(judged("classification"))
def test_classification_loss_is_the_negative_log_probability(
    case: tuple[Head, Tensor, Tensor],
) -> None:
    head, outputs, targets = case
    expected = -Categorical(logits=outputs).log_prob(targets)
    torch.testing.assert_close(head.loss(outputs, targets), expected, **EXACT)


@law
@given(judged("classification"))
def test_classification_expects_the_mean_of_its_distribution(
    case: tuple[Head, Tensor, Tensor],
) -> None:
    head, outputs, _ = case
    for row, expectation in zip(outputs, head.expectation(outputs), strict=True):
        powers = [math.exp(v) for v in row.tolist()]
        mean = sum(k * p for k, p in enumerate(powers)) / sum(powers)
        assert float(expectation) == pytest.approx(mean, rel=1e-10, abs=1e-12)


def test_classification_predicts_the_class_with_the_largest_output() -> None:
    outputs = torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 4.9], [-3.0, -2.0, -1.0]])
    assert ClassificationHead(2, 3).predict(outputs).tolist() == [1, 0, 2]


@law
@given(judged("ordinal"))
def test_ordinal_loss_sums_one_binary_question_for_each_threshold(
    case: tuple[Head, Tensor, Tensor],
) -> None:
    head, outputs, targets = case
    for row, target, loss in zip(
        outputs, targets.tolist(), head.loss(outputs, targets), strict=True
    ):
        expected = sum(
            -float(Bernoulli(logits=row[k]).log_prob(torch.tensor(float(target > k)).double()))
            for k in range(head.num_classes - 1)
        )
        assert float(loss) == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_ordinal_thresholds_ask_whether_the_target_is_above_them() -> None:
    head = OrdinalHead(2, 4)
    # Sure that the target is above 0 and 1 and not above 2: it is 2.
    sure = torch.tensor([[50.0, 50.0, -50.0]])
    assert head.predict(sure).tolist() == [2]
    assert head.expectation(sure).tolist() == pytest.approx([2.0])
    losses = [float(head.loss(sure, torch.tensor([target]))) for target in range(4)]
    # Each threshold on the wrong side costs its 50.
    assert losses == pytest.approx([100.0, 50.0, 0.0, 50.0])


@law
@given(judged("ordinal"))
def test_ordinal_predicts_and_expects_by_counting_passed_thresholds(
    case: tuple[Head, Tensor, Tensor],
) -> None:
    head, outputs, _ = case
    passed = [sum(v > 0 for v in row) for row in outputs.tolist()]
    assert head.predict(outputs).tolist() == passed
    expected = [sum(1 / (1 + math.exp(-v)) for v in row) for row in outputs.tolist()]
    assert head.expectation(outputs).tolist() == pytest.approx(expected, rel=1e-10)


@law
@given(judged("binary"))
def test_binary_loss_is_the_binomial_likelihood_up_to_a_constant_of_the_target(
    case: tuple[Head, Tensor, Tensor],
) -> None:
    head, outputs, targets = case
    trials = head.num_classes - 1
    binomial = Binomial(total_count=trials, logits=outputs.squeeze(-1))
    ways = torch.tensor([math.log(math.comb(trials, k)) for k in targets.tolist()]).double()
    expected = -binomial.log_prob(targets.double()) + ways
    torch.testing.assert_close(head.loss(outputs, targets), expected, rtol=1e-9, atol=1e-6)


@law
@given(st.lists(logits, min_size=1, max_size=5), st.data())
def test_binary_loss_of_two_classes_is_that_of_a_coin(
    values: list[float], data: st.DataObject
) -> None:
    n = len(values)
    targets = torch.tensor(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    outputs = torch.tensor(values, dtype=torch.float64).unsqueeze(-1)
    expected = -Bernoulli(logits=outputs.squeeze(-1)).log_prob(targets.double())
    torch.testing.assert_close(BinaryHead(3).loss(outputs, targets), expected, **EXACT)


@law
@given(judged("binary"))
def test_binary_predicts_the_most_probable_count(case: tuple[Head, Tensor, Tensor]) -> None:
    head, outputs, _ = case
    counts = torch.arange(head.num_classes, dtype=torch.float64)
    for row, predicted in zip(outputs, head.predict(outputs).tolist(), strict=True):
        scores = Binomial(total_count=head.num_classes - 1, logits=row).log_prob(counts)
        # At a tie both counts are the most probable one.
        assert float(scores[predicted]) == pytest.approx(float(scores.max()), abs=1e-9)


def test_binary_of_two_classes_predicts_one_only_above_a_half() -> None:
    outputs = torch.tensor([[-2.0], [-1e-3], [0.0], [1e-3], [2.0]])
    assert BinaryHead(1).predict(outputs).tolist() == [0, 0, 0, 1, 1]
    expected = [0.1192029, 0.49975, 0.5, 0.50025, 0.8807971]
    assert BinaryHead(1).expectation(outputs).tolist() == pytest.approx(expected, abs=1e-6)


@law
@given(judged("binary"))
def test_binary_expects_trials_times_probability(case: tuple[Head, Tensor, Tensor]) -> None:
    head, outputs, _ = case
    mean = Binomial(total_count=head.num_classes - 1, logits=outputs.squeeze(-1)).mean
    torch.testing.assert_close(head.expectation(outputs), mean, **EXACT)


@law
@given(judged("regression"))
def test_regression_loss_is_the_squared_distance_to_the_target(
    case: tuple[Head, Tensor, Tensor],
) -> None:
    head, outputs, targets = case
    top = head.num_classes - 1
    expected = [
        (top / 2 + top * value - target) ** 2
        for value, target in zip(outputs[:, 0].tolist(), targets.tolist(), strict=True)
    ]
    assert head.loss(outputs, targets).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_regression_output_zero_is_the_middle_and_a_half_the_ends_of_the_range() -> None:
    head = RegressionHead(1, 21)
    outputs = torch.tensor([[-0.5], [-0.26], [0.0], [0.24], [0.5], [0.9], [-7.0]])
    assert head.expectation(outputs).tolist() == pytest.approx([0, 4.8, 10, 14.8, 20, 20, 0])
    assert head.predict(outputs).tolist() == [0, 5, 10, 15, 20, 20, 0]


@law
@given(classes, st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_regression_predicts_the_class_nearest_to_its_expectation(
    num_classes: int, value: float
) -> None:
    head = RegressionHead(1, num_classes)
    outputs = torch.tensor([[value]], dtype=torch.float64)
    distance = float(head.predict(outputs)[0]) - float(head.expectation(outputs)[0])
    assert abs(distance) <= 0.5


def test_regression_with_an_exploded_output_predicts_the_end_it_points_to() -> None:
    outputs = torch.tensor([[-1e30], [-1e19], [1e19], [1e30]])
    assert RegressionHead(1, 5).predict(outputs).tolist() == [0, 0, 4, 4]


@pytest.mark.parametrize("name", HEADS)
@law
@given(data=st.data())
def test_predictions_and_expectations_lie_in_the_range_of_the_target(
    name: str, data: st.DataObject
) -> None:
    head, outputs, targets = data.draw(judged(name))
    predicted, expected = head.predict(outputs), head.expectation(outputs)
    assert predicted.shape == expected.shape == targets.shape
    assert predicted.dtype == torch.int64
    assert int(predicted.min()) >= 0
    assert int(predicted.max()) <= head.num_classes - 1
    assert float(expected.min()) >= 0
    # A sum of probabilities may round up in the last place.
    assert float(expected.max()) <= (head.num_classes - 1) * (1 + 1e-12)


@pytest.mark.parametrize("name", HEADS)
@law
@given(data=st.data())
def test_a_loss_is_one_number_a_sequence_and_never_negative(name: str, data: st.DataObject) -> None:
    head, outputs, targets = data.draw(judged(name))
    losses = head.loss(outputs, targets)
    assert losses.shape == targets.shape
    assert float(losses.min()) >= 0
    for i in range(len(targets)):
        alone = head.loss(outputs[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(losses[i : i + 1], alone, **EXACT)


def test_classification_starts_with_cut_normal_weights_and_the_bias_asked_for() -> None:
    torch.manual_seed(0)
    head = ClassificationHead(200, 50, weight_std=0.1, bias=0.3)
    weight = head.linear.weight.detach()
    # A normal distribution cut at two standard deviations keeps 0.88 of its own.
    assert float(weight.std()) == pytest.approx(0.088, rel=0.02)
    assert 0.19 < float(weight.abs().max()) <= 0.2
    assert torch.equal(head.linear.bias, torch.full((50,), 0.3))


def test_classification_without_a_start_value_keeps_torchs_draw() -> None:
    torch.manual_seed(3)
    plain = nn.Linear(4, 3)
    torch.manual_seed(3)
    head = ClassificationHead(4, 3)
    assert torch.equal(head.linear.weight, plain.weight)
    assert torch.equal(head.linear.bias, plain.bias)


def mixed_batch(num_classes: int) -> tuple[Schema, SequenceBatch]:
    """Six sequences with a categorical and a numeric feature, the target is no constant."""
    schema = Schema((CategoricalFeature("page", 7), Numeric("price")), num_classes)
    lengths = torch.tensor([1, 5, 3, 4, 2, 5])
    past = torch.arange(5) >= lengths[:, None]
    generator = torch.Generator().manual_seed(0)
    page = torch.randint(1, 7, (6, 5), generator=generator).masked_fill(past, 0)
    price = torch.randn(6, 5, generator=generator).masked_fill(past, 0.0)
    targets = torch.arange(6) % num_classes
    features = {"page": page, "price": price}
    return schema, SequenceBatch(features, lengths, targets, torch.arange(6))


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("encoder_name", ENCODERS)
@pytest.mark.parametrize("readout_name", READOUTS)
@pytest.mark.parametrize("head_name", HEADS)
def test_every_head_on_every_read_out_on_every_encoder_trains(
    head_name: str, readout_name: str, encoder_name: str, num_classes: int
) -> None:
    torch.manual_seed(0)
    schema, batch = mixed_batch(num_classes)
    for embedding in (DenseEmbedding(schema), EventEmbedding(schema, size=3)):
        encoder = ENCODERS[encoder_name](embedding.output_size)
        readout = READOUTS[readout_name](encoder.output_size)
        head = HEADS[head_name](readout.output_size, num_classes)
        model = SequenceModel(embedding, encoder, readout, head)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        before = head.loss(model(batch), batch.targets).mean()
        before.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
        assert any(bool(p.grad.any()) for p in encoder.parameters() if p.grad is not None)
        optimizer.step()
        after = head.loss(model(batch), batch.targets).mean()
        assert after.item() < before.item()


@pytest.mark.parametrize("head_name", HEADS)
def test_a_model_judges_each_sequence_as_if_it_were_alone(head_name: str) -> None:
    torch.manual_seed(0)
    schema, batch = mixed_batch(5)
    embedding = EventEmbedding(schema)
    encoder = GRU(embedding.output_size, 6)
    model = SequenceModel(embedding, encoder, Attention(6), HEADS[head_name](6, 5))
    together = model(batch)
    for i, length in enumerate(batch.lengths.tolist()):
        features = {name: values[i : i + 1, :length] for name, values in batch.features.items()}
        alone = SequenceBatch(
            features, batch.lengths[i : i + 1], batch.targets[i : i + 1], batch.ids[i : i + 1]
        )
        torch.testing.assert_close(model(alone), together[i : i + 1], rtol=0.0, atol=1e-6)


def test_a_number_without_offset_is_a_multiple_of_the_vector() -> None:
    head = RegressionHead(3, 11, offset=False)
    x = torch.randn(5, 3)
    assert [name for name, _ in head.named_parameters()] == ["linear.weight"]
    value = 10 * (x @ head.linear.weight.T).squeeze(-1)
    targets = torch.tensor([0, 3, 5, 7, 10])
    torch.testing.assert_close(head.loss(head(x), targets), (value - targets).square())
    assert torch.equal(head.loss(head(torch.zeros(1, 3)), torch.tensor([0])), torch.zeros(1))

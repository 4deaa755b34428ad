"""Embeddings: which channel holds what, how many there are, and what padding does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled.data.schema import Categorical, Numeric, Schema
from unrolled.models.embedding import DenseEmbedding, EventEmbedding

law = settings(max_examples=25, deadline=None)


@st.composite
def inputs(draw: st.DrawFn) -> tuple[Schema, dict[str, Tensor]]:
    """A schema of one to four features and a batch of them, `[batch, time]` each."""
    sizes = draw(st.lists(st.one_of(st.none(), st.integers(2, 9)), min_size=1, max_size=4))
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    features: list[Categorical | Numeric] = []
    values: dict[str, Tensor] = {}
    for i, num_ids in enumerate(sizes):
        name = f"column_{i}"
        if num_ids is None:
            features.append(Numeric(name))
            values[name] = torch.randn(batch, time, generator=generator)
        else:
            features.append(Categorical(name, num_ids))
            values[name] = torch.randint(num_ids, (batch, time), generator=generator)
    # The order of the batch's columns says nothing; that of the schema does.
    return Schema(tuple(features), 2), dict(reversed(values.items()))


@law
@given(inputs())
def test_dense_channels_are_numbers_and_one_hot_ids_in_the_order_of_the_schema(
    case: tuple[Schema, dict[str, Tensor]],
) -> None:
    schema, features = case
    embedding = DenseEmbedding(schema)
    x = embedding(features)
    assert x.dtype == torch.float32
    first = 0
    for f in schema.features:
        values = features[f.name]
        if isinstance(f, Numeric):
            assert torch.equal(x[:, :, first], values)
            first += 1
        else:
            for k in range(f.num_ids):
                assert torch.equal(x[:, :, first + k], (values == k).float())
            first += f.num_ids
    assert first == x.shape[2] == embedding.output_size


@law
@given(inputs(), st.integers(1, 5))
def test_dense_with_a_size_is_a_linear_map_of_dense_without(
    case: tuple[Schema, dict[str, Tensor]], size: int
) -> None:
    schema, features = case
    embedding = DenseEmbedding(schema, size)
    x = embedding(features)
    assert x.shape[2] == embedding.output_size == size
    weight, bias = embedding.project.weight, embedding.project.bias
    torch.testing.assert_close(x, DenseEmbedding(schema)(features) @ weight.T + bias)


@law
@given(inputs(), st.one_of(st.just("auto"), st.integers(1, 5)))
def test_event_channels_are_numbers_and_vectors_in_the_order_of_the_schema(
    case: tuple[Schema, dict[str, Tensor]], size: int | str
) -> None:
    schema, features = case
    embedding = EventEmbedding(schema, size)  # type: ignore[arg-type]
    x = embedding(features)
    first = 0
    for f in schema.features:
        values = features[f.name]
        if isinstance(f, Numeric):
            assert torch.equal(x[:, :, first], values)
            first += 1
            continue
        width = min(64, round(1.6 * f.num_ids**0.56)) if size == "auto" else int(size)
        vectors = x[:, :, first : first + width]
        assert torch.count_nonzero(vectors[values == 0]) == 0
        for k in range(1, f.num_ids):
            same = vectors[values == k]
            assert torch.equal(same, same[:1].expand_as(same))
            assert bool((same != 0).any(-1).all())
        first += width
    assert first == x.shape[2] == embedding.output_size


@pytest.mark.parametrize(
    ("num_ids", "width"), [(3, 3), (10, 6), (100, 21), (700, 63), (1000, 64), (10**6, 64)]
)
def test_the_automatic_size_follows_the_rule_of_thumb_up_to_64(num_ids: int, width: int) -> None:
    # On the meta device a table of a million ids takes no memory.
    with torch.device("meta"):
        embedding = EventEmbedding(Schema((Categorical("page", num_ids),), 2))
    assert embedding.output_size == width


@pytest.mark.parametrize("kind", [DenseEmbedding, EventEmbedding])
def test_a_numeric_feature_with_a_channel_axis_equals_one_without(
    kind: type[DenseEmbedding] | type[EventEmbedding],
) -> None:
    embedding = kind(Schema((Numeric("price"), Numeric("gap")), 2))
    price, gap = torch.randn(2, 3), torch.randn(2, 3)
    expected = torch.stack([price, gap], -1)
    assert torch.equal(embedding({"price": price, "gap": gap}), expected)
    assert torch.equal(embedding({"price": price.unsqueeze(-1), "gap": gap}), expected)


def test_the_vector_of_padding_is_zero_and_never_learns() -> None:
    torch.manual_seed(0)
    embedding = EventEmbedding(Schema((Categorical("page", 5),), 2), 3)
    page = torch.tensor([[2, 4, 0, 0]])
    optimizer = torch.optim.SGD(embedding.parameters(), lr=1.0)
    before = embedding({"page": page}).detach().clone()
    embedding({"page": page}).sum().backward()
    optimizer.step()
    after = embedding({"page": page}).detach()
    # The gradient of a sum is one.
    torch.testing.assert_close(after[0, :2], before[0, :2] - 1.0)
    assert torch.count_nonzero(after[0, 2:]) == 0


@pytest.mark.parametrize("kind", [DenseEmbedding, EventEmbedding])
def test_dropout_sets_its_share_of_channels_to_zero_in_training_only(
    kind: type[DenseEmbedding] | type[EventEmbedding],
) -> None:
    torch.manual_seed(0)
    embedding = kind(Schema((Numeric("price"),), 2), dropout=0.25)
    features = {"price": torch.ones(100, 100)}
    x = embedding(features)
    assert sorted(set(x.flatten().tolist())) == pytest.approx([0.0, 1 / 0.75])
    assert float((x == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    embedding.eval()
    assert torch.equal(embedding(features), torch.ones(100, 100, 1))


@pytest.mark.parametrize("name", ["type", "items", "keys", "values", "float", "event.type"])
def test_a_categorical_column_may_have_any_name(name: str) -> None:
    embedding = EventEmbedding(Schema((Categorical(name, 4),), 2), 3)
    x = embedding({name: torch.tensor([[0, 1, 2]])})
    assert x.shape == (1, 3, 3)
    assert torch.count_nonzero(x[0, 0]) == 0
    assert len(list(embedding.parameters())) == 1


def test_vectors_start_with_the_deviation_that_is_asked_for() -> None:
    schema = Schema((Categorical("a", 400), Categorical("b", 300)), 2)
    torch.manual_seed(0)
    plain = EventEmbedding(schema, 50)
    torch.manual_seed(0)
    small = EventEmbedding(schema, 50, std=0.1)
    for name in ("a", "b"):
        assert plain.table(name).weight.std().item() == pytest.approx(1, abs=0.01)
        expected = 0.1 * plain.table(name).weight
        assert torch.equal(small.table(name).weight, expected)
        assert not small.table(name).weight[0].any()

"""Generators: each sequence by itself, in plain Python; what is said of all of them; the floors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.batch import NO_TARGET, has_target
from unrolled.data.schema import Categorical
from unrolled.data.tensors import TensorSequences
from unrolled.errors import UserError
from unrolled.synthetic.copy_memory import CopyMemory
from unrolled.synthetic.cosine import Cosine
from unrolled.synthetic.digits import DigitImages
from unrolled.synthetic.generated import GeneratedData, SequenceGenerator
from unrolled.synthetic.grammar import Grammar
from unrolled.synthetic.marked_numbers import MarkedNumbers
from unrolled.synthetic.parity import Parity
from unrolled.synthetic.random_labels import RandomLabels
from unrolled.synthetic.recall import AssociativeRecall
from unrolled.synthetic.temporal_order import TemporalOrder
from unrolled.synthetic.wave_inverse import (
    INPUT_MEAN,
    INPUT_STD,
    WaveInverse,
    posterior_variance,
)

law = settings(max_examples=15, deadline=None)
GENERATORS: dict[str, Callable[[], SequenceGenerator]] = {
    "adding": lambda: MarkedNumbers(30),
    "multiplication": lambda: MarkedNumbers(31, "product"),
    "temporal_order": TemporalOrder,
    "temporal_order_3": lambda: TemporalOrder(3),
    "copy": lambda: CopyMemory(20),
    "parity": Parity,
    "recall": AssociativeRecall,
    "wave_inverse": WaveInverse,
    "memorize": RandomLabels,
    "cosine": Cosine,
}
seeds = st.integers(0, 2**40)


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(generator: SequenceGenerator, **options: Any) -> GeneratedData:
    return GeneratedData(generator, **{"train_size": 50, "val_size": 20, "test_size": 40} | options)


@pytest.mark.parametrize("name", GENERATORS)
def test_sequences_keep_to_their_schema(name: str) -> None:
    data = small(GENERATORS[name]())
    schema = data.schema
    for split in ("train", "val", "test"):
        source = data.source(split)
        if not data.generator.one_set:
            assert len(source) == data.sizes[split]
        past = (
            torch.arange(next(iter(source.features.values())).shape[1]) >= source.lengths[:, None]
        )
        assert list(source.features) == [feature.name for feature in schema.features]
        for feature in schema.features:
            values = source.features[feature.name]
            assert not values[past].any()
            if isinstance(feature, Categorical):
                assert values.dtype == torch.int64
                assert int(values[~past].min()) >= 2
                assert int(values.max()) < feature.num_ids
            else:
                assert values.dtype == torch.float32
                assert values.shape[2:] == ((feature.size,) if feature.size > 1 else ())
        targets = source.targets()
        assert targets.shape == (past.shape if schema.per_step else (len(source),))
        if schema.per_step:
            assert not has_target(targets)[past].any()
        if schema.num_classes is None:
            assert targets.dtype == torch.float32
        else:
            real = targets[has_target(targets)]
            assert targets.dtype == torch.int64
            assert 0 <= int(real.min()) <= int(real.max()) < schema.num_classes


def same(a: TensorSequences, b: TensorSequences) -> bool:
    return all(
        x.shape == y.shape and torch.equal(x, y)
        for x, y in [
            *zip(a.features.values(), b.features.values(), strict=True),
            (a.lengths, b.lengths),
        ]
    )


@pytest.mark.parametrize("name", GENERATORS)
def test_the_seed_says_everything_and_splits_differ(name: str) -> None:
    data, again = small(GENERATORS[name]()), small(GENERATORS[name]())
    other = small(GENERATORS[name](), seed=1)
    for split in ("train", "val", "test"):
        assert same(data.source(split), again.source(split))
        assert torch.equal(data.source(split).targets(), again.source(split).targets())
        assert not same(data.source(split), other.source(split))
    for key, further in data.further_tests().items():
        twin = again.further_tests()[key]
        assert isinstance(further, TensorSequences)
        assert isinstance(twin, TensorSequences)
        assert same(further, twin)
    train, val, test = (data.source(s).first(20) for s in ("train", "val", "test"))
    if data.generator.one_set:
        assert same(train, val)
        assert same(train, test)
    else:
        assert not same(train, val)
        assert not same(val, test)
        assert not same(train, test)


def test_a_validation_set_of_none_is_empty_and_changes_no_other() -> None:
    data = small(Parity(), val_size=0)
    assert len(data.source("val")) == 0
    assert data.val_dataloader() == []
    assert same(data.source("test"), small(Parity()).source("test"))


@law
@given(st.integers(2, 9), seeds, st.sampled_from(["sum", "product"]))
def test_the_target_of_marked_numbers_is_that_of_the_two_marked(
    length: int, seed: int, kind: Any
) -> None:
    drawn = MarkedNumbers(length, kind).draw(20, numbers(seed))
    for row in range(20):
        marks = drawn.features["mark"][row].tolist()
        assert sorted(set(marks)) in ([0.0, 1.0], [1.0])
        first, second = (i for i, mark in enumerate(marks) if mark)
        assert first < length // 2 <= second
        a, b = (float(drawn.features["number"][row, i]) for i in (first, second))
        assert float(drawn.targets()[row]) == pytest.approx(a + b if kind == "sum" else a * b)
    assert 0 <= float(drawn.features["number"].min()) <= float(drawn.features["number"].max()) < 1


@law
@given(st.sampled_from([2, 3]), seeds)
def test_the_class_of_temporal_order_is_the_important_symbols_in_binary(
    important: Any, seed: int
) -> None:
    drawn = TemporalOrder(important).draw(50, numbers(seed))
    places = {2: [(10, 20), (50, 60)], 3: [(10, 20), (33, 43), (66, 76)]}[important]
    for row in range(50):
        length = int(drawn.lengths[row])
        symbols = drawn.features["symbol"][row, :length].tolist()
        assert 100 <= length <= 110
        # 2 starts, 3 ends, 4 to 7 say nothing, 8 and 9 do.
        assert symbols[0] == 2
        assert symbols[-1] == 3
        found = [(step, id_ - 8) for step, id_ in enumerate(symbols) if id_ >= 8]
        assert all(4 <= id_ <= 9 for id_ in symbols[1:-1])
        assert len(found) == important
        for (step, _), (low, high) in zip(found, places, strict=True):
            assert low <= step <= high
        assert int(drawn.targets()[row]) == int("".join(str(bit) for _, bit in found), 2)


@law
@given(st.integers(1, 30), seeds)
def test_copy_shows_ten_symbols_and_asks_for_them_after_the_pause(pause: int, seed: int) -> None:
    drawn = CopyMemory(pause).draw(5, numbers(seed))
    for row in range(5):
        symbols = drawn.features["symbol"][row].tolist()
        targets = drawn.targets()[row].tolist()
        shown = symbols[:10]
        # 2 is blank, 3 to 10 are the symbols, 11 is the delimiter.
        assert all(3 <= id_ <= 10 for id_ in shown)
        assert symbols[10:] == [2] * (pause - 1) + [11] + [2] * 10
        assert targets == [0] * (pause + 10) + [id_ - 2 for id_ in shown]


@law
@given(st.integers(1, 12), st.integers(0, 12), seeds)
def test_parity_is_the_sum_so_far_modulo_two(shortest: int, more: int, seed: int) -> None:
    drawn = Parity(shortest, shortest + more).draw(20, numbers(seed))
    for row in range(20):
        length = int(drawn.lengths[row])
        assert shortest <= length <= shortest + more
        bits = [int(bit) for bit in drawn.features["bit"][row].tolist()]
        expected = [sum(bits[: t + 1]) % 2 for t in range(length)]
        targets = drawn.targets()[row].tolist()
        assert targets == expected + [NO_TARGET] * (len(targets) - length)


def test_parity_is_also_tested_on_longer_strings() -> None:
    further = small(Parity(1, 5, [7, 9])).test_sources()
    assert list(further) == ["test", "length_7", "length_9"]
    for length in (7, 9):
        assert (
            further[f"length_{length}"].gather(torch.arange(40)).lengths.tolist() == [length] * 40
        )


@law
@given(st.integers(1, 5), st.integers(0, 3), st.integers(2, 5), st.integers(0, 9), seeds)
def test_recall_asks_for_the_value_that_came_with_the_key(
    pairs: int, more_keys: int, values: int, more: int, seed: int
) -> None:
    keys, length = pairs + more_keys, 3 * pairs + more
    drawn = AssociativeRecall(pairs, keys, values, length).draw(10, numbers(seed))
    for row in range(10):
        symbols = drawn.features["symbol"][row].tolist()
        shown = dict(zip(symbols[0 : 2 * pairs : 2], symbols[1 : 2 * pairs : 2], strict=True))
        assert len(shown) == pairs
        # 2 is blank, then keys, then values.
        assert all(3 <= key < 3 + keys <= value for key, value in shown.items())
        asked = []
        for step, target in enumerate(drawn.targets()[row].tolist()):
            if target == NO_TARGET:
                assert step < 2 * pairs or symbols[step] == 2
            else:
                assert step >= 2 * pairs
                assert target == shown[symbols[step]] - 3 - keys
                asked.append(symbols[step])
        assert sorted(asked) == sorted(shown)


def f(x: float) -> float:
    """The wave as its author wrote it."""
    return 2 + 0.5 * math.sin(x / 2 - 1) + math.sin(x) + math.sin(2 * x + 2) + math.sin(x / 4 + 1)


@law
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), seeds)
def test_without_noise_the_wave_is_that_of_the_target_and_the_lags(
    lengths: list[int], seed: int
) -> None:
    drawn = WaveInverse(lengths, 0.0).draw(20, numbers(seed))
    for row in range(20):
        length, z = int(drawn.lengths[row]), float(drawn.targets()[row])
        assert length in lengths
        assert 0 <= z <= 10
        x = drawn.features["value"][row, :length].tolist()
        seen = [INPUT_STD * value + INPUT_MEAN for value in x]
        assert seen == pytest.approx([f(z - lag) for lag in range(length)], abs=1e-4)


def test_the_noise_of_the_wave_has_the_size_asked_for_and_its_input_a_scale_of_one() -> None:
    drawn = WaveInverse([3], 0.25).draw(20_000, numbers())
    clean = [[f(z - lag) for lag in range(3)] for z in drawn.targets().tolist()]
    x = drawn.features["value"]
    noise = INPUT_STD * x + INPUT_MEAN - torch.tensor(clean)
    assert float(noise.std()) == pytest.approx(0.25, rel=0.02)
    assert abs(float(noise.mean())) < 0.004
    plain = WaveInverse([3], 0.1).draw(20_000, numbers()).features["value"]
    assert abs(float(plain.mean())) < 0.03
    assert float(plain.std()) == pytest.approx(1.0, abs=0.03)


def test_the_wave_is_also_tested_by_length() -> None:
    data = small(WaveInverse([2, 4]), test_size=200)
    sources = data.test_sources()
    assert list(sources) == ["test", "length_2", "length_4"]
    for length in (2, 4):
        part = sources[f"length_{length}"]
        assert set(part.gather(torch.arange(len(part))).lengths.tolist()) == {length}
    assert len(sources["length_2"]) + len(sources["length_4"]) == 200
    assert list(small(WaveInverse([3])).test_sources()) == ["test"]


def test_the_posterior_variance_is_that_of_a_sum_over_a_fine_grid() -> None:
    z = np.linspace(0, 10, 200_001)
    for values in ([2.0, 3.1], [3.3, 2.2, 3.0], [1.0]):
        logs = np.zeros_like(z)
        for lag, value in enumerate(values):
            x = z - lag
            wave = 2 + np.sin(x / 2 - 1) / 2 + np.sin(x) + np.sin(2 * x + 2) + np.sin(x / 4 + 1)
            logs -= (value - wave) ** 2 / (2 * 0.1**2)
        weight = np.exp(logs - logs.max())
        weight /= weight.sum()
        expected = (weight * z**2).sum() - (weight * z).sum() ** 2
        found = posterior_variance(torch.tensor([values], dtype=torch.float64), 0.1)
        assert float(found) == pytest.approx(expected, rel=1e-3)


def test_the_floors_of_the_wave_are_those_that_were_computed_before() -> None:
    floors = WaveInverse().best_possible()
    assert list(floors) == ["test/mse", "length_2/mse", "length_3/mse", "length_4/mse"]
    assert floors["test/mse"] == pytest.approx(0.466, rel=0.02)
    assert floors["length_2/mse"] == pytest.approx(1.367, rel=0.02)
    assert floors["length_3/mse"] == pytest.approx(0.0303, rel=0.05)
    assert floors["length_4/mse"] == pytest.approx(0.001155, rel=0.02)
    assert WaveInverse(noise=0.0).best_possible() == {}


@law
@given(st.integers(1, 20), st.integers(1, 30), seeds)
def test_the_target_of_a_cosine_is_its_next_value(length: int, more: int, seed: int) -> None:
    cosine = Cosine(length, length + more, 0.3)
    drawn = cosine.draw(10, numbers(seed))
    series = [math.cos(0.3 * t) for t in range(length + more)]
    windows = [series[i : i + length + 1] for i in range(more)]
    for row in range(10):
        window = [*drawn.features["value"][row].tolist(), float(drawn.targets()[row, -1])]
        assert any(window == pytest.approx(w, abs=1e-6) for w in windows)
        assert drawn.targets()[row].tolist() == window[1:]


def test_the_cosine_goes_on_after_its_first_window() -> None:
    window, following = Cosine().continuation(1_000)
    step = 200 / 1_999
    assert window.tolist() == pytest.approx([math.cos(step * t) for t in range(50)], abs=1e-6)
    late = [math.cos(step * t) for t in range(50, 1_050)]
    assert following.tolist() == pytest.approx(late, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(100, 100), "data.source.length=100 leaves no window of points=100"),
        (lambda: Parity(9, 8), "data.source.min_length=9 is above max_length=8"),
        (lambda: AssociativeRecall(9, 8), "data.source.num_pairs=9 needs as many keys; num_keys=8"),
        (lambda: AssociativeRecall(8, 8, 8, 23), "data.source.length=23 has no room for 8 pairs"),
        (lambda: DigitImages(797, 1_000), "data.val_size=797 and data.test_size=1000 leave none"),
    ],
)
def test_what_can_not_be_drawn_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(message)


TRIVIAL = {
    "adding": ("mse", lambda targets: (targets - 1.0).square()),
    "multiplication": ("mse", lambda targets: (targets - 0.25).square()),
    "wave_inverse": ("mse", lambda targets: (targets - 5.0).square()),
    "cosine": ("mse", lambda targets: targets.square()),
    "temporal_order": ("error", lambda targets: targets != 3),
    "temporal_order_3": ("error", lambda targets: targets != 5),
    "copy": ("error", lambda targets: targets != (torch.arange(40) >= 30).long()),
    "parity": ("error", lambda targets: targets[has_target(targets)] != 1),
    "recall": ("error", lambda targets: targets[has_target(targets)] != 7),
}


@pytest.mark.parametrize("name", TRIVIAL)
def test_the_trivial_score_is_what_a_trivial_answer_scores(name: str) -> None:
    generator = GENERATORS[name]()
    metric, cost = TRIVIAL[name]
    # Steps of a sequence are not independent: the error is that of the means of sequences.
    groups = cost(generator.draw(20_000, numbers()).targets()).double().flatten()
    groups = groups[: len(groups) // 500 * 500].view(500, -1).mean(1)
    error = float(groups.std()) / 500**0.5
    exact = generator.trivial_scores()[metric]
    # The series of the cosine is no whole number of periods.
    slack = 0.01 if name == "cosine" else 0.0
    assert float(groups.mean()) == pytest.approx(exact, abs=3 * error + slack)


@pytest.mark.parametrize("name", ["adding", "multiplication", "wave_inverse", "cosine"])
def test_the_schema_knows_mean_and_spread_of_real_targets(name: str) -> None:
    generator = GENERATORS[name]()
    targets = generator.draw(20_000, numbers()).targets()
    assert float(targets.mean()) == pytest.approx(generator.schema.target_mean, abs=0.05)
    assert float(targets.std()) == pytest.approx(generator.schema.target_std, rel=0.02)


def test_the_exact_trivial_scores_of_adding_and_copy() -> None:
    assert MarkedNumbers().trivial_scores() == {"mse": pytest.approx(1 / 6)}
    assert CopyMemory(1_000).trivial_scores()["loss"] == pytest.approx(0.0204, abs=5e-5)
    assert CopyMemory(200).trivial_scores()["loss"] == pytest.approx(10 * math.log(8) / 220)


def test_random_labels_are_normal_vectors_with_labels_of_every_class() -> None:
    drawn = RandomLabels(8, 10, 3).draw(500, numbers())
    vectors = drawn.features["vector"]
    assert vectors.shape == (500, 8, 10)
    assert abs(float(vectors.mean())) < 0.02
    assert float(vectors.std()) == pytest.approx(1.0, abs=0.02)
    shares = torch.bincount(drawn.targets().flatten()) / drawn.targets().numel()
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_the_digits_are_all_there_once_and_right_way_up() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    digits = sklearn.load_digits()
    known = {
        tuple(image.flatten().tolist()): int(target)
        for image, target in zip(digits.images, digits.target, strict=True)
    }
    data = DigitImages(seed=3)
    seen = 0
    for split, size in (("train", 1_257), ("val", 180), ("test", 360)):
        source = data.source(split)
        assert len(source) == size
        for image, target in zip(source.features["row"], source.targets(), strict=True):
            assert known[tuple((16 * image).flatten().tolist())] == int(target)
        seen += size
    assert seen == len(known) == 1_797
    assert same(data.source("val"), DigitImages(seed=3).source("val"))
    assert not same(data.source("val"), DigitImages(seed=4).source("val"))


@pytest.mark.parametrize(("symbols", "order"), [(2, 1), (5, 1), (3, 2), (2, 4)])
def test_the_entropy_of_a_grammar_is_that_of_its_stationary_distribution(
    symbols: int, order: int
) -> None:
    grammar = Grammar(symbols, order, seed=7)
    p = grammar.transitions.numpy()
    assert p.shape == (symbols**order, symbols)
    assert p.sum(1) == pytest.approx(1.0)
    assert p.min() > 0
    contexts = symbols**order
    moves = np.zeros((contexts, contexts))
    for context in range(contexts):
        for symbol in range(symbols):
            moves[context, (context * symbols + symbol) % contexts] += p[context, symbol]
    values, vectors = np.linalg.eig(moves.T)
    stationary = np.real(vectors[:, np.argmin(abs(values - 1))])
    stationary /= stationary.sum()
    entropy = -(stationary[:, None] * p * np.log(p)).sum()
    # Contexts with unlikely ways out slow the iteration down.
    assert grammar.entropy() == pytest.approx(entropy, rel=1e-5)
    assert grammar.perplexity() == pytest.approx(math.exp(entropy), rel=1e-5)


def test_the_true_probabilities_reach_the_entropy_on_a_long_text() -> None:
    grammar = Grammar(4, 2, concentration=0.5, seed=1)
    text = grammar.draw(400, 502, numbers())
    contexts = 4 * text[:, :-2] + text[:, 1:-1]
    costs = -grammar.transitions[contexts, text[:, 2:]].log()
    each = costs[:, 50:].mean(1)
    error = float(each.std()) / len(each) ** 0.5
    assert float(each.mean()) == pytest.approx(grammar.entropy(), abs=3 * error)


def test_a_grammars_texts_differ_by_split_and_seed_and_its_language_by_its_own_seed() -> None:
    grammar = Grammar(5, 1, train_symbols=300, eval_symbols=200)
    train = grammar.streams("train", 3, 0)
    assert train.shape == (3, 100)
    assert 2 <= int(train.min()) <= int(train.max()) <= 6
    assert torch.equal(train, grammar.streams("train", 3, 0))
    assert not torch.equal(train, grammar.streams("train", 3, 1))
    val, test = grammar.streams("val", 2, 0), grammar.streams("test", 2, 0)
    assert val.shape == (2, 100)
    assert not torch.equal(val, test)
    assert not torch.equal(train[:2], val)
    assert torch.equal(grammar.transitions, Grammar(5, 1).transitions)
    assert not torch.equal(grammar.transitions, Grammar(5, 1, seed=1).transitions)

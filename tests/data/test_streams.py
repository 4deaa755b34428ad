"""Streams: windows joined are the streams, and a model that reads them never loses its place."""

from __future__ import annotations

import io
from functools import partial
from itertools import chain
from typing import Any

import lightning
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled.data.batch import SequenceBatch
from unrolled.data.store import JaggedSequences
from unrolled.data.streams import StreamLoader
from unrolled.data.tensors import TensorSequences
from unrolled.data.text import TextData
from unrolled.errors import UserError
from unrolled.models.embedding import DenseEmbedding
from unrolled.models.head import ClassificationHead
from unrolled.models.readout import EveryStep
from unrolled.models.recurrent import GRU, LSTM
from unrolled.models.sequence import SequenceModel
from unrolled.synthetic.grammar import Grammar
from unrolled.tasks.next_word import NextWord

law = settings(max_examples=25, deadline=None)


def streams(count: int, steps: int) -> TensorSequences:
    """Every symbol of every stream another number."""
    ids = torch.arange(count * (steps + 1)).view(count, steps + 1)
    return TensorSequences({"symbol": ids[:, :-1]}, ids[:, 1:])


def joined(windows: list[SequenceBatch]) -> tuple[Tensor, Tensor]:
    features = torch.cat([w.features["symbol"] for w in windows], 1)
    return features, torch.cat([w.targets for w in windows], 1)


@law
@given(st.integers(1, 5), st.integers(1, 20), st.integers(1, 8))
def test_windows_joined_are_the_streams(count: int, steps: int, bptt: int) -> None:
    source = streams(count, steps)
    loader = StreamLoader(source, bptt)
    windows = list(loader)
    assert len(windows) == len(loader) == -(-steps // bptt)
    features, targets = joined(windows)
    assert torch.equal(features, source.features["symbol"])
    assert torch.equal(targets, source.targets())
    rows = list(range(count))
    goes_on = [w.continues.tolist() for w in windows if w.continues is not None]
    assert goes_on == [[-1] * count] + [rows] * (len(windows) - 1)
    for window in windows[:-1]:
        assert window.lengths.tolist() == [bptt] * count
    assert windows[-1].lengths.tolist() == [(steps - 1) % bptt + 1] * count
    assert windows[-1].weight == 1.0
    again = list(loader)
    assert torch.equal(joined(again)[0], features)
    assert again[0].continues is not None
    assert again[0].continues.tolist() == [-1] * count


@law
@given(st.integers(1, 9), st.integers(1, 4))
def test_every_stream_is_read_by_one_process(count: int, ranks: int) -> None:
    source = streams(count, 7)
    loaders = [StreamLoader(source, 3, rank=r, num_ranks=ranks) for r in range(ranks)]
    assert len({len(loader) for loader in loaders}) == 1
    weights = 0.0
    for rank, loader in enumerate(loaders):
        part = list(range(rank, count, ranks))
        windows = list(loader)
        assert all(w.ids.tolist() == part for w in windows)
        if part:
            assert torch.equal(joined(windows)[0], source.features["symbol"][part])
            weights += windows[0].weight
    # The mean over processes of weight times mean is the mean over all streams.
    assert weights / ranks == pytest.approx(1.0)


@law
@given(st.integers(0, 12), st.integers(1, 12), st.integers(1, 4))
def test_a_saved_position_is_taken_up_again(done: int, steps: int, bptt: int) -> None:
    loader = StreamLoader(streams(2, steps), bptt)

    def forever(one: StreamLoader) -> Any:
        while True:
            for window in one:
                yield one.epoch, window

    reader = forever(loader)
    for _ in range(done):
        next(reader)
    position = loader.state_dict()
    twin = StreamLoader(streams(2, steps), bptt)
    twin.load_state_dict(position)
    resumed = forever(twin)
    for _ in range(2 * len(loader)):
        (epoch, expected), (epoch_again, found) = next(reader), next(resumed)
        assert epoch == epoch_again
        assert torch.equal(found.features["symbol"], expected.features["symbol"])
        assert found.continues is not None
        assert expected.continues is not None
        assert found.continues.tolist() == expected.continues.tolist()


def make_task(kind: Any = GRU, symbols: int = 5, seed: int = 0) -> NextWord:
    torch.manual_seed(seed)
    schema = TextData(Grammar(symbols, 1)).schema
    embedding = DenseEmbedding(schema)
    assert schema.num_classes is not None
    head = ClassificationHead(6, schema.num_classes)
    model = SequenceModel(embedding, kind(embedding.output_size, 6), EveryStep(6), head)
    return NextWord(model, partial(torch.optim.SGD, lr=0.1))


def text(**options: Any) -> TextData:
    grammar = Grammar(5, 1, train_symbols=60, eval_symbols=40)
    return TextData(grammar, **({"batch_size": 3, "eval_batch_size": 2, "bptt": 4} | options))


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_windows_with_carried_state_give_what_one_pass_gives(kind: Any) -> None:
    task, data = make_task(kind).eval(), text()
    with torch.no_grad():
        parts = torch.cat([task(window) for window in data.loader("train")], 1)
        whole = task(data.source("train").gather(torch.arange(3)))
    assert parts.shape == (3, 19, 7)
    torch.testing.assert_close(parts, whole)
    with torch.no_grad():
        # A second epoch begins without the state of the first.
        again = torch.cat([task(window) for window in data.loader("train")], 1)
    assert torch.equal(again, parts)


def test_gradients_end_where_the_window_begins() -> None:
    task, data = make_task(), text()
    first, second = list(data.loader("train"))[:2]
    task(first)
    carried = task._carried[True]
    assert not carried.requires_grad
    gradients = torch.autograd.grad(
        task.losses(task(second), second).mean(), list(task.parameters())
    )
    # The same window with the carried state as a constant.
    encoded, _ = task.model.encode(second, carried.clone())
    outputs = task.model.decode(encoded, second.lengths)
    expected = torch.autograd.grad(task.losses(outputs, second).mean(), list(task.parameters()))
    for found, gradient in zip(gradients, expected, strict=True):
        assert torch.equal(found, gradient)


def test_a_validation_in_between_leaves_the_carried_state_alone() -> None:
    task, data = make_task(), text()
    train = list(data.loader("train"))
    task(train[0])
    carried = task._carried[True].clone()
    task.eval()
    with torch.no_grad():
        for window in data.loader("val"):
            task(window)
    task.train()
    assert torch.equal(task._carried[True], carried)
    undisturbed = make_task()
    undisturbed(train[0])
    assert torch.equal(task(train[1]), undisturbed(train[1]))


def test_batches_that_are_no_stream_carry_nothing() -> None:
    task, data = make_task().eval(), text()
    batch = data.source("val").gather(torch.arange(2))
    with torch.no_grad():
        assert torch.equal(task(batch), task(batch))
    assert len(task._carried) == 0


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_the_carried_state_is_in_the_checkpoint(kind: Any) -> None:
    task, data = make_task(kind), text()
    train = list(data.loader("train"))
    task(train[0])
    checkpoint: dict[str, Any] = {}
    task.on_save_checkpoint(checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    twin = make_task(kind)
    twin.on_load_checkpoint(torch.load(file, weights_only=True))
    assert torch.equal(twin(train[1]), task(train[1]))


def trainer(steps: int) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, max_steps=steps,
        val_check_interval=2, num_sanity_val_steps=0,
    )  # fmt: skip


def test_training_goes_window_by_window_from_where_it_was() -> None:
    task = make_task()
    trainer(7).fit(task, datamodule=text())
    # By hand, with a state of its own: 5 windows an epoch, then the streams begin again.
    twin = make_task()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    state, windows = None, list(text().loader("train"))
    for step in range(7):
        window = windows[step % 5]
        encoded, state = twin.model.encode(window, state if step % 5 else None)
        state = state.detach()
        outputs = twin.model.decode(encoded, window.lengths)
        loss = torch.nn.functional.cross_entropy(outputs.transpose(1, 2), window.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for found, expected in zip(task.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_stopped_run_goes_on_in_the_middle_of_a_stream(tmp_path: Any) -> None:
    whole = make_task()
    trainer(8).fit(whole, datamodule=text())
    half, runner = make_task(), trainer(3)
    saver = lightning.pytorch.callbacks.LambdaCallback(
        on_train_batch_end=lambda t, *_: (
            t.global_step == 3 and t.save_checkpoint(tmp_path / "half.ckpt")
        )
    )
    runner.callbacks.append(saver)  # type: ignore[attr-defined]
    runner.fit(half, datamodule=text())
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert saved["carried_states"][0]["state"].shape == (1, 3, 6)
    resumed = make_task(seed=9)
    trainer(8).fit(resumed, datamodule=text(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for found, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(found, expected)


def jagged(of_lengths: list[int]) -> JaggedSequences:
    """Event number i has the feature i and the target i + 1."""
    offsets = torch.cat([torch.zeros(1), (torch.tensor(of_lengths) + 1).cumsum(0)]).long()
    events = torch.arange(int(offsets[-1]))
    return JaggedSequences({"symbol": events}, offsets, None, None, "next_item", "symbol")


@law
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=30),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(0, 99),
)
def test_windows_are_even_and_have_every_stream(
    of_lengths: list[int], bptt: int, most_streams: int, seed: int
) -> None:
    source = jagged(of_lengths)
    loader = StreamLoader(source, bptt, most_streams, shuffle=True, seed=seed)
    longest, events = max(of_lengths), sum(of_lengths)
    assert loader.num_streams == min(most_streams, max(1, events // (2 * longest)))
    assert len({len(StreamLoader(source, bptt, most_streams, seed=s)) for s in range(3)}) == 1
    windows = list(loader)
    sizes = [int(window.lengths.sum()) for window in windows]
    assert min(sizes) >= loader.num_streams
    # No stream has more than its share and the longest sequence.
    most = -(-events // loader.num_streams) + longest
    largest = max(bptt, -(-most // len(windows)))
    assert all(max(window.lengths) <= largest for window in windows)
    if loader.num_streams == 1:
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= bptt


def test_where_a_session_ends_the_next_one_takes_its_place() -> None:
    # Figure 1 of Hidasi et al. 2016.
    windows = list(StreamLoader(jagged([3, 2, 4, 3, 2, 4]), 1, 2))
    assert len(windows) == 6
    read = [sorted(w.features["symbol"].tolist()) for w in windows]
    # Sessions 0, 1 and 2 make one stream, 3, 4 and 5 the other; nine steps each.
    first, second = [0, 1, 2, 4, 5, 7, 8, 9, 10], [12, 13, 14, 16, 17, 19, 20, 21, 22]
    assert sorted(chain(*read)) == first + second
    assert read[0] == [0, 12]
    starts = {0, 4, 7, 12, 16, 19}
    for window in windows:
        assert window.continues is not None
        packed_first = window.features["symbol"][: len(window)].tolist()
        for symbol, row in zip(packed_first, window.continues.tolist(), strict=True):
            assert (symbol in starts) == (row == -1)


def test_streams_too_few_for_the_processes_are_refused() -> None:
    source = jagged([4] * 6)
    StreamLoader(source, 2, 3, num_ranks=3).require_shares()
    with pytest.raises(UserError, match="3 train streams are too few for 4 processes"):
        StreamLoader(source, 2, 8, num_ranks=4).require_shares()

"""Losses and judgements are the same for padded, packed and streamed batches."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unrolled.data.batch import NO_TARGET, SequenceBatch
from unrolled.data.batching import PackedLoader
from unrolled.data.schema import Numeric, Schema
from unrolled.data.store import JaggedSequences, Target
from unrolled.data.streams import StreamLoader
from unrolled.errors import UserError
from unrolled.models.embedding import DenseEmbedding
from unrolled.models.head import BinaryHead, ClassificationHead, Head
from unrolled.models.readout import EveryStep, Last
from unrolled.models.recurrent import GRU
from unrolled.models.regularizers import NormStabilizer
from unrolled.models.sequence import SequenceModel
from unrolled.tasks.classification import Classification
from unrolled.tasks.targets import flatten_steps

law = settings(max_examples=25, deadline=None)
lengths = st.lists(st.integers(1, 9), min_size=1, max_size=12)
CLOSE = {"rtol": 0.0, "atol": 1e-6}


def sequences(of_lengths: list[int], target: Target = "label") -> JaggedSequences:
    """Random numbers; the label is 0 or 1, and so is the item that comes next."""
    extra = int(target != "label")
    offsets = torch.cat([torch.zeros(1), (torch.tensor(of_lengths) + extra).cumsum(0)]).long()
    x = torch.randn(int(offsets[-1]))
    labels = torch.randint(2, (len(of_lengths),))
    source = JaggedSequences({"x": x}, offsets, labels, None, target, "item")
    # Not a feature that the model reads.
    source.columns["item"] = torch.randint(2, (len(x),))
    return source


def make_task(readout: type[nn.Module], head: Head | None = None, **options: Any) -> Classification:
    encoder = options.pop("encoder", None) or GRU(1, 4)
    model = SequenceModel(
        DenseEmbedding(Schema((Numeric("x"),), 2)),
        encoder,
        readout(encoder.output_size),
        head or ClassificationHead(encoder.output_size, 2),
    )
    return Classification(model, partial(torch.optim.SGD, lr=0.1), **options)


def in_both_forms(source: JaggedSequences) -> list[SequenceBatch]:
    """All sequences as one batch, padded and packed, in the same order."""
    (packed,) = PackedLoader(source, len(source))
    return [source.gather(packed.ids), packed]


@pytest.mark.parametrize("target", ["label", "next_item"])
@pytest.mark.parametrize("readout", [EveryStep, Last])
@pytest.mark.parametrize("over_time", ["mean", "sum"])
@law
@given(of_lengths=lengths, seed=st.integers(0, 2**31))
def test_packed_batches_have_the_losses_and_scores_of_padded_ones(
    target: Target, readout: type[nn.Module], over_time: Any, of_lengths: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    task = make_task(readout, over_time=over_time)
    losses, scores = [], []
    for batch in in_both_forms(sequences(of_lengths, target)):
        losses.append(task.losses(task(batch), batch))
        task.eval().validation_step(batch, 0)
        scores.append({k: float(v) for k, v in task.judges["val"].take().items()})  # type: ignore[operator]
    assert losses[0].shape == (len(of_lengths),)
    torch.testing.assert_close(losses[1], losses[0], **CLOSE)
    assert scores[1] == pytest.approx(scores[0], abs=1e-6)


@law
@given(of_lengths=lengths, seed=st.integers(0, 2**31))
def test_packed_steps_are_regularised_as_padded_ones(of_lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    task = make_task(Last, regularizers=[NormStabilizer()])
    task.trainer = lightning.Trainer(logger=False, barebones=True, accelerator="cpu")
    padded, packed = (task.training_step(b, 0) for b in in_both_forms(sequences(of_lengths)))
    torch.testing.assert_close(packed, padded, **CLOSE)


@pytest.mark.parametrize("target", ["next_item", "next_event"])
@law
@given(of_lengths=lengths)
def test_flat_steps_are_the_same_of_either_form(target: Target, of_lengths: list[int]) -> None:
    source = sequences(of_lengths, target)
    source.times = torch.arange(len(source.columns["x"])).double()
    found = []
    for batch in in_both_forms(source):
        # Outputs that tell where they came from.
        outputs = batch.features["x"].unsqueeze(-1).expand(*batch.features["x"].shape, 3)
        items, targets = flatten_steps(outputs, batch)
        assert items.shape == (int(source.lengths.sum()), 3)
        order = items[:, 0].argsort()
        found.append((items[order], targets[order]))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_flat_steps_leave_out_those_without_a_target() -> None:
    outputs = torch.arange(4.0).view(4, 1)
    targets = torch.tensor([3, NO_TARGET, 1, 0])
    batch = SequenceBatch({}, torch.tensor([3, 1]), targets, torch.arange(2), packed=True)
    items, asked = flatten_steps(outputs, batch)
    assert items.tolist() == [[0.0], [2.0], [3.0]]
    assert asked.tolist() == [3, 1, 0]


@pytest.mark.parametrize("head", [ClassificationHead, BinaryHead])
@law
@given(of_lengths=lengths, bptt=st.integers(1, 6), seed=st.integers(0, 2**31))
@torch.no_grad()
def test_a_label_is_asked_once_in_a_stream_where_its_sequence_ends(
    head: Any, of_lengths: list[int], bptt: int, seed: int
) -> None:
    torch.manual_seed(seed)
    source, task = sequences(of_lengths * 3), make_task(Last, head(4, 2))
    whole = source.gather(torch.arange(len(source)))
    expected = task.losses(task(whole), whole)
    found = torch.zeros(len(source))
    for window in StreamLoader(source, bptt, 3, shuffle=True, seed=seed):
        losses = task.losses(task(window), window)
        ends = window.targets != NO_TARGET
        assert bool((losses[~ends] == 0).all())
        found.index_add_(0, window.ids, losses)
        if bool(ends.any()):
            # The mean loss with its weight is the mean over the labels.
            mean = float(losses.mean()) * window.weight
            assert mean == pytest.approx(float(losses[ends].mean()), abs=1e-5)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_a_stream_refuses_an_encoder_that_reads_the_future() -> None:
    task = make_task(EveryStep, encoder=GRU(1, 4, bidirectional=True))
    (window, *_) = StreamLoader(sequences([3, 3]), 2, 1)
    with pytest.raises(UserError, match="reads the future, which a window of a stream has not"):
        task(window)


def test_training_on_a_stream_carries_the_state_of_each_row() -> None:
    torch.manual_seed(0)
    source, task = sequences([5, 2, 7, 3] * 4, "next_item"), make_task(EveryStep)
    windows = list(StreamLoader(source, 3, 2, shuffle=True))
    for before, window in zip([None, *windows[:-1]], windows, strict=True):
        assert window.continues is not None
        going_on = window.continues >= 0
        if before is None:
            assert not bool(going_on.any())
        else:
            assert torch.equal(window.ids[going_on], before.ids[window.continues[going_on]])
        task(window)
        assert task._carried[True].shape == (1, len(window), 4)
    assert sum(int((w.continues >= 0).sum()) for w in windows if w.continues is not None) > 5

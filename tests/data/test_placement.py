"""Where the events lie makes no difference to the batches."""

from __future__ import annotations

import pytest
import torch

from unrolled.data import placement
from unrolled.data.placement import choose, place
from unrolled.data.store import JaggedSequences
from unrolled.errors import UserError

CPU = torch.device("cpu")


def sequences() -> JaggedSequences:
    offsets = torch.tensor([0, 3, 5, 9])
    events, labels = torch.arange(9, dtype=torch.int32), torch.tensor([1, 0, 1])
    return JaggedSequences({"event": events}, offsets, labels, events.double())


def test_memory_is_a_copy_with_the_same_batches() -> None:
    source = sequences()
    copied = place(source, "memory", CPU)
    assert copied.columns["event"].data_ptr() != source.columns["event"].data_ptr()
    for ours, theirs in ((source, copied), (source, place(source, "device", CPU))):
        one, other = ours.gather(torch.tensor([2, 0])), theirs.gather(torch.tensor([2, 0]))
        assert torch.equal(one.features["event"], other.features["event"])
        assert torch.equal(one.targets, other.targets)
        assert other.targets.tolist() == [1, 1]


def test_disk_leaves_the_events_where_they_are() -> None:
    source = sequences()
    assert place(source, "disk", CPU) is source


def test_auto_copies_what_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    source = sequences()
    assert source.num_bytes == 9 * (4 + 8)
    monkeypatch.setattr(placement, "SMALL_BYTES", 9 * 12)
    assert choose(source.num_bytes, CPU) == "memory"
    monkeypatch.setattr(placement, "SMALL_BYTES", 9 * 12 - 1)
    assert choose(source.num_bytes, CPU) == "disk"
    assert place(source, "auto", CPU) is source


def test_auto_takes_a_gpu_with_room_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    gpu = torch.device("cuda", 0)
    assert choose(500, gpu) == "device"
    assert choose(501, gpu) == "memory"


def test_a_device_without_room_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: JaggedSequences, device: torch.device) -> JaggedSequences:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(JaggedSequences, "copy_to", full)
    with pytest.raises(UserError, match=r"data.placement=device: no room .* data.placement=disk"):
        place(sequences(), "device", CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_batches_are_gathered_on_the_device() -> None:
    source = sequences()
    placed = place(source, "auto", torch.device("cuda", 0))
    for ours, theirs in (
        (source.gather(torch.tensor([2, 0])), placed.gather(torch.tensor([2, 0]))),
        *zip(
            source.pack(torch.arange(3), [2, 1]),
            placed.pack(torch.arange(3), [2, 1]),
            strict=True,
        ),
    ):
        assert theirs.features["event"].device.type == "cuda"
        assert theirs.targets.device.type == "cuda"
        assert theirs.lengths.device.type == "cpu"
        assert torch.equal(theirs.features["event"].cpu(), ours.features["event"])
        assert torch.equal(theirs.targets.cpu(), ours.targets)

"""One process and several: the same sequences, the same metrics, also where some have none."""

from __future__ import annotations

import os
import socket
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from unrolled.data.batch import SequenceBatch
from unrolled.data.batching import Loader
from unrolled.data.buckets import BucketedLoader
from unrolled.data.module import SequenceData, Split
from unrolled.data.schema import Categorical, Schema
from unrolled.data.store import JaggedSequences
from unrolled.models.embedding import EventEmbedding
from unrolled.models.head import BinaryHead
from unrolled.models.readout import Last
from unrolled.models.recurrent import GRU
from unrolled.models.row_adam import RowAdam
from unrolled.models.sequence import SequenceModel
from unrolled.tasks.purchase_intent import PurchaseIntent

SIZES = (1, 2, 7, 1000)
"""Of the validation and the test set."""


class Sessions(SequenceData):
    """40 sessions to train on, `size` to validate and `size` to test; label 1 starts with page 4.

    The batches that train are bucketed, those that judge are of 300 sessions at most.
    """

    def __init__(self, size: int) -> None:
        super().__init__(8, 300, True, 5)
        random = torch.Generator().manual_seed(size)
        self.sources = {}
        for split, count in (("train", 40), ("val", size), ("test", size)):
            lengths = torch.randint(2, 9, (count,), generator=random)
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            page = torch.randint(1, 4, (int(offsets[-1]),), generator=random)
            labels = torch.randint(2, (count,), generator=random)
            page[offsets[:-1][labels == 1]] = 4
            self.sources[split] = JaggedSequences({"page": page}, offsets, labels)

    @property
    def schema(self) -> Schema:
        return Schema((Categorical("page", 5),), 2)

    def source(self, split: Split) -> JaggedSequences:
        return self.sources[split]

    def read(self, path: Path) -> Any:
        raise AssertionError("not asked")

    def make_loader(self, source: Any, train: bool, **sharding: Any) -> Loader:
        if train:
            return BucketedLoader(source, 64, **sharding)
        return super().make_loader(source, train, **sharding)


class Noting(lightning.Callback):
    """Notes which sequences each training batch has."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def on_train_batch_start(self, trainer: Any, task: Any, batch: SequenceBatch, k: int) -> None:
        self.batches.append(sorted(batch.ids.tolist()))


def run(size: int, num_ranks: int, **options: Any) -> dict[str, Any]:
    """Train for some epochs and test; what this process saw and found."""
    optimizer = options.pop("optimizer", partial(torch.optim.SGD, lr=0.3))
    torch.manual_seed(0)
    data = Sessions(size)
    embedding = EventEmbedding(data.schema)
    encoder = GRU(embedding.output_size, 4)
    model = SequenceModel(embedding, encoder, Last(4), BinaryHead(4))
    task = PurchaseIntent(model, optimizer, events_seen=(1, 3))
    noting = Noting()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=num_ranks, strategy="ddp" if num_ranks > 1 else "auto",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=4,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        callbacks=[EarlyStopping("val/log_loss", patience=1, min_delta=0.01), noting], **options,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    # Their own copies: the test begins anew.
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    stopped = trainer.current_epoch
    trainer.test(task, datamodule=data, verbose=False)
    return {
        "validation": found,
        "stopped": stopped,
        "test": dict(task.results),
        "undefined": dict(task.undefined),
        "batches": noting.batches,
        "weights": [p.detach() for p in task.parameters()],
    }


def runs(num_ranks: int) -> list[dict[str, Any]]:
    """One for each size, and one whose table is updated by row."""
    # With such an eps updates do not make more of the sums' rounding than gradients do.
    optimizer = partial(RowAdam, lr=0.03, eps=0.1)
    by_row = run(SIZES[2], num_ranks, optimizer=optimizer, gradient_clip_val=0.2)
    return [*(run(size, num_ranks) for size in SIZES), by_row]


def of_rank(rank: int, num_ranks: int, port: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    torch.save(runs(num_ranks), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(90)
@pytest.mark.filterwarnings("ignore")
def test_several_processes_count_every_sequence_once_and_agree_with_one(tmp_path: Path) -> None:
    alone = runs(1)
    num_ranks = 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked: torch is loaded already.
    torch.multiprocessing.start_processes(
        of_rank, (num_ranks, port, tmp_path), num_ranks, start_method="fork"
    )
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(num_ranks)]
    for size, one, *several in zip((*SIZES, SIZES[2]), alone, *ranks, strict=True):
        assert one["test"]["test/sequences"] == size
        assert len(one["batches"]) > 4
        for part in several:
            assert part["stopped"] == one["stopped"]
            assert part["validation"] == several[0]["validation"]
            assert part["undefined"] == one["undefined"]
            assert part["test"] == pytest.approx(several[0]["test"], rel=0, abs=0, nan_ok=True)
            assert part["test"] == pytest.approx(one["test"], abs=1e-5, nan_ok=True)
            assert len(part["batches"]) == len(one["batches"])
            same: list[Tensor] = [
                (a - b).abs().max() for a, b in zip(part["weights"], one["weights"], strict=True)
            ]
            assert max(same) < 1e-6
        for batch, *parts in zip(one["batches"], *(p["batches"] for p in several), strict=True):
            assert sorted(i for part in parts for i in part) == batch

"""The LightningDataModule that all data share: three sources become three loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning
import torch
from torch import Tensor

from unrolled.data.batching import BatchLoader, Loader, Source
from unrolled.data.schema import Schema
from unrolled.data.tuning import HPO_VAL, parts
from unrolled.data.workers import WorkerLoader
from unrolled.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

Split = Literal["train", "val", "test"]


class SequenceData(lightning.LightningDataModule, ABC):
    """Sequences with one target each, in three splits.

    Args:
        batch_size: Sequences of an optimizer step, over all processes.
        eval_batch_size: Sequences of a validation or test batch, over all processes.
        shuffle: A new order of the training sequences each epoch.
        seed: Of that order.
        workers: Processes that gather batches ahead; see `WorkerLoader`. 0 gathers in the process
            that trains, which takes at most a few hundredths of a step.
        hpo_val: Share of the validation set that is set apart to choose a configuration by. What
            says when to stop and which checkpoint is best never sees it; it is judged once, at the
            end of a run, under `hpo_val/`.
    """

    cells_per_batch: int | None = None
    """Steps of a padded batch with its padding, at most; None sets no limit."""
    with_tests = True
    """Whether `test_sources` has the test sets; else only what configurations are chosen by."""

    most_validated: int | None = None
    """How many of its sequences a validation looks at; None for all."""

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        shuffle: bool,
        seed: int,
        workers: int = 0,
        hpo_val: float = 0.0,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.workers = workers
        self.hpo_val = hpo_val
        self._train_loader: Loader | None = None
        self._position: dict[str, int] | None = None

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """Features and target; known after `setup`."""

    @abstractmethod
    def source(self, split: Split) -> Source:
        """The sequences of a split."""

    @abstractmethod
    def read(self, path: Path) -> tuple[pa.Table, Source]:
        """New sequences from a Parquet or CSV file, without targets.

        Returns:
            The columns that name the sequences in the output, one row a sequence in the order of
            the source's indices; and the source.

        Raises:
            UserError: When the file does not fit the schema.
        """

    def parse(self, text: str) -> tuple[pa.Table, Source]:
        """A new sequence that is typed, as `read` gives those of a file.

        Raises:
            UserError: Where sequences can't be typed.
        """
        raise UserError("sequences of these data can't be typed; hand in a file with --input")

    def further_tests(self) -> dict[str, Source]:
        """Test sets beside the test split, by name: other lengths than were trained on."""
        return {}

    def test_sources(self) -> dict[str, Source]:
        """What is judged at the end, by the prefix of its metrics.

        `test`, the further test sets, and `hpo_val` where it is set apart.
        """
        tests = {"test": self.source("test"), **self.further_tests()} if self.with_tests else {}
        if self.hpo_val:
            tests[HPO_VAL] = parts(self.source("val"), self.hpo_val)[1]
        return tests

    def validation(self) -> Source:
        """The validation sequences that say when to stop and which checkpoint is best.

        With `most_validated` they are a sample, the same each time, with its labels in proportion.

        Raises:
            UserError: When `hpo_val` leaves none of them, or takes none.
        """
        whole = self.source("val")
        if self.hpo_val:
            whole = parts(whole, self.hpo_val)[0]
        if self.most_validated is not None and self.most_validated < len(whole):
            return parts(whole, self.most_validated / len(whole))[1]
        return whole

    def sequence_ids(self, split: Split) -> pa.Array | None:
        """The names that the sequences of a split have in their source, if any."""
        return None

    def sequence_names(self, split: Split) -> pa.Table | None:
        """The names of `sequence_names` as columns of an output, if there are any."""
        return None

    def save_schema(self, directory: Path) -> None:
        """Write to `directory` what is needed to read new sequences without the training data."""

    def load_schema(self, directory: Path) -> None:
        """Read new sequences by what `save_schema` wrote to `directory`."""

    def require_unchanged(self) -> None:
        """Refuse data that differ from those that the loaded schema was made of.

        Raises:
            UserError: When they do.
        """

    def require_usable(self, splits: Sequence[Split]) -> None:
        """Refuse data that can't be trained or tested on, before any time is spent.

        Raises:
            UserError: When there is nothing to train on.
        """
        if "train" in splits and not len(self.source("train")):
            raise UserError("data: there is no training sequence")

    def train_targets(self) -> Tensor:
        """The targets of the training sequences, in any order."""
        return self.source("train").targets()

    def class_counts(self) -> Tensor:
        """How often each class is a training target, `[num_classes]` int64."""
        targets = self.train_targets().cpu()
        if targets.is_floating_point():
            # Of the next event: its type, beside the time.
            targets = targets[:, 0].long()
        targets = targets.flatten()
        assert self.schema.num_classes is not None
        return torch.bincount(targets[targets >= 0], minlength=self.schema.num_classes)

    def class_names(self) -> pa.Array | None:
        """What the classes are called, in their order; None where they are numbers."""
        return None

    def best_possible(self) -> dict[str, float]:
        """The best value any model can reach on a test set, for the metrics where it is known.

        Keys are names of metrics, `error`, or with the test set's prefix, `length_3/mse`, where
        it differs from set to set.
        """
        return {}

    def trivial_scores(self) -> dict[str, float]:
        """What a trivial answer scores where it is known exactly; keys as in `best_possible`."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where batches are made: the trainer's device; the CPU by workers or without a trainer."""
        if self.trainer is None or self.workers:
            return torch.device("cpu")
        return self.trainer.strategy.root_device

    def loader(self, split: Split, source: Source | None = None) -> Loader:
        """The loader of a split (or of another source), sharded over the trainer's processes."""
        train = split == "train"
        num_ranks = self.trainer.world_size if self.trainer else 1
        # The same batch over and over must be the same sequences.
        overfits = getattr(self.trainer, "overfit_batches", 0) > 0
        loader = self.make_loader(
            self.source(split) if source is None else source,
            train,
            shuffle=train and self.shuffle and not overfits,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            num_ranks=num_ranks,
        )
        if train:
            loader.require_shares()
        return WorkerLoader(loader, self.workers) if self.workers else loader

    def make_loader(self, source: Source, train: bool, **sharding: Any) -> Loader:
        """How sequences become batches: by their number.

        Args:
            source: The sequences.
            train: Whether to train on them, or to judge.
            **sharding: The further arguments of each loader: order, seed and ranks.
        """
        size = self.size(train, sharding["num_ranks"])
        return BatchLoader(source, size, self.cells_per_batch, **sharding)

    def sequences_per_step(self) -> float:
        """Training sequences of an optimizer step, on average."""
        return self.batch_size

    def size(self, train: bool, num_ranks: int) -> int:
        """Sequences of a batch."""
        return self.batch_size if train else max(self.eval_batch_size, num_ranks)

    def train_dataloader(self) -> Loader:
        """Training batches, from where a resumed run stopped."""
        self._train_loader = self.loader("train")
        if self._position is not None:
            self._train_loader.load_state_dict(self._position)
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """The position in the training batches, at the start of a step or between two.

        Lightning keeps a loader's state too, but counts the batch in hand as used, and drops the
        state at the end of an epoch in runs that are limited by epochs.
        """
        if self._train_loader is None:
            return {}
        if self.trainer is None:
            return dict(self._train_loader.state_dict())
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current
        if batches.completed >= self.trainer.num_training_batches:
            # Lightning may end an epoch before the loader does: limit_train_batches.
            return {"epoch": self._train_loader.epoch + 1, "next_batch": 0}
        return dict(self._train_loader.state_dict(unused=batches.ready - batches.completed))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at that position."""
        self._position = state_dict or None

    def val_dataloader(self) -> Loader | list[Loader]:
        """Validation batches; none where there is no validation set."""
        loader = self.loader("val", self.validation())
        return loader if len(loader) else []

    def test_dataloader(self) -> list[Loader]:
        """Test batches, a loader for each of `test_sources`."""
        return [self.loader("test", source) for source in self.test_sources().values()]

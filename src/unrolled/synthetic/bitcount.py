"""Counting bits: how many ones has a string of `length` bits?

The training strings, the validation strings and the test strings are three parts of one random
order of all strings, so they never overlap, and the test is every string that is left.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from unrolled.data.batch import SequenceBatch
from unrolled.data.batching import Source
from unrolled.data.module import SequenceData, Split
from unrolled.data.schema import Numeric, Schema
from unrolled.data.tables import read_text_columns, require_column
from unrolled.data.tuning import Share
from unrolled.errors import UserError

LONGEST_ENUMERATED = 22
"""Up to this length all strings are enumerated: 2^22 strings are 92 MB."""


class BitStrings:
    """Bit strings in memory, on the device that trains.

    Args:
        bits: `[string, time]`, uint8, 0 or 1; 0 past the end of a string.
        lengths: `[string]`, int64, on the CPU.
        device: Where batches are made.
    """

    def __init__(self, bits: Tensor, lengths: Tensor, device: torch.device) -> None:
        self.bits = bits.to(device)
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def gather(self, indices: Tensor) -> SequenceBatch:
        """The strings `indices` as one batch of the feature `bit`, `[batch, time]`."""
        lengths = self.lengths[indices]
        on_device = indices.to(self.bits.device)
        bits = self.bits[on_device, : int(lengths.max())]
        return SequenceBatch({"bit": bits.float()}, lengths, bits.sum(1), on_device)

    def take(self, rows: Tensor) -> BitStrings:
        """The strings `rows`, `[string]` int64 on the CPU."""
        return BitStrings(
            self.bits[rows.to(self.bits.device)], self.lengths[rows], self.bits.device
        )

    def targets(self) -> Tensor:
        """Number of ones, `[string]` int64."""
        return self.bits.sum(1)


class BitcountData(SequenceData):
    """Strings of `length` bits with their number of ones.

    Args:
        length: Bits in a string.
        train_size: Training strings; None takes 10,000, or half of all strings if that is less.
        val_size: Validation strings; None takes a fifth of `train_size`; 0 goes without.
        test_size: Test strings; None takes all that are left, or 1,000,000 others where there are
            more than 2^22 strings in all.
        test_lengths: Further test sets of 10,000 random strings of one length each.
        batch_size: Strings of an optimizer step, over all processes.
        eval_batch_size: Strings of a validation or test batch, over all processes.
        shuffle: A new order of the training strings each epoch.
        seed: Of the choice of strings and of their order.
        workers: Processes that gather batches ahead; 0 gathers in the one that trains.
        hpo_val: Share of the validation strings by which configurations are chosen, apart from
            those by which the checkpoint is.
    """

    def __init__(
        self,
        length: PositiveInt = 20,
        train_size: PositiveInt | None = None,
        val_size: NonNegativeInt | None = None,
        test_size: PositiveInt | None = None,
        test_lengths: list[PositiveInt] = [],  # noqa: B006  # The signature is the schema.
        batch_size: PositiveInt = 200,
        eval_batch_size: PositiveInt = 8192,
        shuffle: bool = True,
        seed: int = 0,
        workers: NonNegativeInt = 0,
        hpo_val: Share = 0.0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, shuffle, seed, workers, hpo_val)
        self.length = length
        self.train_size = train_size or min(10_000, 2 ** (length - 1))
        self.val_size = self.train_size // 5 if val_size is None else val_size
        self.test_size = test_size
        self.test_lengths = list(test_lengths)
        used = self.train_size + self.val_size
        if used + (test_size or 1) > 2**length:
            raise UserError(
                f"data.length={length} has {2**length:,} strings; {self.train_size:,} to train, "
                f"{self.val_size:,} to validate and {test_size or 1:,} to test are more than that"
            )
        self._splits: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def schema(self) -> Schema:
        """One numeric feature, `bit`; the classes are the counts 0 .. the longest length."""
        return Schema((Numeric("bit"),), max(self.length, *self.test_lengths, 0) + 1)

    def setup(self, stage: str | None = None) -> None:
        """Draw the strings; the same on every process."""
        if self._splits:
            return
        bits = self._all_strings()
        sizes = [self.train_size, self.val_size, len(bits) - self.train_size - self.val_size]
        for split, part in zip(("train", "val", "test"), torch.split(bits, sizes), strict=True):
            self._splits[split] = (part, torch.full((len(part),), self.length))

    def source(self, split: Split) -> BitStrings:
        """The strings of a split."""
        self.setup()
        return BitStrings(*self._splits[split], self.device)

    def further_tests(self) -> dict[str, Source]:
        """Random strings of the further lengths."""
        tests: dict[str, Source] = {}
        for length in self.test_lengths:
            random = torch.Generator().manual_seed(1_000 * self.seed + length)
            bits = torch.randint(2, (10_000, length), generator=random, dtype=torch.uint8)
            lengths = torch.full((len(bits),), length)
            tests[f"length_{length}"] = BitStrings(bits, lengths, self.device)
        return tests

    def _all_strings(self) -> Tensor:
        """Distinct strings in a random order, `[string, time]` uint8."""
        generator = torch.Generator().manual_seed(self.seed)
        used = self.train_size + self.val_size
        wanted = used + (self.test_size or 1_000_000)
        if self.length > 62:
            # Two equal strings of 63 bits among a million have a chance of 5e-8.
            return torch.randint(2, (wanted, self.length), generator=generator, dtype=torch.uint8)
        if self.length <= LONGEST_ENUMERATED or 4 * wanted > 2**self.length:
            codes = torch.randperm(2**self.length, generator=generator)
            if self.length > LONGEST_ENUMERATED or self.test_size is not None:
                codes = codes[:wanted]
        else:
            # Twice as many draws as wanted, from four times as many strings or more, always leave
            # enough distinct ones.
            codes = torch.randint(2**self.length, (2 * wanted,), generator=generator)
            codes = torch.unique(codes)
            codes = codes[torch.randperm(len(codes), generator=generator)[:wanted]]
        shifts = torch.arange(self.length - 1, -1, -1)
        bits = torch.empty(len(codes), self.length, dtype=torch.uint8)
        for chunk, out in zip(torch.split(codes, 2**18), torch.split(bits, 2**18), strict=True):
            out.copy_((chunk[:, None] >> shifts) & 1)
        return bits

    def read(self, path: Path) -> tuple[pa.Table, BitStrings]:
        """Strings of `0` and `1` from the column `bits`, all of this data's length.

        Raises:
            UserError: When the column is missing, empty, or holds anything else.
        """
        table = read_text_columns(path)
        require_column("bits", dict.fromkeys(table.column_names, ""), path, "the task bitcount")
        column = table["bits"].cast(pa.string()).combine_chunks()
        if len(column) == 0:
            raise UserError(f"{path}: the file has no rows")
        return self._parsed(column, f"{path}: column 'bits'")

    def parse(self, text: str) -> tuple[pa.Table, BitStrings]:
        """One string of `0` and `1`.

        Raises:
            UserError: When it is anything else.
        """
        return self._parsed(pa.array([text]), "--sequence")

    def _parsed(self, column: pa.Array, where: str) -> tuple[pa.Table, BitStrings]:
        size = pc.utf8_length(column)
        of_length = pc.is_in(size, value_set=pa.array([self.length, *self.test_lengths], size.type))
        fits = pc.and_(pc.match_substring_regex(column, r"\A[01]+\z"), of_length)
        wrong = pc.invert(pc.fill_null(fits, False))
        if pc.any(wrong).as_py():
            row = pc.index(wrong, True).as_py()
            bits = " or ".join(map(str, [self.length, *self.test_lengths]))
            raise UserError(
                f"{where}, row {row + 1}: {column[row].as_py()!r} is not a string of "
                f"{bits} bits, 0 or 1, as the run was trained on ("
                f"{pc.sum(wrong).as_py():,} of {len(column):,} rows are not)"
            )
        text = "".join(column.to_pylist()).encode()
        values = torch.frombuffer(bytearray(text), dtype=torch.uint8) - 48
        lengths = torch.from_numpy(size.to_numpy().copy()).long()
        real = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
        padded = torch.zeros(real.shape, dtype=torch.uint8).masked_scatter_(real, values)
        return pa.table({"bits": column}), BitStrings(padded, lengths, self.device)

    def best_possible(self) -> dict[str, float]:
        """Counting can be done without a mistake."""
        return {"error": 0.0, "mistakes": 0.0, "mae": 0.0}

"""Text as parallel streams of symbols: at each step, which symbol is next?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from unrolled.data.batching import Source
from unrolled.data.module import SequenceData, Split
from unrolled.data.schema import PADDING_ID, UNKNOWN_ID, Categorical, Schema
from unrolled.data.streams import StreamLoader
from unrolled.data.tables import read_text_columns, require_column
from unrolled.data.tensors import TensorSequences
from unrolled.data.tuning import Share
from unrolled.errors import UserError
from unrolled.plain_files import write_text


class SymbolSource(Protocol):
    """Where a text comes from."""

    def vocabulary(self) -> list[str]:
        """The symbols, in the order of their ids, the first having the id 2."""
        ...

    def streams(
        self, split: Split, count: int, seed: int, vocabulary: list[str] | None = None
    ) -> Tensor:
        """The ids of a split as `count` streams side by side, `[stream, step]` int64.

        The vocabulary is that of the run, which may have been trained on another text; None takes
        the source's own.
        """
        ...

    def perplexity(self) -> float | None:
        """The lowest that any model can reach, where it is known."""
        ...


class TextFile:
    """Words, or characters, of a text file: 80 % to train, then 10 % to validate, 10 % to test.

    Args:
        path: UTF-8 text.
        level: What a symbol is; words stand between white space, the end of a line is `<eos>`.
        min_count: Symbols that the training part has less often are unknown.
    """

    def __init__(
        self, path: Path, level: Literal["word", "character"] = "word", min_count: PositiveInt = 1
    ) -> None:
        self.path = Path(path)
        self.level = level
        self.min_count = min_count
        self._parts: dict[str, pa.Array] = {}
        self._vocabulary: pa.Array | None = None

    def _read(self) -> None:
        if self._parts:
            return
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"data.source.path={self.path}: can't be read: {error}") from error
        if self.level == "word":
            text = text.replace("\n", " <eos> ")
        symbols = split_symbols(pa.array([text]), self.level).values
        train, val = int(0.8 * len(symbols)), int(0.9 * len(symbols))
        if train < 2:
            raise UserError(f"data.source.path={self.path}: the text has {len(symbols)} symbols")
        self._parts = {
            "train": symbols[:train],
            "val": symbols[train:val],
            "test": symbols[val:],
        }
        counts = self._parts["train"].value_counts()
        frequent = counts.filter(pc.greater_equal(counts.field("counts"), self.min_count))
        order = pc.sort_indices(
            pa.table({"n": frequent.field("counts"), "s": frequent.field("values")}),
            [("n", "descending"), ("s", "ascending")],
        )
        self._vocabulary = frequent.field("values").take(order)

    def vocabulary(self) -> list[str]:
        """The symbols of the training part, the most frequent first."""
        self._read()
        assert self._vocabulary is not None
        return [str(symbol) for symbol in self._vocabulary.to_pylist()]

    def streams(
        self, split: Split, count: int, seed: int, vocabulary: list[str] | None = None
    ) -> Tensor:
        """A part of the text cut into equal streams; up to `count - 1` last symbols are left out.

        Raises:
            UserError: When the part has too few symbols.
        """
        self._read()
        ids = encode_symbols(self._parts[split], pa.array(vocabulary or self.vocabulary()))
        steps = len(ids) // count
        if steps < 2:
            raise UserError(
                f"data.source.path={self.path}: the {split} part has {len(ids)} symbols, too few "
                f"for {count} streams"
            )
        return ids[: count * steps].view(count, steps)

    def perplexity(self) -> float | None:
        """Nobody knows."""
        return None


def split_symbols(texts: pa.Array, level: str) -> pa.ListArray:
    """Texts as lists of words or characters."""
    if level == "word":
        return pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts))
    # Arrow's own split does not come to an end with an empty pattern.
    return pa.array([list(text) for text in texts.to_pylist()], pa.list_(pa.string()))


def encode_symbols(symbols: pa.Array, vocabulary: pa.Array) -> Tensor:
    """The ids of symbols, `[symbol]` int64; unknown where the vocabulary has them not."""
    index = pc.index_in(symbols, value_set=vocabulary.cast(symbols.type))
    known = pc.add(index.cast(pa.int64()), UNKNOWN_ID + 1)
    return torch.from_numpy(pc.fill_null(known, UNKNOWN_ID).to_numpy(zero_copy_only=False).copy())


class TextData(SequenceData):
    """A text as streams that are read side by side, `bptt` steps at a time.

    Args:
        source: Where the text comes from.
        batch_size: Streams that train, over all processes.
        eval_batch_size: Streams that are validated and tested; a stream begins without context.
        bptt: Steps of a window; gradients end at its beginning, the state is carried on.
        seed: Of a generated text.
        workers: Processes that gather batches ahead; 0 gathers in the one that trains.
        hpo_val: Share of the validation streams, whole ones, by which configurations are chosen,
            apart from those by which the checkpoint is.
    """

    def __init__(
        self,
        source: SymbolSource,
        batch_size: PositiveInt = 32,
        eval_batch_size: PositiveInt = 10,
        bptt: PositiveInt = 32,
        seed: int = 0,
        workers: NonNegativeInt = 0,
        hpo_val: Share = 0.0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, False, seed, workers, hpo_val)
        self.symbols = source
        self.bptt = bptt
        self._sources: dict[str, TensorSequences] = {}
        self._vocabulary: list[str] | None = None

    @property
    def vocabulary(self) -> list[str]:
        """The symbols, the first having the id 2."""
        if self._vocabulary is None:
            self._vocabulary = self.symbols.vocabulary()
        return self._vocabulary

    @property
    def schema(self) -> Schema:
        """One feature, `symbol`; the classes are the ids of the next symbol."""
        num_ids = UNKNOWN_ID + 1 + len(self.vocabulary)
        return Schema((Categorical("symbol", num_ids),), num_ids, per_step=True)

    def source(self, split: Split) -> TensorSequences:
        """The streams of a split; the target of each step is the next symbol."""
        if split not in self._sources:
            count = self.batch_size if split == "train" else self.eval_batch_size
            ids = self.symbols.streams(split, count, self.seed, self.vocabulary)
            self._sources[split] = TensorSequences({"symbol": ids[:, :-1]}, ids[:, 1:])
        return self._sources[split].to(self.device)

    def make_loader(self, source: Source, train: bool, **sharding: Any) -> StreamLoader:
        """The windows of the streams, which are shared out over the processes."""
        return StreamLoader(cast(TensorSequences, source), self.bptt, **sharding)

    def read(self, path: Path) -> tuple[pa.Table, TensorSequences]:
        """Texts from the column `text`, words between white space; each is a sequence.

        Raises:
            UserError: When the column is missing or a text is empty.
        """
        table = read_text_columns(path)
        require_column("text", dict.fromkeys(table.column_names, ""), path, "the task next_word")
        try:
            texts = table["text"].cast(pa.string()).combine_chunks()
        except pa.ArrowException:
            raise UserError(f"{path}: column 'text' must hold texts") from None
        return self._parsed(texts, f"{path}: column 'text'")

    def parse(self, text: str) -> tuple[pa.Table, TensorSequences]:
        """One text.

        Raises:
            UserError: When it is empty.
        """
        return self._parsed(pa.array([text]), "--sequence")

    def _parsed(self, texts: pa.Array, where: str) -> tuple[pa.Table, TensorSequences]:
        # A CSV's empty field is null.
        filled = pc.fill_null(texts, "")
        empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(filled)), 0)
        if len(texts) == 0 or pc.any(empty).as_py():
            row = pc.index(empty, True).as_py() if len(texts) else 0
            raise UserError(f"{where}, row {row + 1}: there is no text")
        lists = split_symbols(texts, getattr(self.symbols, "level", "word"))
        lengths = pc.list_value_length(lists)
        ids = encode_symbols(lists.flatten(), pa.array(self.vocabulary))
        sizes = torch.from_numpy(lengths.to_numpy(zero_copy_only=False).copy()).long()
        real = torch.arange(int(sizes.max())) < sizes.unsqueeze(1)
        padded = torch.full(real.shape, PADDING_ID)
        padded[real] = ids
        none = torch.zeros(len(texts), dtype=torch.int64)
        sequences = TensorSequences({"symbol": padded}, none, sizes)
        return pa.table({"text": texts}), sequences.to(self.device)

    def save_schema(self, directory: Path) -> None:
        """The vocabulary, which new texts are encoded by."""
        directory.mkdir(exist_ok=True)
        write_text(directory / "vocabulary.json", json.dumps(self.vocabulary) + "\n")

    def load_schema(self, directory: Path) -> None:
        """Encode new texts by the vocabulary that `save_schema` wrote."""
        if (directory / "vocabulary.json").exists():
            self._vocabulary = json.loads((directory / "vocabulary.json").read_text())

    def require_unchanged(self) -> None:
        """Refuse a text whose vocabulary is another than the run's.

        Raises:
            UserError: When it is: ids would mean other symbols.
        """
        if self.symbols.vocabulary() != self.vocabulary:
            raise UserError("data.source: the text has changed since the run began")

    def class_names(self) -> pa.Array:
        """The symbols."""
        return pa.array(["<padding>", "<unknown>", *self.vocabulary])

    def best_possible(self) -> dict[str, float]:
        """The perplexity of the text's source, where it is known."""
        floor = self.symbols.perplexity()
        return {} if floor is None else {"perplexity": floor}

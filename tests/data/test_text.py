"""Texts: the vocabulary is the training part's, the streams are the text, new texts are read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.schema import Categorical, Schema
from unrolled.data.text import TextData, TextFile
from unrolled.errors import UserError
from unrolled.synthetic.grammar import Grammar

law = settings(max_examples=25, deadline=None)
# Of 20 symbols 16 train: a 7, b 5, c 3 times, d once; then "e a" and "f b".
TEXT = "b a c a d a b a c a b a b c b a e a f b"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def data_of(path: Path, **options: Any) -> TextData:
    return TextData(TextFile(path, **options), batch_size=2, eval_batch_size=1, bptt=3)


def test_the_vocabulary_is_the_training_parts_most_frequent_first(text: Path) -> None:
    assert TextFile(text).vocabulary() == ["a", "b", "c", "d"]


def test_equally_frequent_symbols_stand_in_the_order_of_the_alphabet(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("z y x w z y x w z z")
    assert TextFile(tmp_path / "t.txt").vocabulary() == ["w", "x", "y", "z"]


def test_rare_and_unseen_symbols_are_unknown(text: Path) -> None:
    source = TextFile(text, min_count=2)
    assert source.vocabulary() == ["a", "b", "c"]
    # a 2, b 3, c 4; d is too rare, e and f were never trained on.
    train = [3, 2, 4, 2, 1, 2, 3, 2, 4, 2, 3, 2, 3, 4, 3, 2]
    assert source.streams("train", 1, 0).tolist() == [train]
    assert source.streams("val", 1, 0).tolist() == [[1, 2]]
    assert source.streams("test", 1, 0).tolist() == [[1, 3]]


def test_streams_are_equal_parts_of_the_text_one_after_the_other(text: Path) -> None:
    ids = TextFile(text).streams("train", 1, 0)[0].tolist()
    # 16 symbols in 3 streams of 5: the last one is left out.
    assert TextFile(text).streams("train", 3, 0).tolist() == [ids[:5], ids[5:10], ids[10:15]]


def test_the_end_of_a_line_is_a_word(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a b\nb\n" * 10)
    source = TextFile(tmp_path / "t.txt")
    assert source.vocabulary() == ["<eos>", "b", "a"]
    assert source.streams("train", 1, 0)[0, :6].tolist() == [4, 3, 2, 3, 2, 4]


def test_a_symbol_can_be_a_character_of_any_script(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("ab é\n" * 10, encoding="utf-8")
    source = TextFile(tmp_path / "t.txt", level="character")
    assert source.vocabulary() == ["\n", " ", "a", "b", "é"]
    assert source.streams("train", 1, 0)[0, :6].tolist() == [4, 5, 3, 6, 2, 4]


@law
@given(st.lists(st.sampled_from("abcdefgh"), min_size=20, max_size=100), st.integers(1, 4))
def test_ids_are_ranks_by_frequency(symbols: list[str], min_count: int) -> None:
    train = symbols[: int(0.8 * len(symbols))]
    counts = Counter(train)
    ranked = sorted((s for s in counts if counts[s] >= min_count), key=lambda s: (-counts[s], s))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.txt"
        path.write_text(" ".join(symbols))
        source = TextFile(path, min_count=min_count)
        assert source.vocabulary() == ranked
    expected = [2 + ranked.index(s) if s in ranked else 1 for s in train]
    assert source.streams("train", 1, 0)[0].tolist() == expected


def test_the_target_of_each_step_is_the_next_symbol(text: Path) -> None:
    data = data_of(text)
    assert data.schema == Schema((Categorical("symbol", 6),), 6, per_step=True)
    source = data.source("train")
    streams = TextFile(text).streams("train", 2, 0)
    assert torch.equal(source.features["symbol"], streams[:, :-1])
    assert torch.equal(source.targets(), streams[:, 1:])
    assert len(data.source("val")) == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.source\.path=.*none\.txt: can't be read"):
        TextFile(tmp_path / "none.txt").vocabulary()
    with pytest.raises(UserError, match="can't be read"):
        TextFile(tmp_path).vocabulary()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"bytes\.txt: can't be read"):
        TextFile(tmp_path / "bytes.txt").vocabulary()


@pytest.mark.parametrize("level", ["word", "character"])
@pytest.mark.parametrize("content", ["", "\n", "a"])
def test_a_text_of_next_to_nothing_is_refused(tmp_path: Path, content: str, level: Any) -> None:
    (tmp_path / "t.txt").write_text(content)
    with pytest.raises(UserError, match=r"t\.txt: the text has \d symbols"):
        TextFile(tmp_path / "t.txt", level=level).vocabulary()


def test_too_many_streams_for_the_text_are_refused(text: Path) -> None:
    with pytest.raises(UserError, match="the val part has 2 symbols, too few for 10 streams"):
        TextFile(text).streams("val", 10, 0)


def write(path: Path, texts: pa.Array) -> Path:
    pq.write_table(pa.table({"text": texts}), path)
    return path


def test_new_texts_are_read_by_the_vocabulary(text: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "new.parquet", pa.array(["a c", "  zebra\tb  d ", "a"]))
    names, source = data_of(text).read(new)
    assert names["text"].to_pylist() == ["a c", "  zebra\tb  d ", "a"]
    assert source.features["symbol"].tolist() == [[2, 4, 0], [1, 3, 5], [2, 0, 0]]
    assert source.lengths.tolist() == [2, 3, 1]


def test_new_texts_of_a_character_model_are_split_into_characters(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("aab" * 10)
    new = write(tmp_path / "new.parquet", pa.array(["ab", "b a"]))
    _, source = data_of(tmp_path / "t.txt", level="character").read(new)
    assert source.features["symbol"].tolist() == [[2, 3, 0], [3, 1, 2]]


def test_numbers_of_a_table_are_texts_too(text: Path, tmp_path: Path) -> None:
    _, source = data_of(text).read(write(tmp_path / "new.parquet", pa.array([1, 22])))
    assert source.features["symbol"].tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (pa.array(["a", ""]), "column 'text', row 2: there is no text"),
        (pa.array([" \t", "a"]), "column 'text', row 1: there is no text"),
        (pa.array(["a", None]), "column 'text', row 2: there is no text"),
        (pa.array([None], pa.string()), "column 'text', row 1: there is no text"),
        (pa.array([], pa.string()), "column 'text', row 1: there is no text"),
        (pa.array([["a"], ["b"]]), "column 'text' must hold texts"),
        (pa.array([b"\xff\xfe"]), "column 'text' must hold texts"),
    ],
)
@pytest.mark.parametrize("level", ["word", "character"])
def test_a_table_without_texts_is_refused(
    text: Path, tmp_path: Path, texts: pa.Array, message: str, level: str
) -> None:
    new = write(tmp_path / "new.parquet", texts)
    with pytest.raises(UserError) as error:
        data_of(text, level=level).read(new)
    assert str(error.value) == f"{new}: {message}"


def test_an_empty_field_of_a_csv_is_no_text(text: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("text,note\na b,x\n,y\n")
    with pytest.raises(UserError, match="column 'text', row 2: there is no text"):
        data_of(text).read(tmp_path / "new.csv")


def test_a_table_without_the_column_is_refused(text: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("texts\na b\n")
    with pytest.raises(UserError, match=r"no column 'text' \(asked for by the task next_word\)"):
        data_of(text).read(tmp_path / "new.csv")


def test_the_saved_vocabulary_serves_when_the_text_is_gone(text: Path, tmp_path: Path) -> None:
    data_of(text).save_schema(tmp_path / "schema")
    assert json.loads((tmp_path / "schema" / "vocabulary.json").read_text()) == list("abcd")
    text.unlink()
    data = data_of(text)
    data.load_schema(tmp_path / "schema")
    assert data.vocabulary == ["a", "b", "c", "d"]
    _, source = data.read(write(tmp_path / "new.parquet", pa.array(["d e"])))
    assert source.features["symbol"].tolist() == [[5, 1]]


def test_a_run_does_not_go_on_with_another_text(text: Path, tmp_path: Path) -> None:
    data_of(text).save_schema(tmp_path / "schema")
    data = data_of(text)
    data.load_schema(tmp_path / "schema")
    data.require_unchanged()
    text.write_text("q " + TEXT)
    data = data_of(text)
    data.load_schema(tmp_path / "schema")
    with pytest.raises(UserError, match="the text has changed since the run began"):
        data.require_unchanged()


def test_a_grammars_perplexity_is_the_best_possible_and_a_files_is_not_known(text: Path) -> None:
    grammar = Grammar(4, 1)
    assert TextData(grammar).best_possible() == {"perplexity": grammar.perplexity()}
    assert data_of(text).best_possible() == {}


def test_another_text_is_read_by_the_vocabulary_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x y y z " * 50)
    (tmp_path / "b.txt").write_text("z z z y w " * 50)
    trained = TextData(TextFile(tmp_path / "a.txt"), 1, 1)
    trained.save_schema(tmp_path / "schema")
    other = TextData(TextFile(tmp_path / "b.txt"), 1, 1)
    other.load_schema(tmp_path / "schema")
    assert trained.vocabulary == other.vocabulary == ["y", "x", "z"]
    assert other.source("test").features["symbol"][0, :5].tolist() == [4, 4, 4, 2, 1]

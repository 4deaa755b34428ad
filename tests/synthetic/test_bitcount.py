"""Counting bits: splits never overlap, targets are counts, files are read to the bit."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.module import Split
from unrolled.data.schema import Numeric, Schema
from unrolled.errors import UserError
from unrolled.synthetic import bitcount
from unrolled.synthetic.bitcount import BitcountData, BitStrings

law = settings(max_examples=25, deadline=None)
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def texts(source: BitStrings) -> list[str]:
    """The strings of a source as text, without their padding."""
    pairs = zip(source.bits.tolist(), source.lengths.tolist(), strict=True)
    return ["".join(map(str, bits[:length])) for bits, length in pairs]


def splits(data: BitcountData) -> dict[str, list[str]]:
    return {split: texts(data.source(split)) for split in SPLITS}


def by_default(length: int) -> tuple[int, int]:
    train = min(10_000, 2 ** (length - 1))
    return train, train // 5


@law
@given(st.integers(1, 10), st.integers(0, 2**40), st.data())
def test_the_splits_are_disjoint_and_together_all_strings(
    length: int, seed: int, data: st.DataObject
) -> None:
    train_size = data.draw(st.integers(1, 2**length - 1), label="train_size")
    val_size = data.draw(st.integers(0, 2**length - 1 - train_size), label="val_size")
    parts = splits(BitcountData(length, train_size, val_size, seed=seed))
    assert [len(parts[s]) for s in SPLITS] == [
        train_size,
        val_size,
        2**length - train_size - val_size,
    ]
    together = [string for part in parts.values() for string in part]
    assert sorted(together) == [format(code, f"0{length}b") for code in range(2**length)]


@law
@given(st.integers(1, 70), st.integers(0, 2**40))
def test_the_target_is_the_number_of_ones(length: int, seed: int) -> None:
    data = BitcountData(length, 1, 0, test_size=1, seed=seed)
    source = data.source("train")
    assert source.targets().tolist() == [t.count("1") for t in texts(source)]
    batch = data.source("test").gather(torch.tensor([0]))
    assert batch.targets.tolist() == [t.count("1") for t in texts(data.source("test"))]
    assert batch.targets.dtype == source.targets().dtype == torch.int64


@pytest.mark.parametrize("length", range(1, 9))
def test_by_default_half_of_few_strings_train_and_a_fifth_of_that_validate(length: int) -> None:
    data = BitcountData(length)
    train, val = by_default(length)
    assert [len(data.source(s)) for s in SPLITS] == [train, val, 2**length - train - val]


def test_twenty_bits_train_on_ten_thousand_and_test_on_every_string_that_is_left() -> None:
    data = BitcountData()
    sizes = [len(data.source(s)) for s in SPLITS]
    assert sizes == [10_000, 2_000, 2**20 - 12_000]
    powers = 2 ** torch.arange(19, -1, -1)
    codes = torch.cat([data.source(s).bits.long() @ powers for s in SPLITS])
    assert torch.equal(codes.sort().values, torch.arange(2**20))


def test_a_test_size_leaves_the_other_strings_out() -> None:
    whole, part = (
        splits(BitcountData(8, 20, 10, seed=4)),
        splits(BitcountData(8, 20, 10, 7, seed=4)),
    )
    assert part == {**whole, "test": whole["test"][:7]}


def test_beyond_the_enumerated_lengths_the_test_has_a_million_strings() -> None:
    assert len(BitcountData(23).source("test")) == 1_000_000


@pytest.mark.parametrize("length", [22, *range(23, 71)])
def test_sampled_strings_are_distinct_over_all_splits(length: int) -> None:
    data = BitcountData(length, 300, 100, 600, seed=length)
    parts = splits(data)
    assert [len(parts[s]) for s in SPLITS] == [300, 100, 600]
    together = [string for part in parts.values() for string in part]
    assert len(set(together)) == 1000
    assert {len(string) for string in together} == {length}
    # Every position is a fair coin: none is stuck, and 6 standard deviations are 95 of 1000.
    for position in range(length):
        assert 405 < sum(string[position] == "1" for string in together) < 595


@law
@given(st.integers(9, 11), st.integers(0, 2**40), st.data())
def test_any_share_of_more_strings_than_are_enumerated_is_distinct(
    length: int, seed: int, data: st.DataObject
) -> None:
    train_size = data.draw(st.integers(1, 2**length - 2), label="train_size")
    test_size = data.draw(st.integers(1, 2**length - 1 - train_size), label="test_size")
    # A low limit, so that small numbers take the way of the large ones.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bitcount, "LONGEST_ENUMERATED", 8)
        parts = splits(BitcountData(length, train_size, 1, test_size, seed=seed))
    assert [len(parts[s]) for s in SPLITS] == [train_size, 1, test_size]
    together = [string for part in parts.values() for string in part]
    assert len(set(together)) == len(together)


@pytest.mark.parametrize("wanted", [256, 1020])
def test_few_and_nearly_all_of_more_strings_than_are_enumerated_are_distinct(
    wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bitcount, "LONGEST_ENUMERATED", 8)
    parts = splits(BitcountData(10, wanted - 20, 10, 10))
    assert [len(parts[s]) for s in SPLITS] == [wanted - 20, 10, 10]
    assert len({string for part in parts.values() for string in part}) == wanted


@pytest.mark.parametrize("length", [10, 30, 66])
def test_the_seed_decides_the_strings(length: int) -> None:
    one = splits(BitcountData(length, 100, 20, 50, seed=1))
    torch.manual_seed(99)
    assert splits(BitcountData(length, 100, 20, 50, seed=1)) == one
    other = splits(BitcountData(length, 100, 20, 50, seed=2))
    for split in SPLITS:
        assert other[split] != one[split]


@pytest.mark.parametrize(
    ("length", "train", "val", "test", "problem"),
    [
        (3, 6, 2, None, "data.length=3 has 8 strings; 6 to train, 2 to validate and 1 to test"),
        (3, 4, 2, 3, "data.length=3 has 8 strings; 4 to train, 2 to validate and 3 to test"),
        (
            12,
            4096,
            None,
            None,
            "data.length=12 has 4,096 strings; 4,096 to train, 819 to validate and 1 to test",
        ),
    ],
)
def test_more_strings_than_there_are_is_an_error_with_the_numbers(
    length: int, train: int, val: int | None, test: int | None, problem: str
) -> None:
    with pytest.raises(UserError) as error:
        BitcountData(length, train, val, test)
    assert str(error.value) == f"{problem} are more than that"


def test_exactly_as_many_strings_as_there_are_is_no_error() -> None:
    assert [len(BitcountData(3, 4, 2, 2).source(s)) for s in SPLITS] == [4, 2, 2]
    assert [len(BitcountData(3, 5, 2).source(s)) for s in SPLITS] == [5, 2, 1]


@pytest.mark.parametrize("length", [1, 20, 70])
def test_the_classes_are_the_counts_and_the_feature_is_the_bit(length: int) -> None:
    assert BitcountData(length).schema == Schema((Numeric("bit"),), length + 1)


def test_the_best_possible_scores_are_those_of_no_mistake() -> None:
    assert BitcountData(4).best_possible() == {"error": 0.0, "mistakes": 0.0, "mae": 0.0}


@law
@given(st.lists(st.text("01", min_size=1, max_size=6), min_size=1, max_size=6), st.data())
def test_a_batch_holds_the_strings_asked_for_padded_with_zeros(
    strings: list[str], data: st.DataObject
) -> None:
    width = max(map(len, strings))
    bits = torch.tensor([[int(c) for c in s.ljust(width, "0")] for s in strings])
    lengths = torch.tensor([len(s) for s in strings])
    source = BitStrings(bits.to(torch.uint8), lengths, torch.device("cpu"))
    chosen = data.draw(st.lists(st.integers(0, len(strings) - 1), min_size=1, max_size=5))
    batch = source.gather(torch.tensor(chosen))
    longest = max(len(strings[i]) for i in chosen)
    padded = [strings[i].ljust(longest, "0") for i in chosen]
    expected = torch.tensor([[float(c) for c in string] for string in padded])
    assert torch.equal(batch.features["bit"], expected)
    assert batch.features["bit"].dtype == torch.float32
    assert batch.lengths.tolist() == [len(strings[i]) for i in chosen]
    assert batch.targets.tolist() == [strings[i].count("1") for i in chosen]
    assert batch.ids.tolist() == chosen


def write(path: Path, strings: list[str]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"bits": strings}), path)
    else:
        path.write_text("\n".join(["bits", *strings]) + "\n")


@pytest.mark.parametrize("name", ["new.csv", "new.parquet"])
@pytest.mark.parametrize(
    "strings",
    [
        ["0010", "0000", "1111"],
        ["0", "1"],
        ["1"],
        ["0" * 26, "01" * 13],
        # Past what 64-bit numbers hold, and past the 1,000 repeats that RE2 counts.
        ["0" * 30 + "1" * 40],
        ["0" * 1001, "10" * 500 + "1"],
    ],
    ids=lambda strings: f"{len(strings[0])}-bits",
)
def test_read_strings_keep_their_leading_zeros(
    tmp_path: Path, name: str, strings: list[str]
) -> None:
    write(tmp_path / name, strings)
    table, source = BitcountData(len(strings[0]), 1, 0, 1).read(tmp_path / name)
    assert table.to_pydict() == {"bits": strings}
    assert texts(source) == strings
    assert source.targets().tolist() == [s.count("1") for s in strings]


def test_read_takes_the_bits_from_among_other_columns(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("name,bits,note\nann,00011,x\nbob,10000,y\n")
    table, source = BitcountData(5).read(tmp_path / "new.csv")
    assert table.to_pydict() == {"bits": ["00011", "10000"]}
    assert texts(source) == ["00011", "10000"]


def test_read_keeps_the_order_of_a_file_of_many_rows(tmp_path: Path) -> None:
    strings = [format(code, "017b") for code in range(0, 2**17, 2)]
    write(tmp_path / "new.csv", strings)
    table, source = BitcountData(17).read(tmp_path / "new.csv")
    assert table["bits"].to_pylist() == strings
    assert source.targets().tolist() == [s.count("1") for s in strings]


def problem_of(path: Path) -> str:
    with pytest.raises(UserError) as error:
        BitcountData(5).read(path)
    return str(error.value)


@pytest.mark.parametrize("name", ["new.csv", "new.parquet"])
def test_a_missing_column_is_named_with_the_nearest_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": [1], "bit": ["01"]}), path)
    else:
        path.write_text("id,bit\n1,01\n")
    expected = f"{path}: no column 'bits' (asked for by the task bitcount); did you mean 'bit'?"
    assert problem_of(path) == expected


def test_a_missing_column_far_from_any_other_shows_the_choice(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("label,zone\n1,x\n")
    expected = f"{path}: no column 'bits' (asked for by the task bitcount); choose from: "
    assert problem_of(path) == expected + "label, zone"


def wrong_row(path: Path, row: int, value: str | None, share: str) -> str:
    return (
        f"{path}: column 'bits', row {row}: {value!r} is not a string of 5 bits, 0 or 1, "
        f"as the run was trained on ({share} rows are not)"
    )


@pytest.mark.parametrize("name", ["new.csv", "new.parquet"])
@pytest.mark.parametrize("wrong", ["01012", "01 10", "abcde", "-1010", "0.101", "0101", "010101"])
def test_a_wrong_symbol_or_length_is_named_with_its_row(
    tmp_path: Path, name: str, wrong: str
) -> None:
    path = tmp_path / name
    write(path, ["01010", "11111", wrong, "00000", wrong])
    assert problem_of(path) == wrong_row(path, 3, wrong, "2 of 5")


def test_a_missing_value_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "new.parquet"
    pq.write_table(pa.table({"bits": ["01010", None]}), path)
    assert problem_of(path) == wrong_row(path, 2, None, "1 of 2")


@pytest.mark.parametrize("wrong", ["", "01010\n", "0101\n", "\u0661\u0660\u0661\u0660\u0661"])
def test_what_only_looks_like_a_string_of_bits_is_refused(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "new.parquet"
    pq.write_table(pa.table({"bits": [wrong, "01010"]}), path)
    assert problem_of(path) == wrong_row(path, 1, wrong, "1 of 2")


@pytest.mark.parametrize("name", ["new.csv", "new.parquet"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"bits": pa.array([], pa.string())}), path)
    else:
        path.write_text("bits\n")
    assert problem_of(path) == f"{path}: the file has no rows"


@pytest.mark.parametrize("name", ["none.csv", "none.parquet"])
def test_a_missing_file_is_an_error(tmp_path: Path, name: str) -> None:
    assert problem_of(tmp_path / name) == f"{tmp_path / name}: no such file"


def test_an_unknown_format_is_an_error_with_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    path.write_text("{}")
    assert problem_of(path) == (
        f"{path}: unknown format '.json'; use .arrow, .csv, .dat, .feather, .ipc, .parquet, .pq, "
        ".tsv, .txt"
    )


def test_a_file_that_is_not_what_its_name_says_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "new.parquet"
    path.write_text("bits\n01\n")
    problem = problem_of(path)
    assert problem.startswith(f"{path}: ")
    assert "\n" not in problem


def test_further_tests_are_random_strings_of_one_length_each() -> None:
    data = BitcountData(6, test_lengths=[9, 40])
    tests = data.test_sources()
    assert list(tests) == ["test", "length_9", "length_40"]
    assert data.schema == Schema((Numeric("bit"),), 41)
    for length in (9, 40):
        source = tests[f"length_{length}"]
        batch = source.gather(torch.arange(10_000))
        assert batch.features["bit"].shape == (10_000, length)
        assert batch.lengths.tolist() == [length] * 10_000
        assert torch.equal(batch.features["bit"].sum(1).long(), source.targets())
        # Of a mean of 10,000 binomial counts, five standard deviations.
        assert float(source.targets().double().mean()) == pytest.approx(
            length / 2, abs=5 * length**0.5 / 200
        )


def test_a_typed_string_is_read_to_the_bit() -> None:
    names, source = BitcountData(6).parse("010011")
    assert names.to_pylist() == [{"bits": "010011"}]
    assert source.bits.tolist() == [[0, 1, 0, 0, 1, 1]]


@pytest.mark.parametrize("text", ["01001", "0100111", "01001x", ""])
def test_a_typed_string_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--sequence, row 1: .* is not a string of 6 bits"):
        BitcountData(6).parse(text)

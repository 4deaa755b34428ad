"""Tables of users: what is read is what stands in the file."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unrolled.data.tables import (
    first_line,
    read_text_columns,
    require_column,
    scan,
    table_format,
)
from unrolled.errors import UserError


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.csv", "csv"), ("a.TSV", "csv"), ("a.txt", "csv"), ("a.parquet", "parquet")],
)
def test_the_name_of_a_file_tells_its_format(name: str, kind: str) -> None:
    assert table_format(Path(name)) == kind


def test_an_unknown_ending_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UserError) as error:
        table_format(Path("a.json"))
    assert str(error.value) == (
        "a.json: unknown format '.json'; use .arrow, .csv, .dat, .feather, .ipc, "
        ".parquet, .pq, .tsv, .txt"
    )


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_the_separator_of_a_csv_is_that_of_its_header(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"code{separator}word\r\n0010{separator}x\r\n")
    assert read_text_columns(path).to_pylist() == [{"code": "0010", "word": "x"}]


def test_quotes_line_breaks_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\ufeff"a","b, c"\n"x\ny","say ""hi"""\n,""\n', encoding="utf-8")
    assert read_text_columns(path).to_pylist() == [
        {"a": "x\ny", "b, c": 'say "hi"'},
        {"a": None, "b, c": None},
    ]


def test_a_text_table_keeps_its_first_row_as_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\nc,d\ne,f\n")
    assert read_text_columns(path).to_pydict() == {"a": ["c", "e"], "b": ["d", "f"]}


def test_a_glob_reads_its_files_in_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "it's [x]"
    folder.mkdir()
    for name in ("b", "a", "c"):
        (folder / f"{name}.csv").write_text(f"v\n{name}\n")
    assert read_text_columns(folder / "*.csv")["v"].to_pylist() == ["a", "b", "c"]


def test_files_of_a_glob_with_other_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("u,v\n1,2\n")
    (tmp_path / "b.csv").write_text("v,w\n1,2\n")
    with pytest.raises(UserError) as error:
        scan(tmp_path / "*.csv")
    assert str(error.value) == f"{tmp_path}/b.csv: has other columns than {tmp_path}/a.csv"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; the first line must name the columns"),
        (b"a,A\n1,2\n", "more than one column is called 'a'"),
        (b"caf\xe9\n1\n", "the first line is not in the encoding utf-8"),
        (b"a,b\n1,caf\xe9\n", "Invalid Input Error: CSV Error on Line: 2: Invalid unicode"),
        (b"a,b\n1,2\n1,2,3\n", "CSV Error on Line: 3: Expected Number of Columns: 2 Found: 3"),
        (b"a,b\n1,2\n1\n", "CSV Error on Line: 3: Expected Number of Columns: 2 Found: 1"),
        (b'a,b\n1,2\n1,"2\n', "CSV Error on Line: 3: Value with unterminated quote found."),
    ],
)
def test_a_broken_csv_is_an_error_of_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_text_columns(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        scan(tmp_path / "no.csv")
    assert str(error.value) == f"{tmp_path}/no.csv: no such file"
    (tmp_path / "day.parquet").mkdir()
    with pytest.raises(UserError) as error:
        scan(tmp_path / "day.parquet")
    assert str(error.value) == (
        f"{tmp_path}/day.parquet: is a folder; give a file or a glob, for example *.parquet"
    )


def test_a_missing_column_is_told_with_its_key_and_the_nearest_name() -> None:
    with pytest.raises(UserError) as error:
        require_column("prise", {"price": "DOUBLE"}, Path("log.csv"), "data.source.numeric")
    assert str(error.value) == (
        "log.csv: no column 'prise' (asked for by data.source.numeric); did you mean 'price'?"
    )


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2]}), tmp_path / "a.parquet")
    assert read_text_columns(tmp_path / "a.parquet").to_pylist() == [{"n": 1}, {"n": 2}]


def test_the_first_line_of_a_message_is_never_empty() -> None:
    assert first_line(ValueError()) == "ValueError"
    assert first_line(duckdb.Error("what\n\nLINE 1: where")) == "what"

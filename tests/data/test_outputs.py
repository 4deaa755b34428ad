"""Files that are written by name."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from unrolled.data import outputs
from unrolled.data.outputs import TABLES, require_output, write_table
from unrolled.data.tables import read_text_columns
from unrolled.errors import UserError

TABLE = pa.table({"id": ["007", "b,\t'c\"\n", None], "n": pa.array([1, 2, 3], pa.int32())})


def read(path: Path) -> pa.Table:
    """A file read by the library that its name asks for, not by ours."""
    name = path.name.lower()
    if name.endswith((".parquet", ".pq")):
        return pq.read_table(path)
    if name.endswith(".feather"):
        return feather.read_table(path)
    return pa.ipc.open_file(path).read_all()


@pytest.mark.parametrize("name", ["a.parquet", "a.pq", "a.arrow", "a.ipc", "a.feather", "A.Arrow"])
def test_a_file_is_what_its_name_says(name: str, tmp_path: Path) -> None:
    write_table(TABLE, tmp_path / name)
    assert read(tmp_path / name).equals(TABLE)
    assert [f.name for f in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.tsv.gz", "A.TSV"])
def test_text_is_separated_and_compressed_as_its_name_says(name: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / name
    write_table(TABLE, path)
    content = path.read_bytes()
    text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
    separator = "\t" if ".tsv" in name.lower() else ","
    assert text.splitlines()[:2] == [f"id{separator}n", f"007{separator}1"]
    assert read_text_columns(path).column("id").to_pylist() == TABLE.column("id").to_pylist()
    assert [f.name for f in path.parent.iterdir()] == [name]


@pytest.mark.parametrize(
    "name", ["a.xlsx", "a.json", "a", "a.parquet.gz", "a.arrows", "a.txt", "a.csv.zip", "a.gz"]
)
def test_any_other_name_is_refused_and_nothing_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't be written; use \.arrow, \.csv, \.csv\.gz, \.fea"):
        write_table(TABLE, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_read_is_not_overwritten_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = Path("log.csv")
    log.write_text("id\n1\n")
    Path("link.csv").symlink_to(log)
    os.link(log, "hard.csv")
    Path("folder").mkdir()
    names = ["log.csv", "link.csv", "hard.csv", str(log.absolute()), "folder/../log.csv"]
    for name in names:
        for given in ("log.csv", "l*g.csv"):
            with pytest.raises(UserError, match=r"which is read|is read; name another"):
                require_output(Path(name), TABLES, [Path("missing.csv"), Path(given)])
    # A file that is there and is not read may be replaced.
    Path("old.csv").write_text("old")
    require_output(Path("old.csv"), TABLES, [log])


def test_a_folder_that_can_not_be_written_is_told_before_there_is_anything_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(UserError, match=r"is a folder; name a file in it"):
        require_output(tmp_path / "a.csv", TABLES)
    monkeypatch.setattr(outputs.os, "access", lambda *_: False)
    with pytest.raises(UserError, match=rf"can't be written: the folder {tmp_path} is read-only"):
        require_output(tmp_path / "new" / "b.csv", TABLES)


@pytest.mark.parametrize("name", ["out.csv", "out.arrow", "out.parquet", "out.feather"])
def test_a_table_that_can_not_be_written_is_an_error_and_leaves_the_old_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"file/{name}: can't be written: "):
        write_table(TABLE, tmp_path / "file" / name)
    (tmp_path / name).write_text("old")
    monkeypatch.setattr(Path, "replace", _no_space)
    with pytest.raises(UserError, match=rf"{name}: can't be written: No space left"):
        write_table(TABLE, tmp_path / name)
    assert (tmp_path / name).read_text() == "old"
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(["file", name])


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")

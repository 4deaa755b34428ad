"""A log by a query: what new files are read as in its place."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from unrolled.data.events import EventData
from unrolled.data.log import EventLog
from unrolled.data.queries import reads_log
from unrolled.errors import UserError

JOIN = "SELECT l.*, u.country FROM log AS l JOIN '{users}' AS u USING (who) WHERE page <> 'robots'"
ROWS = ["visit,second,page,buys,who"] + [
    f"{i},{10 * i + k},{'home' if k else 'item'},{i % 2},{'ab'[i % 2]}"
    for i in range(16)
    for k in range(2)
]
NEW = ["visit,second,page,buys,who", "90,1,home,0,a", "90,2,robots,0,a", "91,3,item,1,b"]


def _data(folder: Path, query: str, path: Path | None) -> EventData:
    (folder / "users.csv").write_text("who,country\na,nl\nb,de\n")
    log = EventLog(
        path=path, query=query.format(users=folder / "users.csv", log=folder / "log.csv"),
        sequence="visit", time="second", categorical=["page", "country"], label="buys",
        split_by="user", val_fraction=0.2, test_fraction=0.2,
    )  # fmt: skip
    return EventData(log, folder / "stores", batch_size=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "log.csv").write_text("\n".join(ROWS) + "\n")
    (tmp_path / "new.csv").write_text("\n".join(NEW) + "\n")
    return tmp_path


def _trained(folder: Path, query: str, path: Path | None) -> Path:
    data = _data(folder, query, path)
    data.prepare_data()
    data.save_schema(folder / "schema")
    return folder / "schema"


def test_a_query_that_reads_the_log_is_applied_to_other_files_in_evaluation_and_prediction(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = _trained(folder, JOIN, folder / "log.csv")
    capsys.readouterr()
    other = _data(folder, JOIN, folder / "new.csv")
    other.load_schema(schema)
    assert other.sequence_ids("test").to_pylist() == ["90", "91"]
    evaluated = other._rows("test")
    assert [len(row) for row in evaluated["page"].to_pylist()] == [1, 1]
    # The join gives the country that training has; none is the unknown one.
    assert all(value > 1 for row in evaluated["country"].to_pylist() for value in row)

    again = _data(folder, JOIN, folder / "log.csv")
    again.load_schema(schema)
    names, source = again.read(folder / "new.csv")
    assert names["visit"].to_pylist() == ["90", "91"]
    assert capsys.readouterr().err == ""
    assert len(source) == 2


def test_other_files_stand_for_the_result_of_a_query_that_names_its_own_and_that_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "SELECT *, 'nl' AS country FROM '{log}'"
    schema = _trained(folder, query, None)
    capsys.readouterr()
    table = [f"{line},{'country' if index == 0 else 'nl'}" for index, line in enumerate(NEW)]
    (folder / "full.csv").write_text("\n".join(table) + "\n")
    said = (
        f"{folder}/full.csv: stands for the result of data.source.query, which names its files "
        "itself; its joins and filters are not applied. A query that reads FROM log, beside "
        "data.source.path, is applied to new files\n"
    )
    other = _data(folder, query, folder / "full.csv")
    other.load_schema(schema)
    assert other.sequence_ids("test").to_pylist() == ["90", "91"]
    assert capsys.readouterr().err.startswith(said)
    run = _data(folder, query, None)
    run.load_schema(schema)
    names, _ = run.read(folder / "full.csv")
    assert names["visit"].to_pylist() == ["90", "91"]
    assert capsys.readouterr().err.startswith(said)
    # Where a column of the query's own is missing, they are refused.
    with pytest.raises(UserError, match=r"new\.csv: no column 'country'"):
        run.read(folder / "new.csv")


def test_a_query_and_the_files_it_reads_both_change_the_fingerprint(folder: Path) -> None:
    def fingerprint(query: str, path: str) -> str:
        return str(_data(folder, query, folder / path).log_source.fingerprint())

    first = fingerprint(JOIN, "log.csv")
    assert first == fingerprint(JOIN, "log.csv")
    others = {
        fingerprint(JOIN, "new.csv"),
        fingerprint(JOIN.replace("u.country", "'nl' AS country"), "log.csv"),
    }
    assert first not in others
    assert len(others) == 2


def test_arrow_files_are_the_table_log_too_and_can_be_read_twice(folder: Path) -> None:
    table = pa.table({"visit": [1, 1], "second": [1, 2], "page": ["a", "b"]})
    with (
        pa.OSFile(str(folder / "log.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as file,
    ):
        file.write_table(table)
    log = EventLog(
        path=folder / "log.arrow", query="SELECT * FROM log JOIN (SELECT max(second) AS n FROM log)"
        " ON true", sequence="visit", time="second", categorical=["page"],
    )  # fmt: skip
    assert log.fingerprint() == log.fingerprint()
    assert log.problems() == []


@pytest.mark.parametrize(
    ("query", "reads"),
    [
        ("SELECT * FROM log", True),
        ("FROM Log", True),
        ("WITH t AS (SELECT * FROM log) SELECT * FROM t JOIN u USING (a)", True),
        ("SELECT * FROM x WHERE a IN (SELECT a FROM log)", True),
        ("WITH log AS (SELECT 1) SELECT * FROM log", False),
        ("SELECT log FROM x AS log_of", False),
        ("SELECT * FROM s.log", False),
        ("SELECT * FROM 'log.csv'", False),
    ],
)
def test_what_reads_the_table_log_is_seen_in_the_syntax_of_the_query(
    query: str, reads: bool
) -> None:
    assert reads_log(query) == reads

"""Text of users is shown as it is."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.box import SIMPLE_HEAD
from rich.table import Table

import unrolled
from unrolled.terminal import Terminal, as_seen, say, say_error

PACKAGE = Path(unrolled.__file__).parent
AROUND = {
    "print", "typer.echo", "click.echo", "typer.secho", "click.secho", "rich.print",
    "sys.stdout.write", "sys.stderr.write", "Console", "Text", "Text.from_markup",
}  # fmt: skip
"""Calls that would show a text in another way."""


def printed(*cells: str, **options: str) -> str:
    terminal = Terminal(file=io.StringIO(), width=200)
    table = Table(**options)  # type: ignore[arg-type]
    for cell in cells:
        table.add_column(cell)
    table.add_row(*cells)
    terminal.print(table)
    terminal.print(*cells)
    return terminal.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("text", ["[bold]", "[/a]", "[a,b]", "a[red]b", ":warning:", r"\[x]"])
def test_markup_is_shown_as_it_is_typed_in_headers_cells_titles_and_lines(text: str) -> None:
    assert printed(text, title=text, caption=text).count(text) == 5


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert printed("\x1b[31mred").count(r"\x1b[31mred") == 3
    assert as_seen("a\rb\x07\x9b2J\u202egpj.exe\udcff") == (r"a\rb\x07\x9b2J\u202egpj.exe\udcff")
    assert as_seen("plain\ttext,\nGrüße 漢字 👩‍🔬") == "plain\ttext,\nGrüße 漢字 👩‍🔬"


@given(st.text(st.characters(exclude_categories=[])))
def test_no_text_makes_a_terminal_do_anything_or_fails_to_be_written(text: str) -> None:
    seen = as_seen(text)
    seen.encode("utf-8")
    assert "\x1b" not in seen
    assert as_seen(seen) == seen
    printed(text)


def test_lines_and_errors_are_written_out_too(capsys: pytest.CaptureFixture[str]) -> None:
    say("[bold] \x1b[2J")
    say_error("one [/a]\ntwo \udcff")
    assert capsys.readouterr() == ("[bold] \\x1b[2J\n", "error: one [/a]\nerror: two \\udcff\n")


def test_no_module_shows_text_around_the_terminal() -> None:
    around = []
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "terminal.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in AROUND:
                    around.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert not around


@given(st.integers(24, 130), st.integers(0, 9), st.booleans(), st.booleans())
def test_no_column_of_a_table_is_lost_however_narrow_the_terminal(
    width: int, columns: int, lines: bool, words: bool
) -> None:
    terminal = Terminal(file=io.StringIO(), width=width)
    table = Table() if lines else Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    numbers = [[f"{row}.{column:03}e-05" for column in range(columns)] for row in range(3)]
    for column in range(columns):
        table.add_column(f"reference of number{column}", justify="right")
    if words:
        table.add_column("result")
    for row, cells in enumerate(numbers):
        table.add_row(f"test/recall@{row} ↑", *cells, *(["x" * 40] if words else []))
    terminal.print(table)
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    for cell in (cell for cells in numbers for cell in cells):
        assert text.count(cell) == 1
    # Words are broken, not cut.
    assert text.count("x") == (120 if words else 0)
    if width >= 80 and columns <= 3 and not words:
        assert text.count("test/recall@2 ↑") == 1

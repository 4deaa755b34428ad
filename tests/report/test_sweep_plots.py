"""Pictures of a sweep: where a trial's values stand on their axes."""

from __future__ import annotations

from pathlib import Path

import pytest

from unrolled.report.sweep_plots import Column, plot_parallel, plot_slices


def test_numbers_are_spread_from_least_to_most_and_logarithms_evenly() -> None:
    assert Column("x", [10, 30, 20]).places() == [0.0, 1.0, 0.5]
    assert Column("lr", [0.001, 0.1, 0.01], spread_in_log=True).places() == pytest.approx(
        [0, 1, 0.5]
    )
    assert Column("x", [3, 3]).places() == [0.0, 0.0]


def test_a_value_that_was_rounded_to_zero_has_no_logarithm() -> None:
    column = Column("k", [0, 100, 1000], spread_in_log=True)
    assert column.places() == pytest.approx([0, 0.1, 1])
    assert [text for _, text in column.marks()] == ["0", "100", "1000"]


def test_choices_have_places_of_their_own() -> None:
    column = Column("bidirectional", [True, False, True])
    assert not column.is_number
    assert column.places() == [0.0, 1.0, 0.0]
    assert column.marks() == [(0.0, "True"), (1.0, "False")]


def test_an_axis_says_what_stands_there() -> None:
    assert Column("size", [64, 32, 128]).marks() == [(0.0, "32"), (1 / 3, "64"), (1.0, "128")]
    many = Column("lr", [10.0**-k for k in range(1, 9)], spread_in_log=True)
    assert [text for _, text in many.marks()] == ["1e-08", "5.62e-07", "3.16e-05", "0.00178", "0.1"]


def test_the_files_are_pictures(tmp_path: Path) -> None:
    columns = [Column("model", ["lstm", "gru", "lstm"]), Column("lr", [0.1, 0.2, 0.3])]
    plot_slices(tmp_path / "slices.png", columns, [1.0, 2.0, 3.0], "val/loss")
    plot_parallel(tmp_path / "lines.png", columns, [1.0, 2.0, 3.0], "val/loss", maximize=True)
    for name in ("slices.png", "lines.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"

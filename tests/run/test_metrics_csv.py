"""metrics.csv: rows by step, no step twice after a resume, half a row is no row."""

from __future__ import annotations

from pathlib import Path

from unrolled.run.metrics_csv import MetricsCSV


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.csv").read_text().splitlines()


def logged(folder: Path, steps: range) -> MetricsCSV:
    logger = MetricsCSV(folder)
    for step in steps:
        logger.log_metrics({"train/loss": 1 / 2**step, "epoch": 0}, step)
    logger.save()
    return logger


def test_values_of_a_step_are_one_row_and_names_may_come_later(tmp_path: Path) -> None:
    logger = logged(tmp_path, range(1, 3))
    logger.log_metrics({"train/loss": 0.5, "epoch": 1}, 3)
    logger.log_metrics({"val/error": 0.25, "epoch": 1}, 3)
    logger.save()
    assert lines(tmp_path) == [
        "step,epoch,train/loss,val/error",
        "1,0,0.5,",
        "2,0,0.25,",
        "3,1,0.5,0.25",
    ]


def test_a_resumed_run_takes_back_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 13))
    logger = MetricsCSV(tmp_path)
    assert logger.num_rows == 12
    logger.keep(10)
    logger.log_metrics({"train/loss": 8.0, "epoch": 0}, 11)
    logger.save()
    assert [line.split(",")[0] for line in lines(tmp_path)[1:]] == [*map(str, range(1, 12))]
    assert lines(tmp_path)[-1] == "11,0,8.0"


def test_half_a_row_does_not_read_as_another(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 13))
    whole = (tmp_path / "metrics.csv").read_bytes()
    # Cut within the last row's step: "1" of "12".
    cut = whole.rstrip().rfind(b"\n") + 2
    (tmp_path / "metrics.csv").write_bytes(whole[:cut])
    logger = MetricsCSV(tmp_path)
    logger.keep(11)
    logger.log_metrics({"train/loss": 8.0, "epoch": 0}, 12)
    logger.save()
    assert [line.split(",")[0] for line in lines(tmp_path)[1:]] == [*map(str, range(1, 13))]
    assert lines(tmp_path)[-1] == "12,0,8.0"

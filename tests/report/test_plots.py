"""Pictures of a run: the numbers that they show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unrolled.report.plots import _last_of_each, _times, plot_run, reliability


def test_the_reliability_diagram_has_the_mean_and_the_share_of_each_bin() -> None:
    probability = np.array([0.05, 0.15, 0.12, 1.0, np.nan, 0.95])
    target = np.array([0, 0, 1, 1, 1, 0])
    predicted, observed, count = reliability(probability, target, 10)
    assert predicted == pytest.approx([0.05, 0.135, 0.975])
    assert observed == pytest.approx([0.0, 0.5, 0.5])
    assert count.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]


def test_of_predictions_for_each_step_the_last_counts() -> None:
    lists = pa.chunked_array([pa.array([[0.1, 0.2], [0.3]]), pa.array([[0.4, 0.5, 0.6]])])
    assert _last_of_each(lists).tolist() == [0.2, 0.3, 0.6]
    assert _last_of_each(pa.chunked_array([pa.array([1, 2])])).tolist() == [1, 2]


@pytest.mark.parametrize("every_step", [False, True])
def test_a_run_of_purchase_intent_has_its_three_pictures(every_step: bool, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,epoch,train/loss,val/auroc\n1,0,0.5,0.6\n")
    score = {"value": 0.7, "trivial": 0.5, "best": None}
    metrics = {f"test/{n}": score for n in ("auroc", "average_precision")}
    references = {"boosted_trees": {f"test/{n}@{k}": 0.6 for n in ("auroc", "average_precision")
                                    for k in (1, 5)}}  # fmt: skip
    (tmp_path / "metrics.json").write_text(
        json.dumps({"metrics": metrics, "references": references})
    )
    (tmp_path / "predictions").mkdir()
    curve = {"events": [1, 5], "auroc": [0.55, 0.65], "average_precision": [0.3, 0.4]}
    pq.write_table(pa.table(curve), tmp_path / "predictions" / "events_seen.parquet")
    probability = [[0.1, 0.9], [0.2]] if every_step else [0.9, 0.2]
    columns = {"target": [1, 0], "probability": probability, "probability_scaled": probability}
    plot_run(tmp_path, "auroc", pa.table(columns))
    names = ("events_seen.png", "learning_curves.png", "reliability.png")
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == sorted(names)
    for name in names:
        picture = (tmp_path / "plots" / name).read_bytes()
        assert picture[:4] == b"\x89PNG"
        assert len(picture) > 10_000


def test_rankings_without_a_value_leave_an_empty_picture(tmp_path: Path) -> None:
    score = {"value": None, "undefined": "all 5 targets are 0", "trivial": None, "best": None}
    names = ("auroc", "average_precision")
    references = {"boosted_trees": {f"test/{n}@1": None for n in names}}
    (tmp_path / "metrics.json").write_text(
        json.dumps({"metrics": {f"test/{n}": score for n in names}, "references": references})
    )
    (tmp_path / "metrics.csv").write_text("step,epoch,train/loss,val/auroc\n1,0,0.5,\n")
    (tmp_path / "predictions").mkdir()
    curve = {"events": [1], **{name: [float("nan")] for name in names}}
    pq.write_table(pa.table(curve), tmp_path / "predictions" / "events_seen.parquet")
    plot_run(tmp_path, "auroc", None)
    assert (tmp_path / "plots" / "events_seen.png").read_bytes()[:4] == b"\x89PNG"


def test_times_are_drawn_where_there_are_any(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    _times(tmp_path, pa.table({"target_time": [[0.0]], "median_time": [[1.0]]}))
    assert not (tmp_path / "plots" / "times.png").exists()
    times = [[0.1, 2.0, 30.0], [5.0]]
    _times(tmp_path, pa.table({"target_time": times, "median_time": times}))
    assert (tmp_path / "plots" / "times.png").stat().st_size > 5_000

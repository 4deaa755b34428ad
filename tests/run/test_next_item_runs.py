"""Runs of the next item from the command line: one process and two, references, predictions."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import duckdb
import pytest
from commands import unrolled

pytestmark = pytest.mark.process
TYPED = [
    "task=next_item", "head=item_softmax", "head.dropout=0", "embedding.dropout=0", "task.k=3",
    "data.source.path=log.csv", "data.source.sequence=visit", "data.source.order=step",
    "data.source.item=item", "data.source.split=part", "data.store_dir=stores",
    "data.batch_size=10", "trainer.max_steps=8", "logger=none",
]  # fmt: skip


def write_log(folder: Path) -> None:
    draw = random.Random(0)
    lines = ["visit,step,item,part"]
    for visit in range(70):
        part = "train" if visit < 45 else "val" if visit < 50 else "test"
        for step in range(draw.randint(2, 9)):
            lines.append(f"v{visit},{step},page {draw.randrange(15)},{part}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")


def test_two_processes_learn_and_score_as_one_does(tmp_path: Path) -> None:
    write_log(tmp_path)
    results: dict[str, dict[str, Any]] = {}
    for name, trainer in (("one", "cpu"), ("two", "ddp_cpu")):
        done = unrolled("train", *TYPED, f"trainer={trainer}", f"run_dir={name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "session" in done.stdout
        assert "ties: conservative" in done.stdout
        results[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    one, two = results["one"], results["two"]
    assert one["references"] == two["references"]
    assert set(one["references"]) == {"last_item", "markov", "session_knn"}
    assert one["protocol"]["ties"] == "conservative"
    assert one["main_metric"] == "test/recall@3"
    for name, score in one["metrics"].items():
        assert score["value"] == pytest.approx(two["metrics"][name]["value"], rel=1e-4), name
    assert one["metrics"]["test/recall@3"]["trivial"] > 0

    (tmp_path / "new.csv").write_text("visit,step,item\na,0,page 3\na,1,page 4\nb,0,other\n")
    done = unrolled("predict", "one", "--input", "new.csv", "--output", "out.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = duckdb.sql(f"SELECT * FROM '{tmp_path}/out.parquet'").fetchall()
    assert [row[0] for row in rows] == ["a", "b"]
    assert [len(row[1]) for row in rows] == [2, 1]
    assert all(len(row[2]) == len(row[3]) == 3 for row in rows)
    assert all(item.startswith("page ") for row in rows for item in row[2])
    assert all(row[3] == sorted(row[3], reverse=True) for row in rows)

"""task=next_event: its losses and scores, its trivial answer and its references."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from unrolled.data.batch import NO_TARGET
from unrolled.data.batching import BatchLoader
from unrolled.data.events import EventData
from unrolled.data.log import EventLog
from unrolled.data.outputs import write_table
from unrolled.data.schema import Schema
from unrolled.errors import UserError
from unrolled.models.embedding import EventEmbedding
from unrolled.models.head import ClassificationHead
from unrolled.models.point_process import ExponentialHead, LogNormalMixtureHead
from unrolled.models.readout import EveryStep, Last
from unrolled.models.recurrent import GRU
from unrolled.models.sequence import SequenceModel
from unrolled.run.predictions import predict_source
from unrolled.synthetic.hawkes import HawkesLog
from unrolled.tasks import next_event
from unrolled.tasks.judge import judge_predictions
from unrolled.tasks.next_event import NextEvent

LOG = HawkesLog(sequences=400, types=2, min_events=2, max_events=30, seed=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EventData:
    return EventData(LOG, tmp_path_factory.mktemp("stores"), target="next_event")


def _task(data: EventData, head: nn.Module | None = None, **options: Any) -> NextEvent:
    torch.manual_seed(0)
    schema = data.schema
    assert schema.num_classes is not None
    embedding = EventEmbedding(schema)
    head = head or LogNormalMixtureHead(
        4, schema.num_classes, num_components=3, train_targets=data.train_targets()
    )
    encoder = GRU(embedding.output_size, 4)
    model = SequenceModel(embedding, encoder, EveryStep(4), head)  # type: ignore[arg-type]
    task = NextEvent(model, partial(torch.optim.SGD, lr=0.1), **options)
    task.check_schema(schema)
    return task.eval()


@torch.no_grad()
def test_the_loss_of_a_sequence_is_the_mean_of_those_of_its_steps(data: EventData) -> None:
    task = _task(data)
    batch = data.source("test").gather(torch.arange(5))
    losses = task.losses(task(batch), batch)
    summed = _task(data, over_time="sum")
    assert len(set(batch.lengths.tolist())) > 1
    for row, length in enumerate(batch.lengths.tolist()):
        alone = data.source("test").gather(torch.tensor([row]))
        steps = task.head.loss(task(alone)[0], alone.targets[0])
        assert len(steps) == length
        assert float(losses[row]) == pytest.approx(float(steps.mean()), abs=1e-5)
        total = summed.losses(task(batch), batch)[row]
        assert float(total) == pytest.approx(float(steps.sum()), abs=1e-4)


@torch.no_grad()
def test_the_score_does_not_depend_on_the_batches(data: EventData) -> None:
    task, source = _task(data), data.source("test")
    results = []
    for size in (3, 100):
        for batch in BatchLoader(source, size):
            task._judge(batch, "val")
        results.append({k: float(v) for k, v in task.judges["val"].take().items()})  # type: ignore[operator]
    assert results[0] == pytest.approx(results[1], abs=1e-5)
    assert results[0]["events"] == len(source.targets())
    batch = source.gather(torch.arange(len(source)))
    real = ~batch.targets[..., 0].isnan()
    loss = task.head.loss(task(batch)[real], batch.targets[real])
    assert results[0]["log_likelihood"] == pytest.approx(-float(loss.mean()), abs=1e-5)
    parts = results[0]["time_log_likelihood"] + results[0]["type_log_likelihood"]
    assert results[0]["log_likelihood"] == pytest.approx(parts, abs=1e-9)


def test_types_are_counted_as_classes(data: EventData) -> None:
    types = data.train_targets()[:, 0].tolist()
    assert data.class_counts().tolist() == [types.count(kind) for kind in range(4)]


def test_the_trivial_answer_is_a_poisson_process(data: EventData) -> None:
    scores = _task(data).trivial_scores(data)
    train, test = data.train_targets(), data.source("test").targets()
    rate = 1 / float(train[:, 1].mean())
    gaps = test[:, 1]
    time = float((math.log(rate) - rate * gaps).mean())
    counts = {kind: float((train[:, 0] == kind).sum()) + 1 for kind in (1, 2, 3)}
    total = sum(counts.values())
    kind = sum(math.log(counts[int(k)] / total) for k in test[:, 0]) / len(test)
    assert scores["test/time_log_likelihood"] == pytest.approx(time, abs=1e-9)
    assert scores["test/type_log_likelihood"] == pytest.approx(kind, abs=1e-9)
    assert scores["test/log_likelihood"] == pytest.approx(time + kind, abs=1e-9)
    most = max(counts, key=lambda k: counts[k])
    assert scores["test/type_accuracy"] == pytest.approx(
        float((test[:, 0] == most).double().mean())
    )
    median = math.log(2) / rate
    assert scores["test/time_mae"] == pytest.approx(float((gaps - median).abs().mean()))
    assert scores["test/time_rmse"] == pytest.approx(
        float((gaps - 1 / rate).square().mean()) ** 0.5
    )
    assert scores["test/events"] == len(test)


def test_the_reference_finds_the_law_of_a_hawkes_process(tmp_path: Path) -> None:
    log = HawkesLog(sequences=1500, types=2, min_events=20, max_events=40, seed=1)
    data = EventData(log, tmp_path, target="next_event")
    task = _task(data)
    found, best = task.references(data)["hawkes"], data.best_possible()
    trivial = task.trivial_scores(data)
    for name in ("log_likelihood", "time_log_likelihood", "type_log_likelihood"):
        assert found[f"test/{name}"] == pytest.approx(best[f"test/{name}"], abs=0.03)
    assert trivial["test/log_likelihood"] < best["test/log_likelihood"] - 0.5
    assert found["test/time_mae"] < trivial["test/time_mae"]
    assert found["test/time_rmse"] < trivial["test/time_rmse"]
    assert found["test/type_accuracy"] >= trivial["test/type_accuracy"]


def test_there_is_no_reference_for_many_types_and_a_line_says_so(
    data: EventData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(next_event, "LARGEST_NUM_TYPES", 3)
    assert _task(data).references(data) == {}
    assert "no Hawkes process beside the result" in caplog.text


@torch.no_grad()
def test_predictions_stand_beside_what_came(data: EventData) -> None:
    task, source = _task(data), data.source("test")
    table = predict_source(task, source, 7, targets=True)
    rows = table.to_pylist()
    assert [len(row["prediction"]) for row in rows] == source.lengths.tolist()
    assert table.column_names == [
        "target", "target_time", "prediction", "prediction_probability", "median_time", "mean_time",
    ]  # fmt: skip
    targets = source.targets()
    assert [k for row in rows for k in row["target"]] == targets[:, 0].long().tolist()
    assert [t for row in rows for t in row["target_time"]] == targets[:, 1].tolist()
    batch = source.gather(torch.tensor([3]))
    outputs = task(batch)[0]
    assert rows[3]["median_time"] == pytest.approx(task.head.median(outputs).tolist(), rel=1e-5)
    assert rows[3]["prediction"] == task.head.predict(outputs).tolist()
    padded = source.gather(torch.arange(5)).targets
    assert bool(
        ((task.target_columns(padded)["target"] == NO_TARGET) == padded[..., 0].isnan()).all()
    )


def test_data_and_models_that_do_not_fit_are_refused(data: EventData) -> None:
    with pytest.raises(UserError, match=r"head: ClassificationHead does not say when.*lognormal"):
        _task(data, ClassificationHead(4, 4))
    task = _task(data)
    with pytest.raises(UserError, match="needs an event log with types and times"):
        task.check_schema(Schema(data.schema.features, 2))
    task.model.readout = Last(4)
    with pytest.raises(UserError, match="use readout=every_step"):
        task.check_schema(data.schema)
    task.model.readout = EveryStep(4)
    task.model.encoder.causal = False  # type: ignore[assignment]
    with pytest.raises(UserError, match="reads the future"):
        task.check_schema(data.schema)


def _log(tmp_path: Path, **changes: Any) -> EventLog:
    rows = pa.table({
        "user": [u for u in range(20) for _ in range(3)],
        "step": [0, 1, 2] * 20,
        "at": [100.0 * u + t for u in range(20) for t in (0.0, 2.0, 2.0)],
        "kind": ["click"] * 60,
    })  # fmt: skip
    write_table(rows, tmp_path / "log.parquet")
    options = {"sequence": "user", "order": "step", "time": "at", "event_type": "kind",
               "categorical": ["kind"], **changes}  # fmt: skip
    return EventLog(path=tmp_path / "log.parquet", **options)


def test_events_of_one_type_at_the_same_times_are_foretold(tmp_path: Path) -> None:
    data = EventData(_log(tmp_path, gap=True), tmp_path / "stores", target="next_event")
    head = ExponentialHead(4, 3, train_targets=data.train_targets())
    task = _task(data, head)
    assert float(head.min_gap) == 2.0
    scores, found = task.trivial_scores(data), task.references(data)["hawkes"]
    assert scores["test/type_accuracy"] == found["test/type_accuracy"] == 1.0
    assert all(math.isfinite(value) for value in [*scores.values(), *found.values()])


def test_a_log_in_another_order_than_that_of_time_is_refused(tmp_path: Path) -> None:
    log = _log(tmp_path, order="at", time="step")
    with_gap = _log(tmp_path, order="at", time="step", gap=True)
    table = pa.table({"user": [row // 3 for row in range(27)], "at": range(27),
                      "step": [5, 1, 0] * 9, "kind": ["click"] * 27})  # fmt: skip
    write_table(table, tmp_path / "log.parquet")
    with pytest.raises(UserError, match="the time 'step' goes back 18 times"):
        EventData(with_gap, tmp_path / "stores", target="next_event").setup()
    data = EventData(log, tmp_path / "stores", target="next_event")
    with pytest.raises(UserError, match="the time 'step' goes back 18 times"):
        data.train_targets()
    backwards = torch.tensor([[2.0, -1.0], [2.0, 3.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="not in the order of their time"):
        ExponentialHead(4, 3, train_targets=backwards)


def test_a_log_without_times_is_refused(tmp_path: Path) -> None:
    log = _log(tmp_path, time=None, split="part")
    rows = pa.table({"user": [0, 0, 1, 1, 2, 2], "step": [0, 1] * 3, "kind": ["a", "b"] * 3,
                     "part": ["train"] * 2 + ["val"] * 2 + ["test"] * 2})  # fmt: skip
    write_table(rows, tmp_path / "log.parquet")
    data = EventData(log, tmp_path / "stores", target="next_event")
    with pytest.raises(UserError, match=r"needs data\.source\.time"):
        data.schema  # noqa: B018


def test_judging_whole_answers_is_judging_them_one_by_one(data: EventData) -> None:
    task = _task(data)
    batch = data.source("test").gather(torch.arange(4))
    real = ~batch.targets[..., 0].isnan()
    with torch.no_grad():
        forecast = task.forecast(task(batch)[real], batch.targets[real])
    judged = judge_predictions(task.metrics(), forecast, batch.targets[real])
    assert judged["events"] == int(real.sum())
    hits = (forecast.type == batch.targets[real][:, 0]).double().mean()
    assert judged["type_accuracy"] == pytest.approx(float(hits))

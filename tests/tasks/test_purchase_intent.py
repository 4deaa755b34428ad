"""Purchase intent: at the end, by number of events seen, calibrated, and beside boosted trees."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from torch import Tensor, nn

from unrolled.data.batch import SequenceBatch
from unrolled.data.module import SequenceData, Split
from unrolled.data.schema import Categorical, Numeric, Schema
from unrolled.data.store import JaggedSequences
from unrolled.errors import UserError
from unrolled.metrics.calibration import fit_temperature, scale
from unrolled.models.embedding import EventEmbedding
from unrolled.models.head import BinaryHead, ClassificationHead
from unrolled.models.readout import EveryStep, Last
from unrolled.models.recurrent import LSTM
from unrolled.models.sequence import SequenceModel
from unrolled.tasks.boosted_trees import boosted_trees
from unrolled.tasks.events_seen import first_events
from unrolled.tasks.purchase_intent import PurchaseIntent

# https://github.com/Lightning-AI/pytorch-lightning/issues/21326
pytestmark = pytest.mark.filterwarnings(
    "ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"
)
SCHEMA = Schema((Categorical("page", 5), Numeric("gap")), 2)


class ShopData(SequenceData):
    """Sessions of 2 to 9 pages; a 4 says that it buys, other pages say little."""

    def __init__(self, train: int = 300, held_out: int = 120) -> None:
        super().__init__(32, 50, True, 0)
        random = torch.Generator().manual_seed(0)
        self.sources = {}
        for split, count in (("train", train), ("val", held_out), ("test", held_out)):
            lengths = torch.randint(2, 10, (count,), generator=random)
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            page = torch.randint(1, 4, (int(offsets[-1]),), generator=random)
            labels = (torch.rand(count, generator=random) < 0.4).long()
            marked = labels.bool() & (torch.rand(count, generator=random) < 0.8)
            where = (torch.rand(count, generator=random) * lengths).long()
            page[(offsets[:-1] + where)[marked]] = 4
            gap = torch.rand(len(page), generator=random)
            self.sources[split] = JaggedSequences({"page": page, "gap": gap}, offsets, labels)

    @property
    def schema(self) -> Schema:
        return SCHEMA

    def source(self, split: Split) -> JaggedSequences:
        return self.sources[split]

    def read(self, path: Path) -> Any:
        raise AssertionError("not asked")


def make_task(every_step: bool = False, seed: int = 0, **options: Any) -> PurchaseIntent:
    torch.manual_seed(seed)
    embedding = EventEmbedding(SCHEMA)
    encoder = LSTM(embedding.output_size, 8, bidirectional=options.pop("bidirectional", False))
    size = encoder.output_size
    readout = EveryStep(size) if every_step else Last(size)
    model = SequenceModel(embedding, encoder, readout, BinaryHead(size))
    return PurchaseIntent(model, partial(torch.optim.Adam, lr=0.03), **options)


def trainer(**options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def everything(data: SequenceData, split: Split) -> SequenceBatch:
    source = data.source(split)
    return source.gather(torch.arange(len(source)))


@torch.no_grad()
def probabilities(task: PurchaseIntent, batch: SequenceBatch) -> Tensor:
    task.eval()
    return task.model(batch).squeeze(-1).sigmoid()


def test_test_sessions_are_judged_after_their_first_events_too() -> None:
    data, task = ShopData(), make_task(events_seen=[3, 1])
    trainer().test(task, datamodule=data, verbose=False)
    batch = everything(data, "test")
    labels = batch.targets.numpy()
    for count in (1, 3):
        p = probabilities(task, first_events(batch, count)).numpy()
        assert task.results[f"test/auroc@{count}"] == pytest.approx(roc_auc_score(labels, p))
        assert task.results[f"test/average_precision@{count}"] == pytest.approx(
            average_precision_score(labels, p), rel=1e-5
        )
    p = probabilities(task, batch).numpy()
    assert task.results["test/auroc"] == pytest.approx(roc_auc_score(labels, p))
    assert task.results["test/brier"] == pytest.approx(brier_score_loss(labels, p), rel=1e-5)
    table = task.tables["events_seen"]
    assert table["events"].tolist() == [1, 3]
    for name in ("auroc", "average_precision"):
        assert table[name].tolist() == [task.results[f"test/{name}@{n}"] for n in (1, 3)]


def test_a_model_of_every_step_scores_what_it_would_on_sessions_that_end_there() -> None:
    data = ShopData()
    unfolding = make_task(every_step=True)
    at_the_end = make_task(events_seen=unfolding.events_seen)
    at_the_end.load_state_dict(unfolding.state_dict())
    for task in (unfolding, at_the_end):
        trainer().test(task, datamodule=data, verbose=False)
    names = [name for name in at_the_end.results if "loss" not in name]
    assert sum("@" in name for name in names) == 12
    for name in names:
        assert unfolding.results[name] == pytest.approx(at_the_end.results[name], abs=1e-5), name


def test_more_of_a_session_tells_more() -> None:
    data, task = ShopData(1_000, 400), make_task(every_step=True, events_seen=(1, 3, 9))
    runner = trainer(max_epochs=8)
    runner.fit(task, datamodule=data)
    runner.test(task, datamodule=data, verbose=False)
    curve = task.tables["events_seen"]["auroc"].tolist()
    assert curve[0] + 0.05 < curve[1] < curve[2] - 0.05
    # After nine events every session is whole.
    assert curve[2] == pytest.approx(task.results["test/auroc"])
    assert curve[2] > 0.85


def test_the_question_may_be_asked_of_the_first_events_alone() -> None:
    data, task, plain = ShopData(), make_task(first_events=2, events_seen=(1, 2, 3)), make_task()
    assert task.events_seen == [1]
    batch = everything(data, "train")
    assert torch.equal(task(batch), plain(first_events(batch, 2)))
    loss = task.losses(task(batch), batch).mean()
    expected = plain.losses(plain(first_events(batch, 2)), batch).mean()
    torch.testing.assert_close(loss, expected)
    task.trainer = trainer()
    torch.testing.assert_close(task.training_step(batch, 0), expected)
    trainer().test(task, datamodule=data, verbose=False)
    test = everything(data, "test")
    p = probabilities(task, first_events(test, 2)).numpy()
    assert task.results["test/auroc"] == pytest.approx(roc_auc_score(test.targets.numpy(), p))


def test_the_temperature_is_that_of_the_validation_and_goes_into_the_checkpoint() -> None:
    data, task = ShopData(), make_task()
    trainer(max_epochs=4).fit(task, datamodule=data)
    batch = everything(data, "val")
    fitted = fit_temperature(probabilities(task, batch), batch.targets)
    assert float(task.temperature) == pytest.approx(float(fitted), rel=1e-4)
    assert float(task.temperature) != 1.0
    again = make_task(seed=1)
    again.load_state_dict(task.state_dict())
    trainer().test(again, datamodule=data, verbose=False)
    assert again.results["test/temperature"] == float(task.temperature)
    test = everything(data, "test")
    scaled = scale(probabilities(task, test), float(task.temperature)).double()
    nats = nn.functional.binary_cross_entropy(scaled, test.targets.double())
    assert again.results["test/log_loss_scaled"] == pytest.approx(float(nats), rel=1e-5)
    assert again.results["test/log_loss"] != again.results["test/log_loss_scaled"]
    columns = again.eval().predictions(again(test))
    torch.testing.assert_close(columns["probability_scaled"].double(), scaled.double())
    assert torch.equal(columns["prediction"], (columns["probability_scaled"] > 0.5).long())


def test_where_every_event_is_answered_the_temperature_is_that_of_all_answers() -> None:
    data, task = ShopData(), make_task(every_step=True)
    trainer().validate(task, datamodule=data, verbose=False)
    batch = everything(data, "val")
    real = torch.arange(int(batch.lengths.max())) < batch.lengths.unsqueeze(1)
    answers = probabilities(task, batch)[real]
    fitted = fit_temperature(answers, batch.targets.repeat_interleave(batch.lengths))
    assert float(task.temperature) == pytest.approx(float(fitted), rel=1e-4)


def test_a_constant_answer_scores_the_same_after_any_number_of_events() -> None:
    data, task = ShopData(), make_task(events_seen=(1, 2))
    scores = task.trivial_scores(data)
    share = float(data.source("test").targets().float().mean())
    assert scores["test/auroc@2"] == 0.5
    assert scores["test/average_precision@1"] == pytest.approx(share)
    assert scores["test/log_loss_scaled"] == scores["test/log_loss"]
    directions = task.metric_direction()
    assert directions["auroc@1"] == directions["average_precision@2"] == "max"
    assert directions["calibration_error_scaled"] == directions["brier"] == "min"


def test_a_model_that_has_seen_the_rest_is_not_asked_after_every_event() -> None:
    task = make_task(every_step=True, bidirectional=True)
    with pytest.raises(UserError, match="this model has seen the events that follow"):
        task.check_schema(SCHEMA)
    make_task(bidirectional=True).check_schema(SCHEMA)


def test_one_label_a_session_is_needed() -> None:
    with pytest.raises(UserError, match="one label a sequence; these data have one for each step"):
        make_task().check_schema(Schema(SCHEMA.features, 2, per_step=True))


def test_boosted_trees_stand_beside_the_result() -> None:
    data, task = ShopData(600), make_task(reference="boosted_trees", events_seen=(1,))
    assert make_task().references(data) == {}
    scores = task.references(data)["boosted_trees"]
    labels = data.source("test").targets().numpy()
    p = boosted_trees(data)[0].numpy()
    assert scores["test/auroc"] == pytest.approx(roc_auc_score(labels, p), rel=1e-5)
    assert scores["test/auroc"] > 0.8
    # A single page: what follows is not seen.
    early = boosted_trees(data, 1)[0].numpy()
    assert scores["test/auroc@1"] == pytest.approx(roc_auc_score(labels, early), rel=1e-5)
    assert 0.5 < scores["test/auroc@1"] < 0.7
    assert "test/log_loss@1" not in scores


def test_without_scikit_learn_the_trees_are_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("unrolled.tasks.purchase_intent.installed", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert make_task(reference="boosted_trees").references(ShopData()) == {}
    assert caplog.messages == [
        "task.reference=boosted_trees needs scikit-learn: pip install 'unrolled[references]'; "
        "it is left out"
    ]


def test_any_head_of_two_classes_serves() -> None:
    data, task = ShopData(), make_task()
    task.model.head = ClassificationHead(8, 2)
    trainer(max_steps=3).fit(task, datamodule=data)
    trainer().test(task, datamodule=data, verbose=False)
    assert 0.05 <= task.results["test/temperature"] <= 20
    assert task.results["test/sequences"] == 120


def test_every_event_of_a_stream_can_not_be_answered() -> None:
    batch = everything(ShopData(), "train")
    batch.continues = torch.full((len(batch),), -1)
    with pytest.raises(UserError, match=r"data\.batching=stream has a session's label where"):
        make_task(every_step=True).training_step(batch, 0)
    make_task().training_step(batch, 0)


def test_what_was_seen_early_is_judged_of_models_that_learn_to_answer_early() -> None:
    data = ShopData()
    whole, unfolding, asked = make_task(), make_task(every_step=True), make_task(events_seen=(2,))
    assert (whole.events_seen, unfolding.events_seen) == ([], [1, 2, 3, 5, 10, 20])
    trainer().test(whole, datamodule=data, verbose=False)
    assert not any("@" in name for name in [*whole.results, *whole.trivial_scores(data)])
    assert whole.tables == {}
    assert "early answers" not in unfolding.protocol()
    told = (
        "the model was trained on whole sessions only, and its probabilities after fewer events "
        "mean little"
    )
    assert told in whole.protocol()["early answers"]
    assert f"{told} (test/*@n); " in asked.protocol()["early answers"]


def test_of_test_sessions_that_are_all_alike_no_ranking_has_a_number() -> None:
    data, task = ShopData(), make_task(events_seen=(1,))
    data.sources["test"].labels = torch.zeros(120, dtype=torch.int64)
    trainer().test(task, datamodule=data, verbose=False)
    ranked = [f"test/{name}{at}" for name in ("auroc", "average_precision") for at in ("", "@1")]
    assert task.undefined.keys() == {*ranked}
    assert task.undefined["test/auroc@1"] == "all 120 targets are 0"
    trivial = task.trivial_scores(data)
    assert all(math.isnan(task.results[name]) and math.isnan(trivial[name]) for name in ranked)
    assert task.results["test/log_loss"] > 0

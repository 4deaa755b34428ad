"""The next item: what is asked, what is scored, and the references beside it."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from unrolled.data.batch import NO_TARGET, SequenceBatch
from unrolled.data.events import EventData
from unrolled.data.log import EventLog
from unrolled.errors import UserError
from unrolled.metrics.ranking import rank, top_items
from unrolled.models.catalogue import SoftmaxHead
from unrolled.models.embedding import EventEmbedding
from unrolled.models.head import ClassificationHead
from unrolled.models.readout import EveryStep, Last
from unrolled.models.recurrent import GRU
from unrolled.models.sequence import SequenceModel
from unrolled.run.predictions import predict_source, predict_split, with_names
from unrolled.tasks import next_item_references
from unrolled.tasks.next_item import NextItem
from unrolled.tasks.next_item_references import NextItemReferences

K = 3


def sessions(seed: int = 0) -> dict[str, list[list[str]]]:
    """Sessions by split; those of the test have an item that training has not."""
    draw = random.Random(seed)
    items = [f"i{n}" for n in range(12)]
    made = {
        split: [draw.choices(items, range(12, 0, -1), k=draw.randint(2, 6)) for _ in range(count)]
        for split, count in {"train": 40, "val": 8, "test": 15}.items()
    }
    made["test"][0] = ["i0", "new", "i1"]
    return made


@pytest.fixture
def data(tmp_path: Path) -> EventData:
    lines = ["visit,step,item,part"]
    number = 0
    for split, made in sessions().items():
        for items in made:
            lines += [f"{number:03},{step},{item},{split}" for step, item in enumerate(items)]
            number += 1
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "new.csv").write_text("visit,step,item\na,0,i3\na,1,i0\nb,0,never\n")
    log = EventLog(
        path=tmp_path / "log.csv", sequence="visit", order="step", item="item", split="part"
    )
    return EventData(log, tmp_path / "stores", target="next_item", eval_batch_size=4)


def make(data: EventData, **options: Any) -> NextItem:
    torch.manual_seed(0)
    embedding = EventEmbedding(data.schema, 6)
    assert data.schema.num_classes is not None
    head = SoftmaxHead(6, data.schema.num_classes, embedding.table("item"), data.class_counts())
    model = SequenceModel(embedding, GRU(6, 6), EveryStep(6), head)
    task = NextItem(model, partial(torch.optim.SGD, lr=0.1), k=K, **options)
    task.check_schema(data.schema)
    return task


def scores_of(task: NextItem, data: EventData) -> dict[str, float]:
    lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).test(task, datamodule=data, verbose=False)  # fmt: skip
    return task.results


def ids(data: EventData) -> dict[str, int]:
    names = data.class_names()
    assert names is not None
    return {name: i for i, name in enumerate(names.to_pylist()) if name is not None}


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The .test_dataloader. does not have many workers")
def test_the_scores_are_those_of_ranking_every_next_click_by_hand(data: EventData) -> None:
    task = make(data)
    results = scores_of(task, data)
    task.eval()
    ranks, unseen, nats = [], 0, []
    recommended: set[int] = set()
    known = ids(data)
    for items in sessions()["test"]:
        for step in range(1, len(items)):
            row = torch.tensor([[known.get(i, 1) for i in items[:step]]])
            batch = SequenceBatch(
                {"item": row}, torch.tensor([step]), torch.zeros_like(row), torch.tensor([0])
            )
            with torch.no_grad():
                scores = task.head.all_scores()(task(batch)[0, -1:])[0]
            target = known.get(items[step])
            if target is None:
                unseen += 1
                continue
            ranks.append(int((scores >= scores[target]).sum()))
            nats.append(-float(scores[2:].log_softmax(0)[target - 2]))
            recommended |= set(scores.topk(K).indices.tolist())
    assert unseen == results["test/unseen_targets"] == 1
    assert len(ranks) == results["test/targets"]
    assert results["test/unseen_share"] == pytest.approx(1 / (len(ranks) + 1))
    hits = sum(r <= K for r in ranks)
    gained = sum(1 / r for r in ranks if r <= K)
    assert results["test/recall@3"] == pytest.approx(hits / len(ranks))
    assert results["test/recall@3_all"] == pytest.approx(hits / (len(ranks) + 1))
    assert results["test/mrr@3"] == pytest.approx(gained / len(ranks))
    assert results["test/mrr@3_all"] == pytest.approx(gained / (len(ranks) + 1))
    assert results["test/coverage@3"] == pytest.approx(len(recommended) / len(known))
    assert results["test/loss"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert task.main_metric == "recall@3"
    assert task.monitor == "val/recall@3"


def test_a_step_counts_the_same_padded_and_packed_and_without_a_known_target_not_at_all(
    data: EventData,
) -> None:
    task = make(data).train()
    size = task.head.num_classes
    outputs = torch.randn(2, 3, 6)
    targets = torch.tensor([[2, 1, 4], [5, NO_TARGET, NO_TARGET]])
    lengths, numbers = torch.tensor([3, 1]), torch.arange(2)
    padded = task.losses(outputs, SequenceBatch({}, lengths, targets, numbers))
    rows = torch.tensor([0, 3, 1, 2])
    packed = task.losses(
        outputs.flatten(0, 1)[rows],
        SequenceBatch({}, lengths, targets.flatten()[rows], numbers),
    )
    assert padded.shape == (3,)
    assert sorted(padded.tolist()) == pytest.approx(sorted(packed.tolist()))
    none = torch.full_like(targets, 1)
    nothing = task.losses(outputs.requires_grad_(), SequenceBatch({}, lengths, none, numbers))
    assert nothing.mean().item() == 0.0
    nothing.mean().backward()
    assert size == len(ids(data)) + 2


def by_hand(name: str, train: list[list[str]], history: list[str]) -> dict[str, float]:
    """Scores of items by the definition of a reference, popularity below 1 for what is equal."""
    counts = Counter(item for session in train for item in session)
    total = sum(counts.values())
    scores = {item: count / (total + 1) for item, count in counts.items()}
    if name == "last_item" and history[-1] in scores:
        scores[history[-1]] += 1
    if name == "markov":
        for session in train:
            for first, second in pairwise(session):
                scores[second] += first == history[-1]
    if name == "session_knn":
        scores = {item: 1e-3 * score for item, score in scores.items()}
        weight = {item: (i + 1) / len(history) for i, item in enumerate(history)}
        for session in train:
            alike = sum(weight.get(i, 0.0) for i in set(session)) / len(set(session)) ** 0.5
            for item in set(session):
                scores[item] += alike
    return scores


@pytest.mark.parametrize("name", ["popularity", "last_item", "markov", "session_knn"])
def test_references_score_as_by_hand(name: str, data: EventData) -> None:
    task = make(data)
    trivial = name == "popularity"
    found = task.trivial_scores(data) if trivial else task.references(data)[name]
    made = sessions()
    seen = {item for session in made["train"] for item in session}
    ranks = []
    for session in made["test"]:
        for step in range(1, len(session)):
            if session[step] not in seen:
                continue
            history = [i for i in session[:step] if i in seen] or ["none"]
            if session[step - 1] not in seen:
                history.append("none")
            scores = by_hand(name, made["train"], history)
            own = scores[session[step]]
            ranks.append(sum(s >= own - 1e-6 for s in scores.values()))
    assert found["test/targets"] == len(ranks)
    assert found["test/recall@3"] == pytest.approx(sum(r <= K for r in ranks) / len(ranks))
    expected = sum(1 / r for r in ranks if r <= K) / len(ranks)
    assert found["test/mrr@3"] == pytest.approx(expected)


def test_references_can_be_left_out(data: EventData) -> None:
    assert make(data, references=False).references(data) == {}
    assert list(make(data).references(data)) == ["last_item", "markov", "session_knn"]


def test_neighbours_are_the_same_however_few_queries_are_looked_at_together(
    data: EventData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(data).references(data)["session_knn"]
    rows: list[int] = []
    neighbours = NextItemReferences._neighbours

    def counted(self: NextItemReferences, histories: torch.Tensor) -> torch.Tensor:
        rows.append(len(histories))
        return neighbours(self, histories)

    monkeypatch.setattr(NextItemReferences, "_neighbours", counted)
    monkeypatch.setattr(next_item_references, "_CANDIDATES", 1)
    assert make(data).references(data)["session_knn"] == whole
    assert set(rows) == {1}


def test_of_a_log_without_training_sessions_nothing_is_said_that_they_would_tell(
    data: EventData, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, source = make(data), data.source
    empty = data.source("train")
    empty.lengths = empty.lengths[:0]
    monkeypatch.setattr(data, "source", lambda split: empty if split == "train" else source(split))
    assert task.trivial_scores(data) == {}
    assert task.references(data) == {}


def test_predictions_have_the_names_of_the_items(data: EventData, tmp_path: Path) -> None:
    task = make(data)
    table = predict_split(task, data, "test")
    assert table.column_names == ["id", "target", "prediction", "recommended", "score"]
    assert table["target"][0].as_py() == [None, "i1"]
    assert table["target"][1].as_py() == sessions()["test"][1][1:]
    new, source = data.read(tmp_path / "new.csv")
    assert new["visit"].to_pylist() == ["a", "b"]
    predicted = with_names(predict_source(task, source, 2), data.class_names()).to_pylist()
    # Of new sessions the last event counts, too.
    assert [len(row["prediction"]) for row in predicted] == [2, 1]
    known = ids(data)
    batch = source.gather(torch.tensor([0]))
    with torch.no_grad():
        scores = task.eval().head.all_scores()(task(batch)[0])
    best = scores[-1].topk(K)
    assert [known[name] for name in predicted[0]["recommended"]] == best.indices.tolist()
    assert predicted[0]["score"] == pytest.approx(best.values.tolist())
    assert [known[n] for n in predicted[0]["prediction"]] == scores.argmax(1).tolist()


def test_what_does_not_fit_is_refused(data: EventData) -> None:
    schema = data.schema
    assert schema.num_classes is not None
    embedding = EventEmbedding(schema, 6)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    plain = ClassificationHead(6, schema.num_classes)
    with pytest.raises(UserError, match=r"ClassificationHead does not; use head=item_sampled"):
        NextItem(SequenceModel(embedding, GRU(6, 6), EveryStep(6), plain), optimizer)
    head = SoftmaxHead(6, schema.num_classes, embedding.table("item"))
    last = NextItem(SequenceModel(embedding, GRU(6, 6), Last(6), head), optimizer)
    with pytest.raises(UserError, match=r"use readout=every_step$"):
        last.check_schema(schema)
    both = GRU(6, 3, bidirectional=True)
    future = NextItem(SequenceModel(embedding, both, EveryStep(6), head), optimizer)
    with pytest.raises(UserError, match=r"this encoder reads the future"):
        future.check_schema(schema)
    with pytest.raises(UserError, match=r"set data\.target=next_item and data\.source\.item"):
        make(data).check_schema(type(schema)(schema.features, 2))


def test_references_of_many_targets_are_of_a_sample_that_is_told(data: EventData) -> None:
    whole, task = make(data), make(data)
    size = task.head.num_classes
    task.reference_scores = 20 * size
    told: list[tuple[str, int, int]] = []
    task.tell = lambda *progress: told.append(progress)
    assert "references" not in whole.protocol()
    total = len(data.source("test").targets())
    everything, some = whole.references(data), task.references(data)
    assert "references" not in whole.protocol()
    assert task.protocol()["references"] == (
        f"a sample of 20 of the {total} targets of test (task.reference_scores={20 * size})"
    )
    for name, found in some.items():
        assert found["test/targets"] + found["test/unseen_targets"] == 20
        assert found != everything[name]
        assert (f"reference {name.replace('_', ' ')}, test targets", 20, 20) in told
    assert make_again(data, 20 * size).references(data) == some
    # One list for all targets costs nothing.
    assert task.trivial_scores(data) == whole.trivial_scores(data)
    task.reference_scores = total * size
    task._known = None
    assert task.references(data) == everything


def make_again(data: EventData, scores: int) -> NextItem:
    task = make(data)
    task.reference_scores = scores
    return task


def test_neighbours_score_the_same_without_a_product_of_sparse_matrices(
    data: EventData, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for sparse in (torch.backends.mkl.is_available(), False):  # type: ignore[no-untyped-call]
        monkeypatch.setattr(next_item_references, "_SPARSE_PRODUCT", sparse)
        task = make(data)
        references = task._references(data)
        source = data.source("test")
        total = len(source.targets())
        histories = torch.cat([h for h, _ in references._queries(source, total, total)])
        found.append(references._session_knn(histories))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("ties", ["conservative", "optimistic", "mean"])
def test_popular_items_are_ranked_as_their_scores_are(data: EventData, ties: Any) -> None:
    references = NextItemReferences(data, {}, K, ties)
    targets = torch.arange(2, references.num_items)
    scores = references._counts.repeat(len(targets), 1)
    found = references._popular(targets)
    assert torch.equal(found.ranks, rank(scores, targets, ties))
    assert torch.equal(found.top, top_items(scores, K))

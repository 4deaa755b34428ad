"""The next item of sessions whose law is known: what can be known is learned, and no more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from test_learn import train

pytestmark = pytest.mark.learn
ITEMS = 50


def sessions(count: int) -> list[str]:
    """Rows of a log: in a circle of items each is followed by the next (.7) or the one after it."""
    draw = random.Random(0)
    rows = ["session,step,item,part"]
    for session in range(count):
        part = "test" if session >= 0.8 * count else "val" if session >= 0.75 * count else "train"
        item = draw.randrange(ITEMS)
        for step in range(draw.randint(3, 8)):
            rows.append(f"{session},{step},page {item},{part}")
            item = (item + draw.choices([1, 2], [0.7, 0.3])[0]) % ITEMS
    return rows


@pytest.mark.parametrize("head", ["item_softmax", "item_sampled_softmax", "item_bpr_max"])
def test_both_followers_in_a_circle_of_items_are_found(head: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("\n".join(sessions(6_000)) + "\n")
    source = ["path=log.csv", "sequence=session", "order=step", "item=item", "split=part"]
    options = {"item_sampled_softmax": ["head.num_negatives=20"], "item_bpr_max": ["head.scale=8"]}
    scores = train(
        "task=next_item", f"head={head}", *options.get(head, []), "task.k=2",
        *(f"data.source.{value}" for value in source), "data.store_dir=stores",
        "data.batching=random", "data.batch_size=100", "trainer.max_steps=300",
        "trainer=cpu", cwd=tmp_path,
    )  # fmt: skip
    assert scores["test/recall@2"]["value"] > 0.99
    # .75 where the two are told apart from the rest only, .85 where the likelier one comes first.
    assert scores["test/mrr@2"]["value"] > 0.8
    assert scores["test/recall@2"]["trivial"] < 0.1
    assert scores["test/coverage@2"]["value"] == 1.0

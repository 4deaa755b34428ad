"""The best that any model can score on the test sessions of a generated shop.

The test split is taken as it lies in the store, ids and all; nothing is drawn anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from unrolled.data.schema import UNKNOWN_ID
from unrolled.data.store import JaggedSequences
from unrolled.synthetic.shop_filter import SeenSessions, beliefs, so_far, whole_session
from unrolled.synthetic.shop_law import CART, EVENT_TYPES, VIEW, Array, Integers, ShopLaw
from unrolled.synthetic.shop_next import Catalogue, Ranked, scores

EVENTS_SEEN = (1, 2, 3, 5, 10, 20)
CUTOFFS = (1, 5, 10, 20, 50, 100)


def best_possible(
    law: ShopLaw, sequences: JaggedSequences, vocabularies: Mapping[str, pa.Array]
) -> dict[str, float]:
    """The scores of the exact probabilities on `sequences`.

    Args:
        law: Of the shop.
        sequences: As read from a store; `target` is what is asked of them.
        vocabularies: The values of each categorical column in the order of their ids, from the
            first after the unknown one.

    Returns:
        For labels `auroc`, `average_precision`, `log_loss` and `brier` of whole sessions, and each
        with `@5` where sessions are cut to their first 5 events. For the next item `recall@20`,
        `mrr@20`, `ndcg@20` (also at other cutoffs) over all items seen in training, and `log_loss`
        in nats an event; items never seen in training are left out as targets. For the next event
        nothing.
    """
    if sequences.target == "label":
        return _of_labels(law, sequences, seen_sessions(law, sequences, vocabularies))
    if sequences.target == "next_item":
        items = _values(vocabularies["item"])
        return _of_next_items(law, sequences, seen_sessions(law, sequences, vocabularies), items)
    return {}


def seen_sessions(
    law: ShopLaw, sequences: JaggedSequences, vocabularies: Mapping[str, pa.Array]
) -> SeenSessions:
    """What a store shows of generated sessions."""
    columns = {name: values.numpy() for name, values in sequences.columns.items()}
    assert sequences.times is not None
    # A type never seen in training can only be the rarer one.
    kinds = np.full(len(vocabularies["event_type"]) + UNKNOWN_ID + 1, CART)
    kinds[_codes(vocabularies["event_type"], [EVENT_TYPES[VIEW]])] = VIEW
    return SeenSessions(
        sequences.offsets.numpy(),
        kinds[columns["event_type"]],
        columns["category"],
        columns["hour"],
        sequences.times.numpy(),
        category_code=_codes(vocabularies["category"], _numbers(law.categories)),
        hour_code=_codes(vocabularies["hour"], _numbers(24)),
    )


def _of_labels(law: ShopLaw, sequences: JaggedSequences, seen: SeenSessions) -> dict[str, float]:
    lengths = np.diff(seen.offsets)
    whole = np.zeros(len(lengths))
    early = {k: np.zeros(len(lengths)) for k in EVENTS_SEEN}
    for belief in beliefs(law, seen):
        last = lengths[belief.sessions] == belief.step + 1
        ended = belief.sessions[last]
        whole[ended] = whole_session(law, belief)[last]
        if belief.step + 1 in early:
            # Cut here, whether or not more would have come.
            early[belief.step + 1][belief.sessions] = so_far(law, belief)
    assert sequences.labels is not None
    labels = sequences.labels.numpy()
    result = _scores(whole, labels)
    for k, probability in early.items():
        cut = _scores(np.where(lengths < k, whole, probability), labels)
        result |= {f"{name}@{k}": value for name, value in cut.items()}
    return result


def _scores(probability: Array, labels: Integers) -> dict[str, float]:
    p, y = torch.from_numpy(probability), torch.from_numpy(labels)
    ranking = {}
    if 0 < int(y.sum()) < len(y):
        ranking = {
            "auroc": float(binary_auroc(p, y)),
            "average_precision": float(binary_average_precision(p, y)),
        }
    return {
        **ranking,
        "log_loss": -float(torch.where(y == 1, p.log(), (-p).log1p()).mean()),
        "brier": float((p - y).square().mean()),
    }


def _of_next_items(
    law: ShopLaw, sequences: JaggedSequences, seen: SeenSessions, items: Integers
) -> dict[str, float]:
    number = np.full(len(items) + UNKNOWN_ID + 1, -1)
    # The model may have been trained on a larger shop, whose items these sequences never have.
    number[UNKNOWN_ID + 1 :] = np.where(items < law.items, items, -1)
    item = number[sequences.columns["item"].numpy()]
    in_training = np.zeros(law.items, np.int64)
    in_training[items[items < law.items]] = 1
    catalogue = Catalogue(law, in_training)
    lengths = np.diff(seen.offsets)
    ranked: list[Ranked] = []
    for belief in beliefs(law, seen):
        asked = lengths[belief.sessions] > belief.step + 1
        following = item[belief.events[asked] + 1]
        asked[asked] = following >= 0
        if asked.any():
            events = belief.events[asked]
            ranked.append(catalogue.rank(belief.of(asked), item[events], item[events + 1]))
    return scores(ranked, CUTOFFS) if ranked else {}


def _values(vocabulary: pa.Array) -> Integers:
    return np.asarray(vocabulary.to_numpy(zero_copy_only=False), dtype=np.int64)


def _codes(vocabulary: pa.Array, values: Sequence[str]) -> Integers:
    """The id of each value; the unknown one for what is not in the vocabulary."""
    place = pc.index_in(pa.array(values), value_set=vocabulary).fill_null(-1).to_numpy()
    return np.where(place < 0, UNKNOWN_ID, place + UNKNOWN_ID + 1)


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]

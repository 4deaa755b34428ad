"""Gradient-boosted trees on features of a session: what a model of sequences has to beat."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from unrolled.data.batching import BatchLoader
from unrolled.data.module import SequenceData, Split
from unrolled.data.session_features import session_features
from unrolled.tasks.events_seen import first_events

BATCH_SIZE = 4_096
"""Sequences whose features are computed at a time."""
CELLS = 1_024 * BATCH_SIZE
"""Their events with the padding, at most."""


def installed() -> bool:
    """Whether scikit-learn is there: the extra `references`."""
    return find_spec("sklearn") is not None


def table(data: SequenceData, split: Split, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Features `[sequence, column]` and labels `[sequence]` of a split.

    Args:
        data: With one label a sequence.
        split: Of the data.
        count: How many events are seen of each sequence; None for all.
    """
    features, labels = [], []
    for batch in BatchLoader(data.source(split), BATCH_SIZE, CELLS):
        seen = batch if count is None else first_events(batch, count)
        features.append(session_features(seen, data.schema))
        labels.append(batch.targets)
    return torch.cat(features).cpu().numpy(), torch.cat(labels).cpu().numpy()


def boosted_trees(data: SequenceData, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Train on the training sequences; the probability of class 1 for those of the test.

    scikit-learn's histogram-based trees (after LightGBM, Ke et al. 2017), up to 500 of them, as
    many as the loss on a tenth of the training sequences goes down.

    Args:
        data: With one label a sequence; its seed draws the tenth.
        count: How many events are seen of each sequence, in training and test; None for all.

    Returns:
        Probabilities and labels, `[sequence]`.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=500, learning_rate=0.05, early_stopping=True, random_state=data.seed
    )
    features, labels = table(data, "train", count)
    # scikit-learn stops at a column without a single value, and one value says nothing.
    missing = np.isnan(features)
    lowest = np.where(missing, np.inf, features).min(0)
    kept = lowest < np.where(missing, -np.inf, features).max(0)
    model.fit(features[:, kept], labels)
    features, labels = table(data, "test", count)
    probabilities = model.predict_proba(features[:, kept])[:, 1]
    return torch.from_numpy(probabilities), torch.from_numpy(labels)

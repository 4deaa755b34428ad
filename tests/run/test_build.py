"""What is refused, and what is asked of the data, when a task is built from a config."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unrolled.errors import UserError
from unrolled.models.sampled import NoiseContrastiveHead
from unrolled.run.compose import compose
from unrolled.run.experiment import Experiment
from unrolled.run.overrides import read_command_line


def experiment(*typed: str) -> Experiment:
    return Experiment(**compose(read_command_line(list(typed))).config)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ["task=copy", "model=recurrent_attention"],
            r"^model: RecurrentAttention learns from one reward a sequence",
        ),
        (
            ["task=cosine", "task.free_run_mode=carry", "readout=mean"],
            r"^task\.free_run_mode=carry reads one step at a time",
        ),
        (
            ["task=next_word", "model.bidirectional=true"],
            r"^task=next_word: this encoder reads the",
        ),
        (["task=adding", "head=classification"], r"^head: ClassificationHead predicts classes"),
        (["task=parity", "head=real"], r"^head: RealHead predicts real numbers"),
    ],
)
def test_parts_that_do_not_fit_are_refused(typed: list[str], message: str) -> None:
    built = experiment(*typed)
    with pytest.raises(UserError, match=message):
        built.build_task(built.build_data())


def test_a_head_gets_the_counts_of_the_training_targets_and_only_to_train() -> None:
    built = experiment("task=next_word", "head=nce", "data.source.train_symbols=640")
    data = built.build_data()
    head = built.build_task(data).model.head
    assert isinstance(head, NoiseContrastiveHead)
    counts = torch.bincount(data.train_targets().flatten(), minlength=18).clamp(min=1)
    assert torch.equal(head.cumulative_counts.diff(), counts)

    def gone() -> Any:
        raise AssertionError("the training data are not at hand")

    data.class_counts = gone  # type: ignore[method-assign]
    head = built.build_task(data, for_training=False).model.head
    assert isinstance(head, NoiseContrastiveHead)
    assert torch.equal(head.cumulative_counts.diff(), torch.ones(18, dtype=torch.int64))


def test_without_a_validation_set_memorise_has_none() -> None:
    data = experiment("task=memorize", "data.val_size=0").build_data()
    assert [len(data.source(split)) for split in ("train", "val", "test")] == [100, 0, 100]


def test_trivial_mistakes_go_with_the_trivial_error_that_is_known() -> None:
    built = experiment("task=copy", "data.test_size=100", "data.train_size=100")
    data = built.build_data()
    scores = built.build_task(data).trivial_scores(data)
    assert scores["test/answers"] == 100 * 220
    assert scores["test/mistakes"] == 875
    assert scores["test/error"] == pytest.approx(875 / 22_000)


def test_a_callback_or_logger_of_null_is_left_out() -> None:
    built = experiment("task=bitcount", "callbacks.progress=null", "logger.wandb=null")
    assert sorted(built.callbacks) == ["checkpoints", "finite"]
    assert built.logger == {}

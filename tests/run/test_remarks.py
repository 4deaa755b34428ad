"""A run that overfits says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from unrolled.run.remarks import overfitting


def log(path: Path, losses: list[float], auroc: list[float]) -> Path:
    pairs = zip(losses, auroc, strict=False)
    rows = [f"{10 * k + 10},,{loss},{a}" for k, (loss, a) in enumerate(pairs)]
    # Steps of training stand between the validations.
    lines = ["step,train/loss,val/loss,val/auroc", "5,0.7,,", *rows, ""]
    path.write_text("\n".join(lines))
    return path


def test_a_loss_that_rose_is_told_with_its_best_step_and_what_was_kept(tmp_path: Path) -> None:
    path = log(tmp_path / "m.csv", [0.69, 0.476, 0.6, 0.961], [0.5, 0.7, 0.8, 0.75])
    assert overfitting(path, "val/auroc", "max") == (
        "The model overfits: the validation loss was lowest at step 20 (0.476) and is 0.961 at "
        "the end (step 40). The checkpoint of step 30 is kept, the best by val/auroc. Fewer steps "
        "(trainer.max_steps=20), dropout, weight decay or early stopping may help."
    )
    assert "of step 20 is kept, the best by val/loss." in str(overfitting(path, "val/loss", "min"))


@pytest.mark.parametrize(
    "losses",
    [
        [0.7, 0.5, 0.4],  # It falls.
        [0.7, 0.5, 0.51],  # It hardly rises.
        [0.7, 0.4, 0.6, 0.41, 0.6],  # Not each of the last ones is worse.
        [2.0, 1e-6, 3e-6],  # Without a mistake before and after.
        [3.0, 0.01, 0.03],  # The log-likelihood of a density passes 0.
        [3.0, -1.0, -0.95],
        [0.5],
        [],
    ],
)
def test_a_loss_that_did_not_clearly_rise_is_not_told(tmp_path: Path, losses: list[float]) -> None:
    path = log(tmp_path / "m.csv", losses, [0.5] * len(losses))
    assert overfitting(path, "val/auroc", "max") is None


def test_without_validations_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert overfitting(tmp_path / "none.csv", "val/loss", "min") is None

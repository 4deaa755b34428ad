"""A checkpoint with wrong values is refused in a line that names the file and the value."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import Run

from unrolled.errors import UserError
from unrolled.run.check_checkpoint import (
    no_larger_than,
    require_finite_weights,
    require_restorable,
)
from unrolled.run.checkpoint import class_path
from unrolled.run.checkpoint_files import CheckpointFiles, read_checkpoint
from unrolled.run.experiment import build
from unrolled.run.loading import load_run


def content() -> dict[str, Any]:
    """A checkpoint as Lightning writes it, with a schedule whose best score begins as infinite."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    counts = {"ready": 4, "completed": 4}
    return {
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer).state_dict()],
        "epoch": 0,
        "global_step": 4,
        "callbacks": {"Checkpoints": {"best_score": torch.tensor(math.nan)}},
        "loops": {
            "fit_loop": {
                "epoch_loop.state_dict": {"_batches_that_stepped": 4},
                "epoch_loop.batch_progress": {"total": counts, "is_last_batch": False},
            }
        },
    }


def refused(change: Callable[[dict[str, Any]], None], judge: Any = require_restorable) -> str:
    changed = copy.deepcopy(content())
    change(changed)
    with pytest.raises(UserError) as error:
        judge(changed, Path("run/last.ckpt"))
    return str(error.value)


def test_a_checkpoint_as_it_is_written_is_taken() -> None:
    require_restorable(content(), Path("last.ckpt"))
    require_finite_weights(content(), Path("last.ckpt"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["state_dict"]["weight"].__setitem__((0, 1), math.inf),
         "state_dict.weight has 1 of 6 numbers not finite"),
        (lambda c: c.update(averaging_state={"module.weight": torch.full((2,), math.nan)}),
         "averaging_state.module.weight has 2 of 2 numbers not finite"),
        (lambda c: c["optimizer_states"][0]["state"][1]["step"].fill_(math.nan),
         "optimizer_states.0.state.1.step has 1 of 1 numbers not finite"),
        (lambda c: c["optimizer_states"][0]["state"][0]["exp_avg_sq"].neg_(),
         "optimizer_states.0.state.0.exp_avg_sq has 6 of 6 numbers below 0"),
        (lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr=math.nan),
         "optimizer_states.0.param_groups.0.lr is nan"),
        (lambda c: c["lr_schedulers"][0].update(factor=math.nan), "lr_schedulers.0.factor is nan"),
        (lambda c: c["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"].update(
            completed=math.nan),
         "loops.fit_loop.epoch_loop.batch_progress.total.completed is nan, not a count"),
        (lambda c: c["loops"]["fit_loop"]["epoch_loop.state_dict"].update(
            _batches_that_stepped=-1),
         "loops.fit_loop.epoch_loop.state_dict._batches_that_stepped is -1, not a count"),
        (lambda c: c.update(global_step="4"), "global_step is str, not a count"),
        (lambda c: c.pop("epoch"), "epoch is NoneType, not a count"),
    ],
)  # fmt: skip
def test_a_run_does_not_go_on_from_wrong_values(
    change: Callable[[dict[str, Any]], None], said: str
) -> None:
    assert refused(change) == (
        f"run/last.ckpt: the run can't go on from this checkpoint: {said}; bring another one back "
        "from a backup, or train again"
    )


def test_what_lightning_resumes_from_is_looked_at(tmp_path: Path) -> None:
    wrong = content()
    wrong["global_step"] = -4
    torch.save(wrong, tmp_path / "last.ckpt")
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == -4
    with pytest.raises(UserError, match=r"last\.ckpt: the run can't .* global_step is -4, not"):
        CheckpointFiles().load_checkpoint(tmp_path / "last.ckpt")


def test_weights_that_are_not_finite_are_refused_with_their_tensor() -> None:
    told = refused(lambda c: c["state_dict"]["bias"].fill_(math.nan), require_finite_weights)
    assert told == (
        "run/last.ckpt: state_dict.bias has 2 of 2 numbers not finite; use another checkpoint, or "
        "train again"
    )


def test_a_run_is_judged_only_with_weights_that_are_finite(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", "task=bitcount", "model.hidden_size=2")
    best = tmp_path / "best.ckpt"
    weights, name = run.task.state_dict(), "model.encoder.layer.weight_hh_l0"
    saved = {"state_dict": weights, "unrolled": {"task": class_path(run.task)}}
    torch.save(saved, best)
    load_run(run.directory.config(), run.directory, best)
    weights[name][0, 0] = math.nan
    torch.save(saved, best)
    with pytest.raises(UserError) as error:
        load_run(run.directory.config(), run.directory, best)
    count = weights[name].numel()
    said = f"{best}: state_dict.{name} has 1 of {count} numbers not finite; use another checkpoint"
    assert str(error.value).startswith(said)
    # A file that is none sets no limit to the model.
    best.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"best\.ckpt: not a checkpoint that can be read: "):
        load_run(run.directory.config(), run.directory, best)


@pytest.mark.parametrize("layers", [3, 10**12])
def test_a_model_is_built_no_larger_than_its_checkpoint(layers: int, tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    node = {"_target_": "unrolled.models.recurrent.GRU", "hidden_size": 8}
    torch.save(build(node, "model", input_size=4).state_dict(), file)
    with no_larger_than(file):
        assert build({**node, "num_layers": 3}, "model", input_size=4)
    with no_larger_than(None):
        assert build({**node, "num_layers": 3}, "model", input_size=4)
    asked = {"num_layers": layers} if layers > 3 else {"hidden_size": 2**15}
    with no_larger_than(file), pytest.raises(UserError) as error:
        build({**node, **asked}, "model", input_size=4)
    said = str(error.value)
    assert said.startswith("model: unrolled.models.recurrent.GRU: with weight_")
    assert said.endswith(
        f"bytes of weights, and its checkpoint {file} {file.stat().st_size:,} bytes in all; the "
        "config is not that of the checkpoint"
    )
    # The limit is gone with the checkpoint.
    assert build({**node, "num_layers": 30}, "model", input_size=4)

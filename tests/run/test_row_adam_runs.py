"""A run whose tables are updated by row goes on exactly where it was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_next_item_runs import write_log
from training import Run

TYPED = [
    "task=next_item", "task.k=3", "data.source.sequence=visit", "data.source.order=step",
    "data.source.item=item", "data.source.split=part", "data.batch_size=10", "head.num_negatives=4",
    "scheduler=constant", "trainer.max_steps=-1", "trainer.log_every_n_steps=1", "test=false",
    "trainer.gradient_clip_val=0.1", "trainer.accumulate_grad_batches=2", "callbacks=[default,ema]",
    "callbacks.ema.decay=0.9",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_a_run_by_row_that_was_stopped_is_bit_for_bit_one_that_was_not(tmp_path: Path) -> None:
    write_log(tmp_path)
    here = [f"data.source.path={tmp_path}/log.csv", f"data.store_dir={tmp_path}/stores"]
    found = []
    for name, parts in (("whole", [4]), ("parts", [1, 2, 4])):
        for epochs in parts:
            run = Run(tmp_path / name, *TYPED, *here, f"trainer.max_epochs={epochs}")
            run.fit()
        found.append(torch.load(run.last, weights_only=True))
    whole, of_parts = found
    states = [last["optimizer_states"][0]["state"] for last in found]
    # The rows' state is the last one: their steps, when each was used, one second moment each.
    rows = [state[max(state)] for state in states]
    assert set(rows[0]) == {"step", "last_used", "square"}
    assert rows[0]["square"].shape == whole["state_dict"]["model.head.items.weight"].shape[:1]
    assert 3 < int(rows[0]["step"]) == whole["global_step"]
    for key in ("last_used", "square"):
        assert torch.equal(rows[0][key], rows[1][key]), key
    for key in ("state_dict", "current_model_state"):
        for name, value in whole[key].items():
            assert torch.equal(value, of_parts[key][name]), (key, name)

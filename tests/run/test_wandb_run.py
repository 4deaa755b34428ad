from __future__ import annotations

from pathlib import Path

import pytest

from unrolled.run.wandb_run import WandbRun


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No agent has started this process."""
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_run_directory_is_one_run_of_wandb_wherever_it_goes_on(
    tmp_path: Path, alone: pytest.MonkeyPatch
) -> None:
    run = WandbRun.of(tmp_path)
    assert len(run.id) == 8
    assert WandbRun.of(tmp_path) == run
    run.project, run.entity = "p", "e"
    run.write(tmp_path)
    alone.setenv("WANDB_RUN_ID", "another")
    assert WandbRun.of(tmp_path) == WandbRun(run.id, "p", "e")
    (tmp_path / "new").mkdir()
    assert WandbRun.of(tmp_path / "new").id == "another"


def test_a_run_that_began_with_wandb_turned_off_has_no_made_up_project(
    tmp_path: Path, alone: pytest.MonkeyPatch
) -> None:
    run = WandbRun.of(tmp_path)
    run.project = run.entity = "dummy"
    run.write(tmp_path)
    assert WandbRun.of(tmp_path) == WandbRun(run.id)
    run.project = "mine"
    run.write(tmp_path)
    assert WandbRun.of(tmp_path).project == "mine"


def test_an_agents_trial_has_the_agents_id_and_the_sweeps_parameters_also_later(
    tmp_path: Path, alone: pytest.MonkeyPatch
) -> None:
    WandbRun.of(tmp_path)
    parameters = tmp_path / "config-trial.yaml"
    parameters.write_text("wandb_version: 1\nmodel:\n  value: gru\noptimizer.lr:\n  value: 0.1\n")
    with alone.context() as agent:
        agent.setenv("WANDB_RUN_ID", "trial")
        agent.setenv("WANDB_SWEEP_ID", "sweep")
        agent.setenv("WANDB_SWEEP_PARAM_PATH", str(parameters))
        began = WandbRun.of(tmp_path)
    assert began == WandbRun("trial", parameters={"model": "gru", "optimizer.lr": 0.1})
    later = WandbRun.of(tmp_path)
    assert later == began
    config = {
        "model": {"_target_": "unrolled.models.recurrent.GRU", "hidden_size": 24},
        "optimizer": {"lr": 0.1},
        "seed": 1,
    }
    assert later.config(config) == {
        "model": "gru",
        "model._target_": "unrolled.models.recurrent.GRU",
        "model.hidden_size": 24,
        "optimizer": {"lr": 0.1},
        "seed": 1,
    }

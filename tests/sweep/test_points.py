"""Points: what a sampler is told, and what chance deals out."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from unrolled.errors import UserError
from unrolled.sweep.command import run_sweep
from unrolled.sweep.points import STARTUP, ask, random_raw, require_sampler
from unrolled.sweep.space import Sweep, Values


def test_a_sampler_that_learns_is_not_told_which_seed_is_lucky() -> None:
    space = Sweep(
        Path("x.yaml"),
        {
            "program": "train.py",
            "method": "bayes",
            "metric": {"name": "val/loss"},
            "parameters": {
                "model": {"values": ["lstm", "gru"]},
                "seed": {"values": [1, 2, 3, 4]},
                "data.source.fold": {"min": 0, "max": 9},
            },
        },
    )
    study = optuna.create_study()
    tried: list[Values] = []
    for number in range(STARTUP + 10):
        asked = ask(space, study, tried, seed=0, sampler="tpe")
        assert asked is not None
        trial, values = asked
        assert set(trial.params) == {"model"}
        drawn = random_raw(space, 0, number)
        assert (str(values["seed"]), values["data.source.fold"]) == (
            drawn["seed"],
            drawn["data.source.fold"],
        )
        study.tell(trial, 0.0 if values["seed"] == 3 else 1.0)
        tried.append(values)
    assert {values["seed"] for values in tried} == {1, 2, 3, 4}


def test_a_sampler_is_asked_for_what_it_needs_before_the_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--sampler ttpe: did you mean 'tpe'"):
        require_sampler("ttpe")
    require_sampler("tpe")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--sampler gp: needs scipy"):
        run_sweep(Path("sweeps/bitcount.yaml"), 1, None, None, [], sampler="gp")
    assert not list(tmp_path.iterdir())

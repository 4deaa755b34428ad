"""A run of an earlier version, in which a class had another name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from unrolled import __version__
from unrolled.errors import UserError
from unrolled.run.compose import compose
from unrolled.run.directory import RunDirectory
from unrolled.run.evaluate import evaluate
from unrolled.run.overrides import read_command_line
from unrolled.run.predict import predict_one
from unrolled.run.resume import resume


def old_run(folder: Path, **targets: str) -> RunDirectory:
    config = compose(read_command_line(["task=bitcount"])).config
    for part, target in targets.items():
        config[part]["_target_"] = target
    run = RunDirectory.create(config, folder / "run", "train.py")
    run.write_json("environment.json", {"packages": {"unrolled": "0.0.9"}, "commit": "0123456789"})
    return run


def test_a_class_with_another_name_is_told_with_the_version_that_has_it(tmp_path: Path) -> None:
    run = old_run(tmp_path, model="unrolled.models.cells.LSTM", readout="unrolled.models.Gone")
    before = yaml.safe_load((run.path / "config.yaml").read_text())
    commands = [
        lambda: evaluate(run.path, []),
        lambda: evaluate(run.path, ["data.length=9"]),
        lambda: predict_one(run.path, "0101"),
        lambda: resume(run.path, None, read_command_line([f"resume={run.path}"])),
    ]
    for command in commands:
        with pytest.raises(UserError) as error:
            command()
        assert error.value.problems == (
            f"{run.path}: the run was made by unrolled 0.0.9 (commit 012345678), this is unrolled "
            f"{__version__}, in which classes have other names or are gone; use that version for "
            "this run:",
            "model._target_: there is no unrolled.models.cells.LSTM in this version; today's "
            "unrolled.models.recurrent.LSTM may be the same class",
            "readout._target_: there is no unrolled.models.Gone in this version",
        )
    assert run.config() == before


def test_what_is_not_built_any_more_may_be_gone(tmp_path: Path) -> None:
    run = old_run(tmp_path)
    config = run.config()
    config["callbacks"]["old"] = {"_target_": "unrolled.run.gone.Callback"}
    run.write("config.yaml", yaml.safe_dump(config))
    (run.path / "environment.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="the run has no checkpoint yet"):
        predict_one(run.path, "0101")
    with pytest.raises(UserError, match=r"(?s)made by another version of unrolled.*callbacks\.old"):
        resume(run.path, None, read_command_line([f"resume={run.path}"]))

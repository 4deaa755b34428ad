"""What a user types becomes what Hydra takes, and wrong choices are named at once."""

from __future__ import annotations

import pytest

from unrolled.errors import UserError
from unrolled.run.overrides import read_command_line


def test_choices_stay_and_values_are_added_or_set() -> None:
    line = read_command_line(["task=bitcount", "model=gru", "model.hidden_size=8", "seed=3"])
    assert line.overrides == ["task=bitcount", "model=gru", "++model.hidden_size=8", "++seed=3"]
    assert line.values == {
        "task": "bitcount", "model": "gru", "model.hidden_size": "8", "seed": "3"
    }  # fmt: skip
    assert not line.multirun


def test_additions_deletions_and_hydras_own_keys_are_left_alone() -> None:
    typed = [
        "task=bitcount",
        "+data.length=3",
        "~scheduler",
        "hydra.sweep.dir=x",
        "hydra/launcher=basic",
    ]
    assert read_command_line(typed).overrides == typed


def test_none_as_an_agent_of_wandb_writes_it_is_null() -> None:
    line = read_command_line(["task=bitcount", "trainer.max_time=None", "run_dir=xNone"])
    assert line.overrides == ["task=bitcount", "++trainer.max_time=null", "++run_dir=xNone"]
    assert line.values["trainer.max_time"] == "null"


def test_every_unknown_choice_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError) as error:
        read_command_line(["task=bitcont", "model=lstn", "readout=last"])
    assert error.value.problems == (
        "task=bitcont: no such task; did you mean 'bitcount'?",
        "model=lstn: no such model; did you mean 'lstm'?",
    )


def test_unknown_choices_inside_a_sweep_and_a_list_are_found() -> None:
    with pytest.raises(UserError, match="model=gur: no such model; did you mean 'gru'"):
        read_command_line(["-m", "task=bitcount", "model=lstm,gur"])
    with pytest.raises(UserError, match="logger=wandbb: no such logger; did you mean 'wandb'"):
        read_command_line(["task=bitcount", "logger=[tensorboard,wandbb]"])


def test_a_glob_chooses_among_the_files_of_a_group() -> None:
    typed = ["-m", "task=bitcount", "model=glob(*gru*)"]
    assert read_command_line(typed).overrides == typed[1:]
    with pytest.raises(UserError, match=r"model=glob\(gro\*\): no such model; choose from: elman,"):
        read_command_line(["-m", "task=bitcount", "model=glob(gro*)"])


def test_several_values_need_multirun() -> None:
    with pytest.raises(UserError, match="seed=1,2: several values; add -m"):
        read_command_line(["task=bitcount", "seed=1,2"])
    assert read_command_line(["-m", "task=bitcount", "seed=1,2"]).multirun


def test_a_command_without_a_task_lists_the_tasks() -> None:
    with pytest.raises(UserError, match=r"name a task: task=adding \| task=bitcount \|"):
        read_command_line(["model=gru"])


def test_what_is_no_assignment_and_no_flag_is_refused() -> None:
    with pytest.raises(UserError, match="'bitcount' is not of the form key=value"):
        read_command_line(["bitcount"])
    with pytest.raises(UserError, match="unknown flag --multrun; did you mean '--multirun'"):
        read_command_line(["task=bitcount", "--multrun"])
    with pytest.raises(UserError, match="--config-dir nowhere: no such folder"):
        read_command_line(["task=bitcount", "--config-dir", "nowhere"])

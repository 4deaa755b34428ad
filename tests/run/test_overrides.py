"""What a user types becomes what Hydra takes, and wrong choices are named at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from unrolled.errors import UserError
from unrolled.run.conf import ONE_CHOICE, choices, search_path
from unrolled.run.overrides import read_command_line


def test_choices_stay_and_values_are_added_or_set() -> None:
    line = read_command_line(["task=bitcount", "model=gru", "model.hidden_size=8", "seed=3"])
    assert line.overrides == ["task=bitcount", "model=gru", "++model.hidden_size=8", "++seed=3"]
    assert line.values == {
        "task": "bitcount", "model": "gru", "model.hidden_size": "8", "seed": "3"
    }  # fmt: skip
    assert not line.multirun


def test_deletions_and_hydras_own_keys_are_left_alone() -> None:
    typed = [
        "task=bitcount",
        "~scheduler",
        "+hydra.verbose=true",
        "++hydra.job.name=x",
        "hydra.sweep.dir=x",
        "hydra/launcher=basic",
    ]
    assert read_command_line(typed).overrides == typed


@pytest.mark.parametrize("signs", ["+", "++"])
def test_a_plus_changes_nothing_as_every_value_is_added_or_set(signs: str, tmp_path: Path) -> None:
    plain = ["task=bitcount", "model=gru", "data.length=3", "seed=1"]
    line = read_command_line([f"{signs}{text}" for text in plain])
    assert line == read_command_line(plain)
    assert line.overrides == ["task=bitcount", "model=gru", "++data.length=3", "++seed=1"]
    # No default names a group of the user's: Hydra has to be told to add it.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.yaml").write_text("x: 1")
    own = read_command_line([f"--config-dir={tmp_path}", "task=bitcount", f"{signs}mine=a"])
    assert own.overrides == ["task=bitcount", f"{signs}mine=a"]


@pytest.mark.parametrize("group", ONE_CHOICE)
def test_several_choices_of_a_part_of_which_a_run_has_one_are_refused(group: str) -> None:
    one, other = choices(group, search_path(None))[:2]
    message = (
        f"{group}=[{one},{other}]: a run has one {group}; for a run with each of them: "
        f"-m {group}={one},{other}"
    )
    for typed in (f"{group}=[{one},{other}]", f"{group}=[{one}, {other}]"):
        for flags in ([], ["-m"]):
            with pytest.raises(UserError) as error:
                read_command_line([*flags, "task=bitcount", typed])
            assert error.value.problems == (message,)
    assert (
        read_command_line(["task=bitcount", f"{group}=[{one}]"]).overrides[1] == f"{group}=[{one}]"
    )
    both = ["task=bitcount", f"{group}={one},{other}"]
    assert read_command_line(["-m", *both]).overrides == both


def test_what_adds_up_may_be_several() -> None:
    typed = ["task=bitcount", "logger=[wandb,tensorboard]", "callbacks=[default,ema]"]
    assert read_command_line([*typed, "debug=[fast,profile]"]).overrides[:3] == typed


@pytest.mark.parametrize("flag", ["--cfg=job", "--info", "--help"])
def test_showing_and_running_many_do_not_go_together(flag: str) -> None:
    with pytest.raises(UserError, match=r"-m starts runs, and --cfg, --info and --help only show"):
        read_command_line(["-m", "task=bitcount", "seed=1,2", flag])


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

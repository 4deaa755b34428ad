"""A composed config is checked whole: keys, types, ranges, and where each mistake stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unrolled.errors import UserError
from unrolled.run.compose import compose
from unrolled.run.conf import choices, conf_dir, search_path
from unrolled.run.overrides import read_command_line

GROUPS = {
    group: choices(group, search_path(None))
    for group in ("task", "data", "embedding", "model", "readout", "head", "optimizer",
                  "scheduler", "regularizer", "trainer", "logger", "callbacks", "debug",
                  "experiment")
}  # fmt: skip


def problems(*typed: str) -> tuple[str, ...]:
    with pytest.raises(UserError) as error:
        compose(read_command_line(list(typed)))
    return error.value.problems


@pytest.mark.parametrize(
    "choice", [f"{g}={c}" for g, names in GROUPS.items() for c in names if g != "experiment"]
)
def test_every_choice_of_every_group_composes(choice: str) -> None:
    typed = [choice] if choice.startswith("task=") else ["task=bitcount", choice]
    if choice == "data=text":
        typed.append("data.source.path=text.txt")
    config = compose(read_command_line(typed)).config
    assert config["task"]["_target_"].startswith("unrolled.tasks.")


@pytest.mark.parametrize("task", GROUPS["task"])
def test_every_encoder_composes_with_every_task(task: str) -> None:
    for model in GROUPS["model"]:
        config = compose(read_command_line([f"task={task}", f"model={model}"])).config
        assert config["model"]["_target_"].startswith("unrolled.models.")


@pytest.mark.parametrize("name", GROUPS["experiment"])
def test_every_experiment_composes(name: str) -> None:
    assert compose(read_command_line([f"experiment={name}"])).config["seed"] == 0


def test_the_tutorial_is_to_the_letter() -> None:
    config = compose(read_command_line(["experiment=seed3_bitcount"])).config
    assert (
        config["data"] | {"train_size": 10_000, "batch_size": 1000, "shuffle": False}
        == (config["data"])
    )
    assert config["head"]["_target_"].endswith("ClassificationHead")
    assert config["readout"]["_target_"].endswith("Last")
    assert (config["model"]["hidden_size"], config["model"]["forget_bias"]) == (24, 1.0)
    assert (config["optimizer"]["_target_"], config["optimizer"]["lr"]) == (
        "torch.optim.Adam", 0.001
    )  # fmt: skip
    assert (config["trainer"]["max_epochs"], config["trainer"]["max_steps"]) == (5000, -1)
    assert not config["scheduler"]
    assert config["task"]["loss_reduction"] == "sum"


def test_defaults_of_the_classes_are_written_out() -> None:
    config = compose(read_command_line(["task=bitcount"])).config
    assert config["model"] == {
        "_target_": "unrolled.models.recurrent.LSTM", "hidden_size": 24, "num_layers": 1,
        "bidirectional": False, "dropout": 0.0, "forget_bias": 1.0, "init": "torch",
            "merge": "concat",
    }  # fmt: skip
    assert config["data"]["length"] == 20
    assert config["scheduler"]["total_steps"] == config["trainer"]["max_steps"]


def test_paths_are_absolute_so_that_a_run_can_be_evaluated_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = ["task=purchase_intent", "data=clickstream", "data.source.path=log.csv"]
    config = compose(read_command_line(typed)).config
    assert config["data"]["source"]["path"] == str(tmp_path / "log.csv")
    assert Path(config["data"]["store_dir"]).is_absolute()


def test_every_mistake_is_told_at_once_with_the_nearest_name() -> None:
    found = problems(
        "task=bitcount", "model.hiden_size=3", "sede=2", "trainer.max_stps=3", "data.length=-1",
        "optimizer.lr=abc", "readout.size=2", "trainer.callbacks=1", "model.dropout=1.5",
    )  # fmt: skip
    expected = {
        "command line: model.hiden_size: LSTM has no 'hiden_size'; did you mean 'hidden_size'?",
        "command line: sede: the config has no 'sede'; did you mean 'seed'?",
        "command line: trainer.max_stps: Trainer has no 'max_stps'; did you mean 'max_steps'?",
        "command line: data.length: -1 does not fit: it must be greater than 0",
        'command line: optimizer.lr: "abc" does not fit: it must be float | Tensor',
        "command line: readout.size: Mean has no 'size'; there is nothing to choose from.",
        "command line: trainer.callbacks: the run supplies this itself; it can't be set",
        "command line: model.dropout: 1.5 does not fit: it must be less than 1",
    }
    assert expected <= set(found)


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("data.length=2.5", "2.5 does not fit: it must be a valid integer"),
        ("data.length='20'", '"20" does not fit: it must be a valid integer'),
        ("model.bidirectional=1", "1 does not fit: it must be a valid boolean"),
        ("model.init=zeros", "it must be 'torch' or 'glorot'"),
        ("test=1", "1 does not fit: it must be a valid boolean"),
        ("task.loss_reduction=max", "it must be 'mean' or 'sum'"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(typed: str, reason: str) -> None:
    (problem,) = problems("task=bitcount", typed)
    assert problem.endswith(reason), problem


@pytest.fixture
def own_folder(tmp_path: Path) -> Callable[[str, str], list[str]]:
    """A folder of config files: from a file's name and text to the flags that name it."""

    def write(name: str, text: str) -> list[str]:
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return ["--config-dir", str(tmp_path / "conf")]

    return write


def test_a_name_that_is_no_utf8_is_refused_in_our_words() -> None:
    with pytest.raises(UserError) as error:
        compose(read_command_line(["task=bitcount", "run_dir=l\udcfcx"]))
    (problem,) = error.value.problems
    assert problem == (
        r'command line: run_dir: "l\udcfcx" does not fit: it has a byte that is not UTF-8; '
        "use another name"
    )


def test_a_misspelt_key_in_an_experiment_file_is_named_with_file_and_line(
    own_folder: Callable[[str, str], list[str]], tmp_path: Path
) -> None:
    text = """# @package _global_
defaults:
  - override /task: bitcount

sede: 42
trainer:
  max_stes: 5
"""
    flags = own_folder("experiment/typo", text)
    file = tmp_path / "conf" / "experiment" / "typo.yaml"
    assert problems(*flags, "experiment=typo") == (
        f"{file}:7: trainer.max_stes: Trainer has no 'max_stes'; did you mean 'max_steps'?",
        f"{file}:5: sede: the config has no 'sede'; did you mean 'seed'?",
    )


def test_own_configs_are_found_and_their_packages_have_to_be_allowed(
    own_folder: Callable[[str, str], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine_for_check.py").write_text(
        "class Mine:\n    def __init__(self, input_size: int, width: int = 3) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    flags = own_folder("model/mine", "_target_: mine_for_check.Mine\n")
    (problem,) = problems(*flags, "task=bitcount", "model=mine", "~model.hidden_size")
    assert "'mine_for_check.Mine' is not of a package that may be run" in problem
    allowed = [*flags, "--allow", "mine_for_check", "task=bitcount", "model=mine"]
    assert compose(read_command_line([*allowed, "~model.hidden_size"])).config["model"] == {
        "_target_": "mine_for_check.Mine", "width": 3
    }  # fmt: skip
    (problem,) = problems(*allowed, "~model.hidden_size", "model.widht=2")
    assert problem.endswith("Mine has no 'widht'; did you mean 'width'?")


@pytest.mark.parametrize("group", ["task", "experiment"])
def test_a_file_that_chooses_two_models_is_refused(
    own_folder: Callable[[str, str], list[str]], tmp_path: Path, group: str
) -> None:
    above = "_self_" if group == "task" else "override /task: bitcount"
    flags = own_folder(
        f"{group}/two",
        f"# @package _global_\ndefaults:\n  - {above}\n  - override /model: [rnn, lstm]\n",
    )
    (problem,) = problems(*flags, f"{group}=two")
    assert problem.endswith(
        f"{group}/two.yaml: model=[rnn,lstm]: a run has one model; for a run with each of them: "
        "-m model=rnn,lstm"
    )
    # What is typed replaces what a file chooses.
    if group == "experiment":
        typed = read_command_line([*flags, "experiment=two", "model=gru"])
        assert compose(typed).config["model"]["_target_"].endswith("GRU")


def test_a_target_outside_the_allowed_packages_is_refused() -> None:
    (problem,) = problems("task=bitcount", "readout._target_=os.system")
    assert "'os.system' is not of a package that may be run" in problem


def test_an_interpolation_that_leads_nowhere_is_named() -> None:
    (problem,) = problems("task=bitcount", "scheduler.max_lr=${optimizer.rl}")
    assert "optimizer.rl" in problem


def test_the_config_folder_holds_only_what_differs_from_the_classes_defaults() -> None:
    import yaml

    from unrolled.run.signatures import read_signature

    for path in conf_dir().rglob("*.yaml"):
        content = yaml.safe_load(path.read_text()) or {}
        if "_target_" not in content:
            continue
        parameters = read_signature(content["_target_"]).parameters
        for key, value in content.items():
            if key in parameters:
                assert value != parameters[key].default, f"{path}: {key} repeats the default"

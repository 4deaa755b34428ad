"""Parts of the user's own, as README.md tells to make them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from training import Run

from unrolled.errors import UserError
from unrolled.run.allowed import VARIABLE
from unrolled.run.compose import compose
from unrolled.run.overrides import read_command_line
from unrolled.sweep.check import check_sweep
from unrolled.sweep.points import grid
from unrolled.sweep.space import Sweep

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.partition("## Your own parts")[2].partition("\n## ")[0]
ENCODER = """
import torch

class Mine(torch.nn.Module):
    def __init__(self, input_size: int, width: int = 8) -> None:
        super().__init__()
        self.output_size = width
        self.linear = torch.nn.Linear(input_size, width)

    def forward(self, x, lengths, state=None):
        inside = torch.arange(x.shape[1]) < lengths[:, None]
        return self.linear(x) * inside[..., None], state
"""
PLAIN = "class {name}:\n    def __init__(self, {supplied}, width: int = 3) -> None: ...\n"


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The files of the README's section in an empty folder, and what it types after train.py."""
    (path, content), command = (
        re.findall(r"^(my_conf\S+):\s+(.+)$", SECTION, re.MULTILINE)[0],
        re.findall(r"^python train.py (.+)$", SECTION, re.MULTILINE)[0],
    )
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(f"{content}\n")
    # Without an __init__.py, of which the section says nothing.
    package, module, _ = yaml.safe_load(content)["_target_"].split(".")
    (tmp_path / package).mkdir()
    (tmp_path / package / f"{module}.py").write_text(ENCODER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, package)
    yield shlex.split(command)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def test_the_section_on_own_parts_works_to_the_letter(typed: list[str]) -> None:
    config = compose(read_command_line(typed)).config
    assert config["model"] == {"_target_": "my_models.encoders.Mine", "width": 32}
    with pytest.raises(UserError, match=r"model.hidden_size: Mine has no 'hidden_size'; choose"):
        compose(read_command_line([*typed, "model.hidden_size=3"]))


def test_a_sweep_over_an_own_model_and_a_shipped_one_is_checked_and_run(
    typed: list[str], tmp_path: Path
) -> None:
    content = {
        "program": "train.py", "method": "grid", "metric": {"name": "val/loss"},
        "parameters": {"task": {"value": "bitcount"}, "model": {"values": ["mine", "lstm"]}},
    }  # fmt: skip
    sweep = Sweep(Path("x.yaml"), content)
    sweep.extra = typed[: typed.index("task=bitcount")]
    assert check_sweep(sweep).corners == 2
    small = ["data.length=8", "data.train_size=40", "data.val_size=8", "trainer.max_steps=1"]
    small.append("trainer.log_every_n_steps=1")
    built = []
    for values in grid(sweep):
        run = Run(tmp_path / str(values["model"]), *sweep.arguments(values), *small)
        run.fit()
        built.append((type(run.task.model.encoder).__name__, run.task.model.encoder.output_size))
    assert built == [("Mine", 8), ("LSTM", 24)]


def test_values_of_a_task_apply_to_another_part_only_where_its_class_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {
        "model": "input_size", "embedding": "schema", "head": "input_size", "optimizer": "params",
        "readout": "input_size", "scheduler": "optimizer",
    }  # fmt: skip
    (tmp_path / "own_parts.py").write_text(
        "".join(PLAIN.format(name=part.title(), supplied=s) for part, s in parts.items())
    )
    for part in parts:
        (tmp_path / "conf" / part).mkdir(parents=True)
        (tmp_path / "conf" / part / "mine.yaml").write_text(f"_target_: own_parts.{part.title()}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(VARIABLE, "own_parts")
    chosen = [f"{part}=mine" for part in parts]
    # The task sets values of embedding, model, head and optimizer.
    line = [f"--config-dir={tmp_path / 'conf'}", "task=next_item", *chosen]
    config = compose(read_command_line(line)).config
    for part in parts:
        assert config[part] == {"_target_": f"own_parts.{part.title()}", "width": 3}


def test_a_shipped_model_has_the_size_that_the_task_gives_its_own() -> None:
    config = compose(read_command_line(["task=bitcount", "model=gru"])).config
    assert config["model"]["hidden_size"] == 24


def test_the_file_of_a_choice_says_more_than_a_task_that_knows_another_choice() -> None:
    def rate(*line: str) -> float:
        found: float = compose(read_command_line(list(line))).config["optimizer"]["lr"]
        return found

    assert rate("task=bitcount") == rate("task=bitcount", "optimizer=adam") == 0.01
    assert rate("task=bitcount", "optimizer=sgd") == 0.1
    assert rate("task=bitcount", "optimizer=sgd", "optimizer.lr=0.3") == 0.3
    # It has chosen sgd itself.
    assert rate("experiment=seed0_memorize") == 0.05


def test_a_mistake_of_a_file_in_the_part_that_it_chose_is_told(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "typo.yaml"
    head = "# @package _global_\ndefaults:\n  - override /task: bitcount\n"
    for chosen in ("", "  - override /model: gru\n"):
        file.write_text(f"{head}{chosen}model:\n  hiden_size: 3\n")
        line = read_command_line([f"--config-dir={tmp_path}", "experiment=typo"])
        with pytest.raises(UserError, match=r"typo.yaml:\d: model.hiden_size: (LSTM|GRU) has no"):
            compose(line)


def test_a_nested_class_that_a_debug_file_sets_is_kept_whole() -> None:
    config = compose(read_command_line(["task=bitcount", "debug=profile", "trainer=cpu"])).config
    profiler = config["trainer"]["profiler"]
    assert profiler["_target_"] == "lightning.pytorch.profilers.SimpleProfiler"
    assert profiler["filename"] == "profile"

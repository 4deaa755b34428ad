"""The config of a run is read as it was written, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from unrolled.errors import UserError
from unrolled.run.check import check
from unrolled.run.compose import compose
from unrolled.run.overrides import read_command_line
from unrolled.run.plain_config import read_plain

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("task", sorted(path.stem for path in (CONF / "task").iterdir()))
def test_the_config_of_every_task_is_read_as_it_was_written(task: str, tmp_path: Path) -> None:
    config = compose(read_command_line([f"task={task}"])).config
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert read_plain(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/name:os.system",
        "- 1",
        "a: 2026-01-01",
        "? [1, 2]\n: 3",
        "a: &a [*a]",
        "\t",
        "1: 2",
    ],
)
def test_what_is_no_plain_config_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml.*: not (the|a) config"):
        read_plain(tmp_path / "config.yaml")


def test_a_number_for_a_name_is_told_as_any_other(tmp_path: Path) -> None:
    config = compose(read_command_line(["task=bitcount"])).config
    config["model"][1] = 2
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"model\.1: LSTM has no '1'; choose from: bidirectional"):
        check(read_plain(tmp_path / "config.yaml"), lambda key: ".".join(key))

"""Every command of docs/your-own-log.md does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from unrolled.data.prepare import prepare
from unrolled.data.store import read_meta
from unrolled.run.compose import compose
from unrolled.run.experiment import build
from unrolled.run.overrides import read_command_line

GUIDE = Path(__file__).parents[2] / "docs" / "your-own-log.md"


def test_the_commands_of_the_guide_are_real(data_dir: Path, tmp_path: Path) -> None:
    text = GUIDE.read_text()
    commands = [
        shlex.split(block.replace("$UNROLLED_DATA", str(data_dir)).replace("\\\n", " "))
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    ]
    assert [c[:2] for c in commands] == [["unrolled", "prepare"], ["python", "train.py"]]
    stores = set()
    for command in commands:
        typed = [a for a in command[2:] if not a.startswith("task=")]
        config = compose(read_command_line(["task=purchase_intent", *typed])).config
        stores.add(prepare(build(config["data"]["source"], "data.source"), tmp_path))
    (store,) = stores
    meta = read_meta(store)
    for split, count in meta["counts"].items():
        line = f"  {split:5} {count['sequences']:>9,} sequences {count['events']:>11,} events"
        assert f"{line}, {count['positive'] / count['sequences']:.2%} positive\n" in text


def test_the_configuration_of_the_guide_composes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (yaml,) = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "my_conf" / "data").mkdir(parents=True)
    (tmp_path / "my_conf" / "data" / "my_log.yaml").write_text(yaml)
    monkeypatch.chdir(tmp_path)
    typed = ["--config-dir", "my_conf", "task=purchase_intent", "data=my_log"]
    source = compose(read_command_line(typed)).config["data"]["source"]
    log = build(source, "data.source")
    assert log.problems() == []
    assert log.session_gap == 30

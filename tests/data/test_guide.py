"""docs/your-own-log.md, followed to the letter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from unrolled.data.prepare import store_path
from unrolled.run.compose import compose
from unrolled.run.experiment import build
from unrolled.run.overrides import read_command_line

GUIDE = Path(__file__).parents[2] / "docs" / "your-own-log.md"


def _blocks() -> list[tuple[str, str]]:
    """Language and text of the code blocks, in order; none has no language."""
    return re.findall(r"^```(\w*)\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def _printed(shown: str) -> re.Pattern[str]:
    """What a block shows: `...` stands for a part of a line, or alone for any number of lines."""
    lines = [
        r"(.*\n)*" if line == "..." else r"[^\n]*".join(map(re.escape, line.split("..."))) + "\n"
        for line in (line.strip() for line in shown.splitlines())
    ]
    return re.compile("".join(lines))


def test_every_block_of_the_guide_does_and_prints_what_it_shows(
    data_dir: Path, tmp_path: Path
) -> None:
    # As a new user has them: the commands of this environment, in an empty folder.
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "unrolled"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m unrolled.cli "$@"\n')
    command.chmod(0o755)
    place = tmp_path / "shop"
    place.mkdir()
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}", "UNROLLED_DATA": str(data_dir), "COLUMNS": "120",
    }  # fmt: skip
    blocks = _blocks()
    ran = 0
    for (language, text), (following, shown) in pairwise([*blocks, ("end", "")]):
        if language == "yaml":
            path = place / text.removeprefix("# ").split(":")[0]
            path.parent.mkdir(parents=True)
            path.write_text(text)
        if language != "bash":
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", text], cwd=place, env=environment, timeout=240, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        ran += 1
        output = "".join(f"{line.strip()}\n" for line in done.stdout.splitlines())
        if following == "":
            assert _printed(shown).fullmatch(output), f"{text}\nprints\n{done.stdout}"
        assert (done.returncode == 0) != shown.startswith("error:"), done.stdout
    assert ran == sum(language == "bash" for language, _ in blocks) >= 7


@pytest.mark.parametrize("time", ["event_time", "null"])
def test_the_two_ways_of_the_guide_name_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, time: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNROLLED_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["unrolled"])
    file = tmp_path / "rees46_sample" / "2019-Oct-head.csv"
    file.parent.mkdir()
    file.write_text("event_time,event_type,user_id\n1,view,1\n")
    (yaml,) = [text for language, text in _blocks() if language == "yaml"]
    prepare_block = next(text for _, text in _blocks() if text.startswith("unrolled prepare"))
    typed = re.findall(r"'(data\.[^']*)'|(data[.=]\S+)", prepare_block)
    words = [(a or b).replace("$UNROLLED_DATA", str(tmp_path)) for a, b in typed]
    (tmp_path / "my_conf" / "data").mkdir(parents=True)
    (tmp_path / "my_conf" / "data" / "my_log.yaml").write_text(yaml)
    changes = ["task=purchase_intent"]
    if time == "null":
        # A log without times is ordered by a column and split by user.
        changes += [
            "data.source.time=null", "data.source.order=event_time", "data.source.split_by=user",
            "data.source.session_gap=null", "data.source.hour_of_week=false",
        ]  # fmt: skip
    found = []
    for line in (words, ["--config-dir", "my_conf", "data=my_log"]):
        source = build(
            compose(read_command_line([*line, *changes])).config["data"]["source"], "data.source"
        )
        assert source.problems() == []
        assert source.gap == (time != "null")
        found.append(store_path(source, tmp_path / "stores"))
    assert found[0] == found[1]

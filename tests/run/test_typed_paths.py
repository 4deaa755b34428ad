"""A path that is typed in the shell's own way is that path."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unrolled.errors import UserError
from unrolled.run.compose import compose, in_job, run_hydra
from unrolled.run.directory import RunDirectory
from unrolled.run.evaluate import _changed
from unrolled.run.overrides import changed, read_command_line, typed_values
from unrolled.run.resume import resume
from unrolled.run.typed_paths import for_hydra, typed_path

HARD = [
    "Läufe/π 数 [1] {a:1}, c=d #1",
    "it's \"a\" \\'b' \\",
    "a(b",
    "model.hidden_size=8,optimizer.lr=1e-3",
    "1e3",
    "~no-such-user",
    "x=None",
    " a\n\t",
]
"""Names that Hydra's grammar refuses, takes for something else, or cuts."""

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@settings(deadline=None, max_examples=50)
@given(text)
@example("${now:%Y}")
@example("\\${a}")
@example("\\\\${a}'")
def test_a_text_in_quotes_is_read_as_itself(path: str) -> None:
    assert typed_values(read_command_line([f"seed={for_hydra(path)}"], needs_task=False)) == {
        "seed": path
    }


@settings(deadline=None, max_examples=60)
@given(text.filter(lambda path: "${" not in path and path not in ("null", "None")))
@example("[a]")
@example("a,b")
@example("'a")
@example(".5")
@example("NaN")
@example("runs/a=None")
def test_every_path_is_taken_as_it_is_typed(path: str) -> None:
    if len(path) > 1 and path[0] in "'\"" and path[-1] == path[0]:
        # Quotes for Hydra, unless there is such a file.
        path = f"./{path}"
    line = read_command_line(
        [f"run_dir={path}", f"resume={path}", f"data.source.path={path}"], needs_task=False
    )
    keys = ("run_dir", "resume", "data.source.path")
    assert typed_values(line) == dict.fromkeys(keys, path)
    assert {key: line.values[key] for key in keys} == dict.fromkeys(keys, path)


def test_what_is_not_there_under_its_name_may_be_written_for_hydra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLACE", "here")
    typed = {"'a b'": "a b", '"it\'s"': "it's", "${oc.env:PLACE}/x": "here/x", "null": None}
    for value, read in typed.items():
        line = read_command_line([f"run_dir={value}"], needs_task=False)
        assert typed_values(line) == {"run_dir": read}
    for name in typed:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
        line = read_command_line([f"run_dir={name}"], needs_task=False)
        assert typed_values(line) == {"run_dir": name}
    assert typed_path("data.source.path=a,b", multirun=True) is None
    assert typed_path("data.source.path=a,b") == "a,b"
    assert typed_path("model.hidden_size=8") is None


@pytest.mark.parametrize("name", HARD)
def test_all_that_is_a_path_reaches_the_config(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own" / name
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "mine.yaml").write_text(
        "_target_: unrolled.models.recurrent.LSTM\nnum_layers: 2\n"
    )
    monkeypatch.chdir(tmp_path)
    paths = dict.fromkeys(("data.source.path", "data.source.labels"), f"{tmp_path}/{name}")
    line = read_command_line(
        ["task=purchase_intent", "data=clickstream", f"run_dir={name}", f"data.store_dir={name}",
         "model=mine", f"--config-dir={folder}", *(f"{k}={v}" for k, v in paths.items())]
    )  # fmt: skip
    config = compose(line).config
    assert config["model"]["num_layers"] == 2
    assert config["run_dir"] == config["data"]["store_dir"] == f"{tmp_path}/{name}"
    assert (
        config["data"]["source"]["path"]
        == config["data"]["source"]["labels"]
        == (f"{tmp_path}/{name}")
    )
    # The folder is there, and the run goes on, and is tested, with such paths.
    run = RunDirectory.create(config, Path(name), "train.py")
    other = f"{tmp_path}/other/{name}"
    later = read_command_line([f"resume={name}", f"data.store_dir={other}"])
    assert resume(Path(later.values["resume"]), None, later).config() == changed(
        config, {"data.store_dir": other}
    )
    tested = _changed(run.config(), [f"data.source.path={other}"])
    assert tested["data"]["source"]["path"] == other


def test_the_folder_of_a_multirun_is_as_typed_and_so_are_paths_of_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra.core.hydra_config import HydraConfig

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    name = "a [b], c=d #1 'é'"
    line = read_command_line(
        ["-m", "task=bitcount", "seed=1,2", f"hydra.sweep.dir={name}", f"data.store_dir={name}",
         "hydra.sweep.subdir=${hydra.job.override_dirname}", "task=purchase_intent"]
    )  # fmt: skip
    seen: list[tuple[Any, ...]] = []

    def job(cfg: Any) -> None:
        sweep = HydraConfig.get().sweep
        config = in_job(cfg, line).config
        seen.append((sweep.dir, sweep.subdir, config["seed"], config["data"]["store_dir"]))

    run_hydra(line, job)
    assert [(s[0], s[2], s[3]) for s in seen] == [(name, n, f"{tmp_path}/{name}") for n in (1, 2)]
    # A folder that Hydra has named can be typed as it is.
    for folder in [Path(name, str(s[1])) for s in seen]:
        assert typed_path(f"resume={folder}") == str(folder)
        assert os.fspath(folder) in typed_values(read_command_line([f"resume={folder}"])).values()


def test_a_deletion_is_refused_where_single_values_are_changed() -> None:
    with pytest.raises(UserError, match="~seed: give a value, key=value"):
        typed_values(read_command_line(["~seed"], needs_task=False))


def test_a_folder_that_is_no_utf8_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / os.fsdecode(b"l\xfcx")
    told = f"{path}: the path is not UTF-8, so that libraries do not find it; rename the folder"
    with pytest.raises(UserError, match=f"^{re.escape(told)}"):
        RunDirectory.create({}, path, "train.py")
    assert not path.exists()
    path.mkdir()
    (path / "config.yaml").write_text("{}")
    with pytest.raises(UserError, match=f"^{re.escape(told)}"):
        RunDirectory.open(path)
    monkeypatch.chdir(path)
    with pytest.raises(UserError, match="the path is not UTF-8"):
        RunDirectory.create({}, None, "train.py")

"""Nothing that is loaded runs code: each bomb here would leave a marker, and none does."""

from __future__ import annotations

import importlib.util
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from commands import SMALL, unrolled
from lightning.pytorch.plugins.io import TorchCheckpointIO

from unrolled.data.check_store import check_store
from unrolled.data.log import EventLog
from unrolled.data.prepare import prepare
from unrolled.data.schema import Schema
from unrolled.data.store import JaggedSequences, read_meta
from unrolled.errors import UserError
from unrolled.run.agent import WORK
from unrolled.run.allowed import VARIABLE, allow, leave_out_working_folder
from unrolled.run.check import check
from unrolled.run.checkpoint import read_checkpoint
from unrolled.run.compose import compose
from unrolled.run.directory import RunDirectory
from unrolled.run.evaluate import evaluate
from unrolled.run.experiment import build, signature_of
from unrolled.run.launch import _command
from unrolled.run.overrides import read_command_line
from unrolled.run.parent import for_children
from unrolled.run.predict import predict_one
from unrolled.run.targets import allowed_signature, find_target, own_targets
from unrolled.run.training import train
from unrolled.run.warm import COMMAND


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What a bomb would make; it must not be there at the end."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_the_bomb_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


FORBIDDEN = [
    "os.system",
    "os.mkdir",
    "builtins.eval",
    "subprocess.Popen",
    "runpy.run_path",
    "pickle.load",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "torch.utils.cpp_extension.load",
    "torch.ops.load_library",
    "torch.classes.load_library",
    "torch.nn.modules.module.os.system",
    "torch.optim.optimizer.os.mkdir",
    "torch.optim.lr_scheduler.partial",
    "torch.nn.Module.load_state_dict",
    "torch.nn.init.uniform_",
    "lightning.LightningModule.load_from_checkpoint",
    "lightning.pytorch.cli.LightningCLI",
    "lightning.pytorch.callbacks.model_checkpoint.os.mkdir",
    "lightning.pytorch.loggers.csv_logs.os.mkdir",
    "unrolled.cli.main",
    "unrolled.run.launch.launch",
    "unrolled.run.launch.subprocess.Popen",
    "unrolled.data.outputs.write_table",
    "unrolled.models.state.torch.load",
    "unrolled.tasks.base.lightning.pytorch.cli.LightningCLI",
    "unrolled.models.head",
    "",
    None,
    ["os.mkdir"],
]


@pytest.mark.parametrize("target", FORBIDDEN, ids=str)
def test_what_runs_code_is_refused_where_it_is_composed_and_where_it_is_built(
    target: Any, marker: Path
) -> None:
    node = {"_target_": target, "path": str(marker)}
    with pytest.raises(UserError) as found:
        find_target(target)
    assert str(target).partition(".")[0] in str(found.value)
    with pytest.raises(UserError, match=r"^model\._target_: "):
        build(node, "model")
    with pytest.raises(UserError):
        signature_of(node)
    config = compose(read_command_line(["task=bitcount"])).config
    with pytest.raises(UserError) as found:
        check({**config, "model": node})
    assert found.value.problems[0].startswith("model._target_: ")


@pytest.mark.parametrize(
    "nested",
    [
        lambda node: [node],
        lambda node: {"deep": [{"deeper": node}]},
        lambda node: {"_target_": "torch.nn.Linear", "in_features": node, "_partial_": True},
    ],
    ids=["list", "dict", "partial"],
)
def test_a_nested_node_is_refused_before_anything_is_called(
    nested: Callable[[Any], Any], marker: Path
) -> None:
    node = nested({"_target_": "os.mkdir", "path": str(marker)})
    with pytest.raises(UserError, match=r"^callbacks\.mine\.\S*\._target_: 'os\.mkdir' is not of"):
        build({"_target_": "torch.nn.Identity", "value": node}, "callbacks.mine")


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of the user; its import leaves a trace."""
    (tmp_path / "mine_for_safety.py").write_text(
        "import os, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'imported')!r}).touch()\n"
        "from torch import nn\n"
        "from unrolled.models.recurrent import GRU\n"
        "class Mine(GRU):\n"
        "    def __init__(self, input_size: int, hidden_size: int = 3) -> None:\n"
        "        super().__init__(input_size, hidden_size)\n"
        "def make(width: int) -> nn.Module:\n    return nn.Linear(width, width)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    yield "mine_for_safety"
    sys.modules.pop("mine_for_safety", None)


def test_a_package_is_not_even_imported_before_it_is_allowed(
    own_package: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"say so with --allow {own_package}"):
        build({"_target_": f"{own_package}.Mine", "input_size": 2}, "model")
    assert not (tmp_path / "imported").exists()
    allow([own_package])
    assert build({"_target_": f"{own_package}.Mine", "input_size": 2}, "model").output_size == 3
    assert build({"_target_": f"{own_package}.make", "width": 2}, "model").in_features == 2
    assert build({"_target_": f"{own_package}.GRU", "input_size": 2}, "model").output_size > 3
    for inside in ("os.system", "pathlib.Path", "os", "Mine.forward.__globals__"):
        with pytest.raises(UserError, match=r"a config may name classes|can't be imported"):
            build({"_target_": f"{own_package}.{inside}"}, "model")


def test_of_a_package_that_is_not_allowed_not_even_the_annotations_are_looked_at(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = f"().__class__.__base__.__subclasses__()[0] or open({str(marker)!r}, 'w')"
    (tmp_path / "evil.py").write_text(f"class Mine:\n    def __init__(self, x: {bomb} = 1): ...\n")
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text("_target_: evil.Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    read = []
    monkeypatch.setattr("unrolled.run.targets.read_signature", lambda t: read.append(t))
    with pytest.raises(UserError, match=r"'evil.Mine' is not of a package that may be run"):
        allowed_signature("evil.Mine")
    assert not read
    monkeypatch.undo()
    line = read_command_line([f"--config-dir={tmp_path / 'conf'}", "task=bitcount", "model=mine"])
    with pytest.raises(UserError, match="--allow evil"):
        compose(line)


def test_nothing_is_imported_from_the_working_folder_but_packages_that_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("module_lying_there", "package_of_mine", "colorsys"):
        (tmp_path / f"{name}.py").write_text("class Mine: ...\n")
    monkeypatch.chdir(tmp_path)
    # As `python -m unrolled.cli` and `PYTHONPATH=:/elsewhere` begin.
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path, str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}/elsewhere")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    leave_out_working_folder()
    assert str(tmp_path) not in sys.path
    # What every process that is started begins with.
    assert for_children()["PYTHONSAFEPATH"] == os.environ["PYTHONSAFEPATH"] == "1"
    assert os.environ["PYTHONPATH"] == "/elsewhere"
    monkeypatch.setenv(VARIABLE, "package_of_mine,colorsys")
    assert find_target("package_of_mine.Mine").__module__ == "package_of_mine"
    assert importlib.util.find_spec("module_lying_there") is None
    installed = importlib.util.find_spec("colorsys")
    assert installed is not None
    assert Path(str(installed.origin)).parent != tmp_path


@pytest.mark.parametrize(
    "command", [_command, COMMAND, WORK], ids=["a run", "the fork server", "a rank"]
)
def test_processes_are_started_with_a_safe_path(command: Any, bitcount_run: Path) -> None:
    if callable(command):
        run = RunDirectory.open(bitcount_run)
        command = command(run, run.config())
    assert "-P" in command[: command.index("-m")]


def test_a_config_can_not_allow_itself_anything(tmp_path: Path, own_package: str) -> None:
    config = compose(read_command_line(["task=bitcount"])).config
    config["model"] = {"_target_": f"{own_package}.Mine"}
    for key in ("allow", "allowed", VARIABLE):
        with pytest.raises(UserError, match="not of a package that may be run"):
            check({**config, key: [own_package]})


def test_every_class_that_our_config_files_name_is_found() -> None:
    assert len(own_targets()) > 60
    assert {"lightning.Trainer", "unrolled.run.progress.progress"} <= own_targets()
    for target in own_targets():
        assert callable(find_target(target))


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a checkpoint that nobody reads; nothing was trained."""
    path = tmp_path_factory.mktemp("plain") / "run"
    run = RunDirectory.create(compose(read_command_line(SMALL)).config, path, "train")
    run.checkpoints.mkdir()
    (run.checkpoints / "best.ckpt").write_bytes(b"")
    return path


def edited(run: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the run whose config was changed."""
    shutil.copytree(run, folder / "run")
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    change(config)
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "run"


@pytest.mark.parametrize("part", ["task", "data", "model", "head", "optimizer"])
def test_a_run_that_came_from_elsewhere_is_not_evaluated_where_its_config_names_a_function(
    part: str, plain_run: Path, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both are for a process of their own: logging, and the seeds.
    monkeypatch.setattr("unrolled.run.training.quiet", lambda: None)
    monkeypatch.setattr("lightning.seed_everything", lambda *_, **__: None)
    node = {"_target_": "os.mkdir", "path": str(marker)}
    run = edited(plain_run, tmp_path, lambda config: config.update({part: node}))
    for work in (
        lambda: evaluate(run, []),
        lambda: evaluate(run, ["data.length=9"]),
        lambda: predict_one(run, "010101010"),
        lambda: train(RunDirectory.open(run)),
    ):
        with pytest.raises(UserError, match=r"_target_: .*'os\.mkdir' is not of a package"):
            work()


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.mkdir [{marker}]\n",
        "!!python/object/new:os.mkdir [{marker}]\n",
        "model: [unfinished\n",
        "just a text",
        "1: 2\n",
    ],
)
def test_a_config_file_that_is_no_config_is_told_and_its_tags_do_nothing(
    text: str, plain_run: Path, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unrolled.run.training.quiet", lambda: None)
    run = edited(plain_run, tmp_path, lambda config: None)
    (run / "config.yaml").write_text(text.format(marker=marker))
    with pytest.raises(UserError, match=r"config\.yaml.*(not a config of plain|not the config)"):
        evaluate(run, [])


def checkpoints(marker: Path) -> dict[str, Callable[[Path], None]]:
    """Ways to write a file that runs code where it is unpickled."""
    bomb = Bomb(marker)
    scripted = torch.jit.script(torch.nn.Identity())
    return {
        "pickle": lambda path: path.write_bytes(pickle.dumps(bomb)) and None,
        "torch": lambda path: torch.save(bomb, path),
        "inside": lambda path: torch.save(
            {"state_dict": {"weight": torch.ones(2), "b": bomb}}, path
        ),
        "legacy": lambda path: torch.save(
            {"state_dict": bomb}, path, _use_new_zipfile_serialization=False
        ),
        "script": lambda path: scripted.save(str(path)),
    }


@pytest.mark.parametrize("kind", ["pickle", "torch", "inside", "legacy", "script"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*looks like a TorchScript archive:UserWarning")
def test_a_checkpoint_that_runs_code_is_refused(kind: str, tmp_path: Path, marker: Path) -> None:
    path = tmp_path / "last.ckpt"
    checkpoints(marker)[kind](path)
    with pytest.raises(UserError, match=r"last\.ckpt: not a checkpoint that can be read"):
        read_checkpoint(path)
    # The way that Lightning reads it in `trainer.fit(ckpt_path=..., weights_only=True)`.
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        TorchCheckpointIO().load_checkpoint(path, weights_only=True)


COLUMNS: Any = {"sequence": "session", "time": "time", "categorical": ["item"], "label": "buys"}
EXTENSION = {b"ARROW:extension:name": b"arrow.py_extension_type"}


def log_with_bomb(marker: Path) -> pa.Table:
    """A log whose column has an extension type that old versions of Arrow unpickled."""
    metadata = {**EXTENSION, b"ARROW:extension:metadata": pickle.dumps(Bomb(marker))}
    count = 60
    schema = pa.schema(
        [
            pa.field("session", pa.int64()),
            pa.field("time", pa.int64()),
            pa.field("item", pa.int64(), metadata=metadata),
            pa.field("buys", pa.int64()),
        ],
        metadata={b"pandas": pickle.dumps(Bomb(marker))},
    )
    columns = [[i // 3 for i in range(count)], list(range(count)), [i % 5 for i in range(count)]]
    return pa.table([*columns, [i // 3 % 2 for i in range(count)]], schema=schema)


@pytest.mark.parametrize("ending", ["arrow", "parquet"])
def test_types_in_a_log_that_arrow_once_unpickled_are_only_numbers(
    ending: str, tmp_path: Path, marker: Path
) -> None:
    table, path = log_with_bomb(marker), tmp_path / f"log.{ending}"
    if ending == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    log = EventLog(path=path, **COLUMNS)
    store = prepare(log, tmp_path / "stores")
    schema = Schema.from_dict(read_meta(store)["schema"])
    assert int(JaggedSequences.open(store / "train-00000.arrow", schema).lengths.sum()) > 0
    check_store(store)
    # A store whose file someone has exchanged.
    (store / "train-00000.arrow").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(UserError, match=r"train-00000\.arrow: has .* bytes"):
        check_store(store)
    (store / "store.json").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(UserError, match=r"store\.json: not an event store"):
        read_meta(store)


def test_a_pickle_that_is_called_a_log_is_refused(tmp_path: Path, marker: Path) -> None:
    for ending in ("arrow", "parquet", "csv"):
        path = tmp_path / f"log.{ending}"
        path.write_bytes(pickle.dumps(Bomb(marker)))
        log = EventLog(path=path, **COLUMNS)
        with pytest.raises(UserError, match=f"log.{ending}"):
            prepare(log, tmp_path / "stores")


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO '{marker}'",
        "SELECT 1 AS session; COPY (SELECT 1) TO '{marker}'",
        "SELECT 1) AS q; COPY (SELECT 1) TO '{marker}'; SELECT * FROM (SELECT 1",
        "INSTALL shellfs FROM community",
        "ATTACH '{marker}' AS other",
        "",
    ],
)
def test_a_query_that_does_more_than_read_is_refused(
    query: str, tmp_path: Path, marker: Path
) -> None:
    log = EventLog(query=query.format(marker=marker), **COLUMNS)
    with pytest.raises(UserError, match=r"data\.source\.query"):
        prepare(log, tmp_path / "stores")


BOMBS = {
    "callbacks": """
  callbacks:
    bad:
      _target_: subprocess.check_call
      args: [mkdir, marker]
""",
    "logging": """
  job_logging:
    version: 1
    root: {level: INFO, handlers: [bad]}
    handlers:
      bad: {"()": subprocess.Popen, args: [mkdir, marker]}
""",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_config_files_can_not_make_hydra_run_programs(
    kind: str, refuse: Callable[..., str], tmp_path: Path
) -> None:
    """`refuse` says that nothing is left behind in the folder, so no marker either."""
    file = tmp_path / "conf" / "experiment" / "bomb.yaml"
    file.parent.mkdir(parents=True)
    head = "# @package _global_\ndefaults:\n  - override /task: bitcount\nhydra:"
    file.write_text(head + BOMBS[kind])
    refuse("--config-dir", str(tmp_path / "conf"), "experiment=bomb", "data.length=2.5")


@pytest.mark.process
def test_what_is_allowed_by_the_command_reaches_the_process_that_goes_on_with_a_run(
    own_package: str, plain_run: Path, tmp_path: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        config |= {"model": {"_target_": f"{own_package}.Mine"}, "logger": {}, "test": False}
        config["trainer"] |= {"max_steps": 1, "limit_val_batches": 0}

    run = edited(plain_run, tmp_path, change)
    done = unrolled("train", "--allow", own_package, "resume=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "imported").exists()
    assert RunDirectory(run).status()["steps"] == 1

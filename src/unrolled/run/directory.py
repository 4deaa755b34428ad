"""The run directory: the one place where a run's configuration, state and results are."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import yaml

from unrolled.errors import UserError
from unrolled.plain_files import require_plain_files, to_append, write_text
from unrolled.run.drift import identity
from unrolled.run.plain_config import read_plain

BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"
"""The checkpoints of a run; previous.ckpt was last.ckpt before."""


class RunDirectory:
    """A run's files.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @classmethod
    def create(cls, config: dict[str, Any], path: Path | None, command: str) -> RunDirectory:
        """Make the folder and write the configuration and the command into it.

        Args:
            config: Complete and checked.
            path: The folder; None names it by task, time and config hash.
            command: What was typed.

        Raises:
            UserError: When the folder is taken, can't be made, or has a name that is not UTF-8.
        """
        _require_utf8(Path.cwd() if path is None else path.absolute())
        was_there = path is not None and path.is_dir()
        try:
            path = _make_folder(config, path)
        except FileExistsError:
            raise UserError(
                f"run_dir={path} exists already; go on with it by resume={path}, "
                "or name another folder"
            ) from None
        except OSError as error:
            raise UserError(
                f"{path or 'runs'}: can't make the run directory: {error.strerror}"
            ) from error
        run = cls(path)
        try:
            # Whoever makes this file owns the folder, also when two processes found it empty.
            with (path / "config.yaml").open("x") as file:
                file.write(yaml.safe_dump(config, sort_keys=False))
            run.write("command.txt", command + "\n")
            run.set_status(state="created", created=now(), identity=identity(config))
        except FileExistsError:
            raise UserError(f"run_dir={path} was taken by another process just now") from None
        except OSError as error:
            # Half a run directory would be in the way of the next try.
            run.remove()
            if was_there:
                path.mkdir(exist_ok=True)
            raise UserError(f"{path}: can't be written: {error.strerror}") from error
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """A run directory that is there.

        Raises:
            UserError: When it is none, has links that lead out of it, or a name that is not UTF-8.
        """
        run = cls(path)
        if not (path / "config.yaml").is_file():
            kind = "no such folder" if not path.is_dir() else "it has no config.yaml"
            raise UserError(f"{path}: not a run directory, {kind}")
        _require_utf8(path.absolute())
        require_plain_files(path)
        return run

    def config(self) -> dict[str, Any]:
        """The configuration of the run: plain data, whatever tags the file has.

        Raises:
            UserError: When it is not what a run has.
        """
        return read_plain(self.path / "config.yaml")

    def config_hash(self) -> str:
        """Of the bytes of config.yaml: what all processes of a run must agree on."""
        return hashlib.sha256((self.path / "config.yaml").read_bytes()).hexdigest()

    def status(self) -> dict[str, Any]:
        """state, error, steps, and times in seconds since 1970; empty where there is none."""
        return self.read_json("status.json")

    def set_status(self, **changes: Any) -> None:
        """Change some entries of status.json, also where the disk is full."""
        status = {**self.status(), **changes}
        try:
            self.write_json("status.json", status)
        except OSError:
            if not self.status():
                raise
            # In the place that it has already, which it needs no space for.
            with to_append(self.path / "status.json").open("r+") as file:
                file.write(json.dumps(status, indent=2) + "\n")
                file.truncate()

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run; empty where it is missing.

        Raises:
            UserError: When it can't be read as one.
        """
        try:
            content = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path / name}: is damaged: {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"{self.path / name}: is damaged: it holds no named values")
        return content

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file, complete or not at all."""
        self.write(name, json.dumps(content, indent=2) + "\n")

    @property
    def can_go_on(self) -> bool:
        """Whether there is a checkpoint from which the training goes on."""
        return any((self.checkpoints / name).is_file() for name in (LAST, PREVIOUS))

    def write(self, name: str, text: str) -> None:
        """Write a text file, complete or not at all."""
        write_text(self.path / name, text)

    @property
    def log(self) -> Path:
        """The file train.log, to add lines to."""
        return to_append(self.path / "train.log")

    def files_to_keep(self) -> list[Path]:
        """What no other output may overwrite: the run's own files, and those that it was made of.

        Files in `predictions/` may be written anew.
        """
        own = [p for p in self.path.rglob("*") if p.is_file() and p.parent.name != "predictions"]
        return [*own, *(Path(text) for text in _texts(self.config().get("data")))]

    @property
    def checkpoints(self) -> Path:
        """The folder of best.ckpt, last.ckpt and previous.ckpt."""
        return self.path / "checkpoints"

    def best_checkpoint(self) -> Path:
        """best.ckpt, or last.ckpt of a run without validation.

        Raises:
            UserError: When there is neither.
        """
        for name in (BEST, LAST):
            if (self.checkpoints / name).is_file():
                return self.checkpoints / name
        raise UserError(f"{self.path}: the run has no checkpoint yet")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the run directory.

        Raises:
            UserError: When another process does, or it can't be written.
        """
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(
                f"{self.path}: another process is working on this run; wait for it or stop it"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.path}: can't be written ({error.strerror}), and a run goes on in its own "
                "directory; copy it to where there is room and the right to write"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def is_in_use(self) -> bool:
        """Whether a process owns the run directory."""
        path = self.path / ".lock"
        if not path.exists():
            return False
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        except OSError:
            # A disk that can't be written has no owner.
            return False
        lock.release()
        return False

    def remove(self) -> None:
        """Delete the folder, and folders above it that are empty then."""
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in self.path.parents[:2]:
            if parent.name not in ("runs", "multirun") and parent.parent.name != "runs":
                break
            try:
                parent.rmdir()
            except OSError:
                break


def _texts(node: Any) -> list[str]:
    """The texts in a part of a config."""
    if isinstance(node, dict | list):
        below = node.values() if isinstance(node, dict) else node
        return [text for part in below for text in _texts(part)]
    return [node] if isinstance(node, str) else []


def config_hash(config: dict[str, Any]) -> str:
    """Of the content of a config, wherever its run is."""
    identity = {k: v for k, v in config.items() if k not in ("run_dir", "resume")}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def task_name(config: dict[str, Any]) -> str:
    """What the runs of a config are called; without a name, the module of the task."""
    return config.get("name") or str(config["task"]["_target_"]).split(".")[-2]


def now() -> float:
    """Seconds since 1970."""
    return datetime.datetime.now().timestamp()


def _require_utf8(path: Path) -> None:
    """Refuse a path that torch and Arrow, which encode every path in UTF-8, would not find.

    Raises:
        UserError: When its bytes on the disk are not its characters in UTF-8.
    """
    try:
        found = str(path).encode() == os.fsencode(path)
    except UnicodeEncodeError:
        found = False
    if not found:
        raise UserError(
            f"{path}: the path is not UTF-8, so that libraries do not find it; rename the folder, "
            "or set a UTF-8 locale (LC_ALL=C.UTF-8)"
        )


def _make_folder(config: dict[str, Any], path: Path | None) -> Path:
    if path is not None:
        if path.is_dir() and not any(path.iterdir()):
            return path
        path.mkdir(parents=True)
        return path
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    base = Path("runs") / task_name(config) / f"{stamp}-{config_hash(config)[:6]}"
    path, tries = base, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            # The same experiment twice in a second.
            tries += 1
            path = base.with_name(f"{base.name}-{tries}")

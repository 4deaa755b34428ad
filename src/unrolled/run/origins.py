"""Which file, and which line of it, set a key of a composed config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from unrolled.run.conf import PRIMARY, find_file
from unrolled.run.overrides import CommandLine


class Origins:
    """Looks a key up in the command line, then in the chosen files from the last to the first.

    Args:
        line: What was typed.
        choices: The chosen file of each group, in the order of composition.
        folders: Where the config files are.
    """

    def __init__(
        self, line: CommandLine, choices: Mapping[str, object], folders: list[Path]
    ) -> None:
        self.typed = set(line.values)
        self.files: list[tuple[Path, tuple[str, ...]]] = []
        last = ("task", "experiment", "debug")
        ordered = [g for g in choices if g not in last] + [g for g in last if g in choices]
        for group in ["", *ordered]:
            names = choices[group] if group else PRIMARY
            for name in names if isinstance(names, list) else [names]:
                path = find_file(group, str(name), folders)
                if path is not None:
                    self.files.append((path, _package(path, group)))

    def __call__(self, key: tuple[str, ...]) -> str:
        """`command line`, `conf/task/bitcount.yaml:7`, or nothing where it is a class's default."""
        for cut in range(len(key), 0, -1):
            if ".".join(key[:cut]) in self.typed:
                return "command line"
            for path, package in reversed(self.files):
                line = _line_of(path, key[len(package) : cut]) if _below(key, package) else None
                if line is not None and cut == len(key):
                    return f"{_short(path)}:{line}"
        return ""


def _below(key: tuple[str, ...], package: tuple[str, ...]) -> bool:
    return key[: len(package)] == package


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _package(path: Path, group: str) -> tuple[str, ...]:
    with path.open() as file:
        head = file.readline()
    if "@package" in head:
        package = head.partition("@package")[2].strip()
        return () if package == "_global_" else tuple(package.split("."))
    return tuple(group.split("/")) if group else ()


def _line_of(path: Path, key: tuple[str, ...]) -> int | None:
    node = yaml.compose(path.read_text())
    line = None
    for part in key:
        if not isinstance(node, yaml.MappingNode):
            return None
        for name, value in node.value:
            if name.value == part:
                line, node = name.start_mark.line + 1, value
                break
        else:
            return None
    return line

"""What the user typed after the command, made ready for Hydra.

Hydra refuses to set a key that no config file names. Ours name only what differs from a class's
defaults, so every `key=value` becomes Hydra's "add or set", and the signature check that follows
says which keys exist.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unrolled.errors import UserError, did_you_mean
from unrolled.run.conf import choices, conf_dir, groups, require_one, search_path
from unrolled.run.typed_paths import for_hydra, typed_path

PASSED_ON = {
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
}
"""Flags with which Hydra shows something and trains nothing."""


@dataclass
class CommandLine:
    """A command line, taken apart.

    Args:
        flags: Hydra's flags with their values.
        overrides: `key=value` and `group=choice`, as Hydra takes them.
        values: The plain ones of them, by key, for those who only look.
        multirun: Whether every combination is to be run.
        shows: Whether Hydra only shows something.
        config_dir: The user's own folder of config files.
        allowed: Packages that a `_target_` may name beside ours.
        allow_query: Whether the query of a run directory may be run.
    """

    flags: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    multirun: bool = False
    shows: bool = False
    config_dir: Path | None = None
    allowed: list[str] = field(default_factory=list)
    allow_query: bool = False


def read_command_line(arguments: list[str], *, needs_task: bool = True) -> CommandLine:
    """Take a command line apart and check what can be checked without composing.

    Args:
        arguments: What follows `train.py`.
        needs_task: Whether a task (or an experiment, or a run to resume) has to be named.

    Raises:
        UserError: For every group without such a choice, and for what Hydra can't parse.
    """
    line = CommandLine()
    queue = list(arguments)
    typed = []
    while queue:
        argument = queue.pop(0)
        name, _, attached = argument.partition("=")
        if name in ("--config-dir", "-cd", "--allow"):
            value = attached or (queue.pop(0) if queue else "")
            if not value:
                raise UserError(f"{name} needs a value")
            if name == "--allow":
                line.allowed.append(value)
                continue
            line.config_dir = Path(value).absolute()
            if not line.config_dir.is_dir():
                raise UserError(f"--config-dir {value}: no such folder")
            line.flags += ["--config-dir", str(line.config_dir)]
        elif argument == "--allow-query":
            line.allow_query = True
        elif name in ("--multirun", "-m"):
            line.multirun = True
            line.flags.append("--multirun")
        elif name in ("--cfg", "-c", "--package", "-p", "--info", "-i"):
            line.shows = True
            line.flags.append(argument)
            if not attached and queue and not queue[0].startswith("-") and "=" not in queue[0]:
                line.flags.append(queue.pop(0))
        elif name in PASSED_ON:
            line.shows = True
            line.flags.append(argument)
        elif name == "--resolve":
            line.flags.append(argument)
        elif argument.startswith("-") and not argument.startswith("-="):
            known = [
                "--multirun",
                "--config-dir",
                "--cfg",
                "--help",
                "--hydra-help",
                "--allow",
                "--allow-query",
            ]
            raise UserError(f"unknown flag {argument}; {did_you_mean(name, known)}")
        else:
            typed.append(argument)
    if line.multirun and line.shows:
        raise UserError("-m starts runs, and --cfg, --info and --help only show: leave out one")
    if "--resolve" in line.flags and not line.shows:
        raise UserError("--resolve goes with --cfg: --cfg job --resolve")
    if {"--shell-completion", "-sc"} & set(line.flags):
        # install=bash and the like are no values of the config.
        line.overrides = typed
        return line
    line.overrides = _overrides(typed, line)
    chosen = {"task", "experiment", "resume"} & set(line.values)
    if needs_task and not chosen and not line.shows:
        tasks = choices("task", search_path(line.config_dir))
        raise UserError(f"name a task: task={' | task='.join(tasks)}")
    if line.shows and not chosen and "--hydra-help" not in line.flags:
        # Help has to compose something; the task itself is not shown.
        line.overrides.append("task=bitcount")
    return line


def _overrides(typed: list[str], line: CommandLine) -> list[str]:
    folders = search_path(line.config_dir)
    known_groups = groups(folders)
    problems, result = [], []
    parser = OverridesParser.create()
    for text in typed:
        # An agent of W&B writes a sweep's null as Python does; Hydra would take it for a word.
        name, _, value = text.partition("=")
        text = f"{name}=null" if value == "None" else text
        text = _without_plus(text, set(known_groups) - set(groups([conf_dir()])))
        if (path := typed_path(text, multirun=line.multirun)) is not None:
            value, text = path, f"{name}={for_hydra(path)}"
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            hint = str(error).strip().splitlines()[0]
            problems.append(f"'{text}' is not of the form key=value ({hint})")
            continue
        key = override.key_or_group
        if key in known_groups and "." not in key:
            if not override.is_delete():
                problems += _wrong_choices(override, choices(key, folders))
            result.append(text)
        elif override.is_delete() or override.is_add() or key.startswith(("hydra.", "hydra/")):
            result.append(text)
        else:
            result.append(f"++{text}")
        if override.is_sweep_override() and not line.multirun:
            problems.append(f"{text}: several values; add -m to run every combination")
        line.values[key] = "null" if value == "None" else value
    if problems:
        raise UserError(*problems)
    return result


def typed_values(line: CommandLine) -> dict[str, Any]:
    """The values that were typed for single keys, as Hydra reads them.

    Raises:
        UserError: For what adds to a config or deletes from it in another way.
    """
    values: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(line.overrides):
        if override.is_delete():
            raise UserError(f"{override.input_line}: give a value, key=value")
        values[override.key_or_group] = override.value()
    # Interpolations by themselves: a path in the run's own config may look like one.
    try:
        plain = OmegaConf.to_container(OmegaConf.create([*values.values()]), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    assert isinstance(plain, list)
    return dict(zip(values, plain, strict=True))


def changed(config: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A config with other values.

    Args:
        config: Plain data, left as it is.
        values: Values by dotted keys; a mapping is merged with the one that is there.
    """
    result = copy.deepcopy(config)
    for key, value in values.items():
        *above, last = key.split(".")
        node = result
        for name in above:
            if not isinstance(node.get(name), dict):
                node[name] = {}
            node = node[name]
        if isinstance(value, dict) and isinstance(node.get(last), dict):
            value = changed(node[last], value)
        node[last] = value
    return result


def _without_plus(text: str, groups_of_user: set[str]) -> str:
    """`+key=value` and `++key=value` as `key=value`, which adds or sets in any case.

    The signs stay where they mean something to Hydra: for its own keys, for a group that is put
    into another place, and for a group of the user's, which no default names.
    """
    bare = text.lstrip("+")
    key = bare.partition("=")[0]
    if "@" in key or key.startswith(("hydra.", "hydra/")) or key in groups_of_user:
        return text
    return bare


def _wrong_choices(override: Override, known: list[str]) -> list[str]:
    if isinstance(pattern := override.value(), Glob):
        text = str(override.input_line).partition("=")[2]
        return [] if pattern.filter(known) else [_no_choice(override, text, known)]
    values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
    problems: list[str] = []
    for value in values:
        try:
            require_one(override.key_or_group, value)
        except UserError as error:
            problems += error.problems
        for choice in value if isinstance(value, list) else [value]:
            name = "null" if choice is None else str(choice)
            if name not in known:
                problems.append(_no_choice(override, name, known))
    return problems


def _no_choice(override: Override, name: str, known: list[str]) -> str:
    group = override.key_or_group
    return f"{group}={name}: no such {group}; {did_you_mean(name, known)}"

"""Checking a composed config against the signatures of what it names: every error at once.

The result is complete: defaults that the config leaves to a class are written out, paths are
absolute, so that the run directory says what was run even when a default changes later.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from unrolled.errors import UserError, did_you_mean
from unrolled.run.experiment import HYDRA_KEYS
from unrolled.run.signatures import REQUIRED, Parameter, Signature, read_signature
from unrolled.run.targets import allowed_signature
from unrolled.run.typed_paths import user_path

EXPERIMENT = "unrolled.run.experiment.Experiment"
"""The signature of the whole config."""

_OF_THE_RUN = {"run_dir", "config", "monitor", "monitor_mode", "main_metric"}
SUPPLIED: dict[tuple[str, ...], set[str]] = {
    ("embedding",): {"schema"},
    ("model",): {"input_size"},
    # An encoder inside an encoder, which builds it.
    ("model", "*"): {"input_size"},
    ("readout",): {"input_size"},
    ("head",): {
        "input_size",
        "num_classes",
        "target_mean",
        "target_std",
        "class_counts",
        "train_targets",
        "item_embedding",
    },
    ("optimizer",): {"params"},
    ("scheduler",): {"optimizer"},
    ("task",): {"model", "optimizer", "scheduler", "regularizers"},
    ("trainer",): {"logger", "callbacks", "default_root_dir", "use_distributed_sampler"},
    ("logger", "*"): _OF_THE_RUN,
    ("callbacks", "*"): _OF_THE_RUN | {"mode"},
}
"""Arguments that the run supplies when it builds the part: no config sets them."""

PARTS = ("task", "data", "embedding", "model", "readout", "head", "optimizer", "trainer")
"""Keys of the config that have to name a class."""

Origin = Callable[[tuple[str, ...]], str]
"""Where a key was set: a file and line, or the command line."""


def check(
    config: dict[str, Any], origin: Origin = lambda key: "", allowed: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Complete a resolved config and check every key and value.

    Args:
        config: Plain data, interpolations resolved.
        origin: Says where a key was set, for the messages.
        allowed: Packages that a `_target_` may name beside those of `targets.allowed_packages`.

    Returns:
        The config with the defaults of the classes and absolute paths.

    Raises:
        UserError: With every problem that was found.
    """
    checker = _Checker(origin, allowed)
    complete = checker.node(config, read_signature(EXPERIMENT), ())
    for part in PARTS:
        if part in config and not (isinstance(config[part], dict) and "_target_" in config[part]):
            checker.problem((part,), f"nothing is chosen; name a choice, {part}=...")
    for group in ("logger", "callbacks", "regularizer"):
        parts = config.get(group)
        for name, part in parts.items() if isinstance(parts, dict) else ():
            if part is not None and not _has_target(part):
                checker.problem((group, name), "names no class; give it a _target_, or null")
    checker.problems += _schedule_problems(config)
    if checker.problems:
        raise UserError(*checker.problems)
    return complete


def _supplied(key: tuple[str, ...]) -> set[str]:
    return SUPPLIED.get(key if len(key) < 2 else (key[0], *"*" * (len(key) - 1)), set())


def with_defaults(
    node: Any, allowed: frozenset[str] = frozenset(), key: tuple[str, ...] = ()
) -> Any:
    """A config with the classes' defaults written out, so that `${optimizer.lr}` finds them.

    What is wrong with the config stays in it, for `check` to tell.

    Args:
        node: The config, or a part of it.
        allowed: Packages that a `_target_` may name beside those of `targets.allowed_packages`.
        key: The part's place in the config.
    """
    if isinstance(node, list):
        return [with_defaults(v, allowed, (*key, str(i))) for i, v in enumerate(node)]
    if not isinstance(node, dict):
        return node
    complete = {k: with_defaults(v, allowed, (*key, k)) for k, v in node.items()}
    target = node.get("_target_")
    if isinstance(target, str) and "${" not in target:
        try:
            parameters = allowed_signature(target, allowed).parameters
        except UserError:
            return complete
        for name, parameter in parameters.items():
            plain = isinstance(parameter.default, bool | int | float | str | tuple | list | dict)
            if plain and name not in _supplied(key):
                default = parameter.default
                complete.setdefault(name, list(default) if isinstance(default, tuple) else default)
    return complete


class _Checker:
    def __init__(self, origin: Origin, allowed: frozenset[str]) -> None:
        self.origin = origin
        self.allowed = allowed
        self.problems: list[str] = []

    def problem(self, key: tuple[str, ...], message: str) -> None:
        where = self.origin(key)
        self.problems.append(f"{where + ': ' if where else ''}{'.'.join(key)}: {message}")

    def node(
        self, values: dict[str, Any], signature: Signature, key: tuple[str, ...]
    ) -> dict[str, Any]:
        supplied = _supplied(key)
        # Loggers and callbacks are offered values of the run, but may have their own.
        offered = supplied if len(key) > 1 else set()
        known = {n: p for n, p in signature.parameters.items() if n not in supplied or n in offered}
        complete: dict[str, Any] = {}
        for name, value in values.items():
            here = (*key, str(name))
            if name in HYDRA_KEYS:
                complete[name] = value
            elif name in supplied and len(key) == 1:
                self.problem(here, "the run supplies this itself; it can't be set")
            elif name in known:
                complete[name] = self.value(value, known[name], here)
            elif not signature.accepts_any:
                at = "the config" if not key else signature.target.rpartition(".")[2]
                self.problem(here, f"{at} has no '{name}'; {did_you_mean(str(name), known)}")
            else:
                complete[name] = value
        for name, parameter in known.items():
            if name in complete or name in values or name in offered:
                continue
            if parameter.default is REQUIRED:
                target = signature.target.rpartition(".")[2]
                self.problem((*key, name), f"missing; {target} needs it ({parameter.text})")
            elif isinstance(parameter.default, bool | int | float | str):
                # Of the config itself, which has no `_target_`; the parts have theirs already.
                complete[name] = parameter.default
        return complete

    def value(self, value: Any, parameter: Parameter, key: tuple[str, ...]) -> Any:
        if _has_target(value):
            return self.nested(value, key)
        if value == "???":
            self.problem(key, f"missing; give it a value ({parameter.text})")
            return value
        try:
            _adapter(parameter.annotation).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            self.problem(key, f"{json.dumps(value)} does not fit: {_reason(error, parameter)}")
        if parameter.is_path and isinstance(value, str):
            return str(user_path(value).absolute())
        return value

    def nested(self, value: Any, key: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [self.nested(v, (*key, str(i))) for i, v in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if "_target_" not in value:
            return {k: self.nested(v, (*key, str(k))) for k, v in value.items()}
        target = value["_target_"]
        try:
            signature = allowed_signature(target, self.allowed)
        except UserError as error:
            self.problem((*key, "_target_"), str(error).removeprefix("_target_: "))
            return value
        return self.node(value, signature, key)


def _schedule_problems(config: dict[str, Any]) -> list[str]:
    """A schedule over the steps of a run needs a run that ends."""
    scheduler, trainer = config.get("scheduler"), config.get("trainer")
    if not isinstance(scheduler, dict) or not isinstance(trainer, dict):
        return []
    bound = next((k for k in ("total_steps", "T_max") if k in scheduler), None)
    if bound is None or trainer.get("max_epochs") not in (None, -1):
        return []
    steps = scheduler[bound]
    if isinstance(steps, int) and steps >= 1:
        return []
    return [
        f"scheduler.{bound}: {steps} steps; set trainer.max_steps or trainer.max_epochs, or "
        "scheduler=constant"
    ]


def _has_target(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(_has_target(v) for v in value.values())
    return isinstance(value, list) and any(_has_target(v) for v in value)


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:
        # An annotation pydantic can't make sense of says nothing about a plain value.
        return TypeAdapter(typing.Any)


def _reason(error: ValidationError, parameter: Parameter) -> str:
    problems = error.errors(include_url=False)
    if problems[0]["type"] == "json_invalid":
        # Half a surrogate pair, by which Python holds a byte that does not decode.
        return "it has a byte that is not UTF-8; use another name"
    ranges = [p for p in problems if p["type"].startswith(("greater", "less"))]
    if ranges:
        return ranges[0]["msg"].replace("Input should", "it must")
    if len(problems) == 1:
        return problems[0]["msg"].replace("Input should", "it must")
    return f"it must be {parameter.text}"

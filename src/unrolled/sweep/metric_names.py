"""Which metrics a task logs, read from the source of its class: without torch, in milliseconds.

A task's `metrics` returns a dictionary whose keys are written there: texts, f-strings with the
task's own arguments (`f"recall@{k}"`), the keys of the class it comes from. What can't be read so
is a wildcard: no name is refused that might be right.
"""

from __future__ import annotations

import ast
import textwrap
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import griffe

from unrolled.errors import UserError, did_you_mean
from unrolled.run.signatures import find_object, read_signature
from unrolled.sweep.sections import Metric
from unrolled.sweep.space import TUNING

ANY = "*"
_LOSS = "loss"
_GOALS: dict[str, Literal["minimize", "maximize"]] = {"min": "minimize", "max": "maximize"}


def metric_names(task: dict[str, Any]) -> list[str]:
    """The names of a task's metrics, without the split; with wildcards where they are computed.

    Args:
        task: The config of the task, with its defaults.
    """
    try:
        cls = find_object(task["_target_"])
        return [_LOSS, *_of_class(cls, task)]
    except (UserError, SyntaxError, OSError):
        return [ANY]


def require_logged(metric: str, config: dict[str, Any], where: str) -> None:
    """Refuse a metric that trials would not log, or that they may not be chosen by.

    Args:
        metric: With its split: `val/loss`, `hpo_val/loss`.
        config: The config of a trial.
        where: For the message.

    Raises:
        UserError: With the nearest name.
    """
    split, _, name = metric.rpartition("/")
    task = config["task"]
    names = metric_names(task)
    logged = ["train/loss", *(f"val/{n}" for n in names)]
    tuning = [f"{TUNING}/{n}" for n in names]
    if config["data"].get(TUNING):
        logged += tuning
    elif _is_among(metric, tuning):
        raise UserError(
            f"{where}: {metric}: data.{TUNING} sets no part of the validation set apart; add "
            f"data.{TUNING}: {{value: 0.5}} to the parameters, or take val/{name}"
        )
    if split == "test" or split.startswith("test"):
        raise UserError(
            f"{where}: {metric}: a sweep that looks at the test set has no test left; "
            f"{did_you_mean(f'val/{name}', logged)}"
        )
    if not _is_among(metric, logged):
        kind = str(task["_target_"]).rpartition(".")[2]
        shown = [known for known in logged if ANY not in known]
        raise UserError(f"{where}: {metric}: {kind} logs no such metric; "
                        f"{did_you_mean(metric, shown)}")  # fmt: skip


def require_goal(metric: Metric, task: dict[str, Any]) -> None:
    """Refuse to search for the worst.

    Args:
        metric: That of the sweep.
        task: The config of the task.

    Raises:
        UserError: When the task says of this metric that the other direction is better.
    """
    goal = _goal(metric.name.rpartition("/")[2], task)
    if goal is not None and goal != metric.goal:
        given = metric.goal if "goal" in metric.model_fields_set else f"{metric.goal}, the default"
        more = "more" if goal == "maximize" else "less"
        raise UserError(
            f"metric.goal: {given}: of {metric.name} {more} is better; write goal: {goal}"
        )


def own_metric(task: dict[str, Any]) -> Metric:
    """The metric that chooses a task's best checkpoint.

    Args:
        task: The config of the task, with its defaults.

    Raises:
        UserError: If the source of the class does not say it.
    """
    name, mode = _own(task) or (ANY, ANY)
    if ANY in name or mode not in _GOALS:
        kind = str(task["_target_"]).rpartition(".")[2]
        raise UserError(f"metric: missing, and {kind} does not say its own; name one")
    return Metric(name=name, goal=_GOALS[mode])


def _own(task: dict[str, Any]) -> tuple[str, str] | None:
    """The monitor of a task and its mode; None where they can't be read."""
    try:
        cls = find_object(task["_target_"])
        return _attribute(cls, "monitor", task), _attribute(cls, "mode", task)
    except (UserError, SyntaxError, OSError):
        return None


def _goal(name: str, task: dict[str, Any]) -> str | None:
    """What is better of a metric; None where the task does not say so."""
    if name == _LOSS:
        return "minimize"
    own = _own(task)
    if own is None or own[0].rpartition("/")[2] != name:
        return None
    return _GOALS.get(own[1])


def _is_among(metric: str, names: list[str]) -> bool:
    # Brackets are no wildcards of ours.
    return any(fnmatchcase(metric, known.replace("[", "[[]")) for known in names)


def _of_class(cls: griffe.Object, task: dict[str, Any]) -> list[str]:
    method, owner = _find(cls, "metrics")
    return _returned(method, owner, task) if isinstance(method, griffe.Function) else [ANY]


def _find(
    cls: griffe.Object, name: str
) -> tuple[griffe.Object | griffe.Alias | None, griffe.Object]:
    """A member of a class or of the classes it comes from, and which of them has it."""
    if (member := cls.members.get(name)) is not None and getattr(member, "value", "") is not None:
        return member, cls
    for base in getattr(cls, "bases", []):
        path = base if isinstance(base, str) else base.canonical_path
        try:
            parent = find_object(path)
        except UserError:
            continue
        if isinstance(parent, griffe.Class):
            return _find(parent, name)
    return None, cls


def _attribute(cls: griffe.Object, name: str, task: dict[str, Any]) -> str:
    """The text of a class attribute, or of one that `__init__` makes of the task's arguments."""
    member, owner = _find(cls, name)
    if member is None:
        return ANY
    arguments = {
        argument: ast.parse(f"self.{argument}", mode="eval").body
        for argument in read_signature(task["_target_"]).parameters
    }
    value = ast.parse(str(getattr(member, "value", None)), mode="eval").body
    return _text(value, arguments, owner, task)


def _returned(method: griffe.Function, cls: griffe.Object, task: dict[str, Any]) -> list[str]:
    path = method.filepath
    assert isinstance(path, Path)
    lines = path.read_text().splitlines()[(method.lineno or 1) - 1 : method.endlineno]
    tree = ast.parse(textwrap.dedent("\n".join(lines)))
    # `k = self.k`
    local: dict[str, ast.expr] = {}
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            local[node.targets[0].id] = node.value
    for node in ast.walk(tree):
        if not isinstance(node, ast.Return):
            continue
        if not isinstance(node.value, ast.Dict):
            return [ANY]
        for key, value in zip(node.value.keys, node.value.values, strict=True):
            if key is None:
                names += _of_parent(value, cls, task)
            else:
                names.append(_text(key, local, cls, task))
    return names


def _of_parent(value: ast.expr, cls: griffe.Object, task: dict[str, Any]) -> list[str]:
    """The keys of `**super().metrics()`."""
    if ast.unparse(value) != "super().metrics()" or not getattr(cls, "bases", []):
        return [ANY]
    base = cls.bases[0]  # type: ignore[attr-defined]
    parent = find_object(base if isinstance(base, str) else base.canonical_path)
    return _of_class(parent, task)


def _text(
    node: ast.expr, local: dict[str, ast.expr], cls: griffe.Object, task: dict[str, Any]
) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, local, cls, task) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, local, cls, task)
    if isinstance(node, ast.Name) and node.id in local:
        return _text(local[node.id], {}, cls, task)
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
        if node.attr in task:
            return str(task[node.attr])
        parameter = read_signature(task["_target_"]).parameters.get(node.attr)
        plain = parameter is not None and isinstance(parameter.default, int | float | str)
        return str(parameter.default) if parameter and plain else ANY
    if isinstance(node, ast.Name) and isinstance(cls.parent, griffe.Module):
        member = cls.parent.members.get(node.id)
        if member is not None and not member.is_alias and getattr(member, "value", None):
            try:
                return str(ast.literal_eval(str(member.value)))  # type: ignore[union-attr]
            except (ValueError, SyntaxError):
                return ANY
    return ANY

"""Values that a task or an experiment sets for a part, where another part was chosen then.

`task=bitcount` gives its LSTM 24 units, by `model: {hidden_size: 24}`. With `model=mine` this value
meets a class it was not written for. It then applies only if that class has such an argument and
the file of the choice does not set it: a shipped encoder has the task's 24 units, too, and a class
of the user's without `hidden_size` is not refused for it. What is typed is always checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from unrolled.errors import UserError
from unrolled.run.conf import PRIMARY, find_file, require_one
from unrolled.run.targets import allowed_signature

WRITTEN_FOR_CHOICES = ("task", "experiment", "debug")
"""The groups whose files choose parts and set values of them, in the order of composition."""


def without_others(
    config: dict[str, Any],
    choices: Mapping[str, object],
    typed: set[str],
    folders: list[Path],
    allowed: frozenset[str],
) -> dict[str, Any]:
    """A composed config without the values that were written for another choice.

    Args:
        config: Plain data, interpolations unresolved.
        choices: The chosen file of each group.
        typed: Keys of the command line.
        folders: Where the config files are.
        allowed: Packages that a `_target_` may name.
    """
    result = dict(config)
    for group, values in _written_for_others(choices, folders).items():
        if isinstance(result.get(group), dict):
            chosen = _content(group, choices[group], folders)
            part = _Part(typed, allowed)
            result[group] = part.without(result[group], values, chosen, group)
    return result


def _written_for_others(
    choices: Mapping[str, object], folders: list[Path]
) -> dict[str, dict[str, Any]]:
    """By group, what files set for another choice of it than the one that holds."""
    meant = _chosen_by(_content("", PRIMARY, folders))
    found: dict[str, dict[str, Any]] = {}
    for group in WRITTEN_FOR_CHOICES:
        content = _content(group, choices.get(group), folders)
        meant |= _chosen_by(content)
        for part, values in content.items():
            if part not in choices or part == group or not isinstance(values, dict):
                continue
            if meant.get(part) != choices[part]:
                found[part] = _merged(found.get(part, {}), values)
            elif part in found:
                # A later file knows the choice: its values stand.
                found[part] = _without_keys(found[part], values)
    return found


def require_single_choices(choices: Mapping[str, object], folders: list[Path]) -> None:
    """Refuse a file that chooses several parts where a run has one.

    Args:
        choices: The chosen file of each group; Hydra leaves out of it groups with several.
        folders: Where the config files are.

    Raises:
        UserError: With the file.
    """
    for group in ("", *WRITTEN_FOR_CHOICES):
        name = choices.get(group) if group else PRIMARY
        for part, chosen in _chosen_by(_content(group, name, folders)).items():
            if part not in choices:
                require_one(part, chosen, str(find_file(group, str(name), folders)))


def _chosen_by(content: dict[str, Any]) -> dict[str, object]:
    chosen: dict[str, object] = {}
    for entry in content.get("defaults", []):
        if isinstance(entry, dict):
            chosen |= {str(k).removeprefix("override ").lstrip("/"): v for k, v in entry.items()}
    return chosen


def _content(group: str, choice: object, folders: list[Path]) -> dict[str, Any]:
    path = find_file(group, str(choice), folders)
    content = None if path is None else yaml.safe_load(path.read_text())
    return content if isinstance(content, dict) else {}


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    result = dict(one)
    for key, value in other.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merged(below, value)
        result[key] = value
    return result


def _without_keys(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    result = {}
    for key, value in one.items():
        if key not in other:
            result[key] = value
        elif isinstance(value, dict) and isinstance(other[key], dict):
            result[key] = _without_keys(value, other[key])
    return result


class _Part:
    def __init__(self, typed: set[str], allowed: frozenset[str]) -> None:
        self.typed = typed
        self.allowed = allowed

    def without(
        self, node: dict[str, Any], others: dict[str, Any], chosen: dict[str, Any], key: str
    ) -> dict[str, Any]:
        """One node of the config without the values that were written for another choice."""
        result = dict(node)
        for name, value in others.items():
            here, own = f"{key}.{name}", chosen.get(name)
            if name not in result or here in self.typed:
                continue
            # With a class of its own it is one value, and all of it stands or goes.
            nested = isinstance(value, dict) and "_target_" not in value
            if nested and isinstance(result[name], dict):
                inner = own if isinstance(own, dict) else {}
                result[name] = self.without(result[name], value, inner, here)
            elif name in chosen:
                result[name] = own
            elif not self._takes(node, name):
                del result[name]
        return result

    def _takes(self, node: dict[str, Any], name: str) -> bool:
        """Whether the class of a node has an argument; it is taken to where that is not known."""
        try:
            signature = allowed_signature(node.get("_target_"), self.allowed)
        except UserError:
            return True
        return signature.accepts_any or name in signature.parameters

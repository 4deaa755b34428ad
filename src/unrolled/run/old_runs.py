"""Runs of earlier versions: classes that their config names may have other names by now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unrolled import __version__
from unrolled.errors import UserError
from unrolled.run.directory import RunDirectory
from unrolled.run.signatures import find_object
from unrolled.run.targets import own_targets

NOT_USED_AFTERWARDS = ("callbacks", "logger", "trainer")
"""Parts of a config that evaluation and prediction do not build."""


def require_known_classes(run: RunDirectory, leave_out: tuple[str, ...] = ()) -> None:
    """Check that the classes of this package which a run's config names are still there.

    Args:
        run: The run directory.
        leave_out: Parts of the config that are not built.

    Raises:
        UserError: When a class is not there; it says which version has it.
    """
    config = {name: part for name, part in run.config().items() if name not in leave_out}
    problems = []
    for key, target in _targets(config):
        if not target.startswith("unrolled."):
            continue
        try:
            find_object(target)
        except UserError:
            name = target.rpartition(".")[2]
            same = sorted(t for t in own_targets() if t.rpartition(".")[2] == name and t != target)
            now = f"; today's {' and '.join(same)} may be the same class" if same else ""
            problems.append(f"{key}: there is no {target} in this version{now}")
    if problems:
        raise UserError(
            f"{run.path}: the run was made by {_version(run)}, this is unrolled {__version__}, in "
            "which classes have other names or are gone; use that version for this run:",
            *problems,
        )


def _targets(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All `_target_` in a config, with their keys."""
    if isinstance(node, list):
        for index, part in enumerate(node):
            yield from _targets(part, f"{key}.{index}")
    elif isinstance(node, dict):
        for name, part in node.items():
            below = f"{key}.{name}".lstrip(".")
            if name == "_target_" and isinstance(part, str):
                yield below, part
            else:
                yield from _targets(part, below)


def _version(run: RunDirectory) -> str:
    environment = run.read_json("environment.json")
    version = environment.get("packages", {}).get("unrolled")
    if version is None:
        return "another version of unrolled"
    commit = environment.get("commit")
    return f"unrolled {version}" + (f" (commit {commit[:9]})" if commit else "")

"""The user's packages that are allowed: configs may name them, and they may lie in the working
folder.

Nothing else is imported from there. `cd received_run; unrolled predict .` would otherwise run the
`triton.py` that somebody has put into the run, since torch asks for a package of that name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import unrolled
from unrolled.errors import UserError

VARIABLE = "UNROLLED_ALLOW"
"""The packages of the user that may be named, separated by commas, for this process and those that
it starts. Not a key of the config, which is what is not trusted."""

QUERY = "UNROLLED_ALLOW_QUERY"
"""1 if the query of a run that came from elsewhere may be run; for this process and those that it
starts."""

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""The environment of a Python process that does not import from its working folder."""


def allow(packages: list[str], *, query: bool = False) -> None:
    """Trust more, in this process and in those that it starts.

    Args:
        packages: Further packages that configs may name.
        query: Whether the query of a run directory may be run.
    """
    if packages:
        os.environ[VARIABLE] = ",".join(sorted(allowed_packages().union(packages)))
    if query:
        os.environ[QUERY] = "1"


def allowed_packages() -> frozenset[str]:
    """The packages of the user that may be named."""
    return frozenset(p for p in os.environ.get(VARIABLE, "").split(",") if p)


def require_trusted_sources(run: Path, config: Mapping[str, Any]) -> None:
    """Refuse the query and the remote paths of a run directory, unless they are allowed.

    Whoever wrote the run wrote its query, which can read any file and reach any server.

    Args:
        run: The run directory.
        config: The parts of its config that are about to be used.

    Raises:
        UserError: When it has a query or a remote path.
    """
    found = [] if os.environ.get(QUERY) == "1" else list(_reaching_out(config.get("data"), "data"))
    if found:
        key, value = found[0]
        raise UserError(
            f"{run}: the run's own {key} would be run, which can read any file and reach any "
            f"server: {' '.join(value.split())[:200]!r}; where you trust it, say so with "
            "--allow-query"
        )


def _reaching_out(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and (key.endswith(".query") or "://" in value):
        yield key, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if not (name == "query" and part and value.get("path") and _is_replaced(part)):
                yield from _reaching_out(part, f"{key}.{name}")
    elif isinstance(value, list):
        for part in value:
            yield from _reaching_out(part, key)


def _is_replaced(query: str) -> bool:
    """Whether files stand for the result of a query, so that it is not run."""
    from unrolled.data.queries import reads_log  # DuckDB, which few commands need.

    return not reads_log(query)


def leave_out_working_folder() -> None:
    """Import nothing from the working folder, here and in all processes that are started.

    Python puts it on the path for `python -m`, and for an empty part of PYTHONPATH.
    """
    os.environ.update(SAFE_PATH)
    here, given = os.getcwd(), os.environ.get("PYTHONPATH")  # noqa: PTH109 - as Python compares.
    if given is not None:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, given.split(os.pathsep)))
    if here == str(Path(unrolled.__file__).parents[1]):
        return
    if not sys.flags.safe_path and sys.path[:1] in ([""], [here]):
        del sys.path[0]
    if given and "" in given.split(os.pathsep) and here in sys.path:
        sys.path.remove(here)


def import_allowed_packages() -> None:
    """Look for allowed packages in the working folder too, behind all that is installed."""
    if not any(isinstance(finder, _AllowedPackages) for finder in sys.meta_path):
        sys.meta_path.append(_AllowedPackages())


class _AllowedPackages:
    """Finds allowed packages in the working folder; Python finds their parts by itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The package, if it is allowed and lies there."""
        if path is not None or fullname not in {p.partition(".")[0] for p in allowed_packages()}:
            return None
        return PathFinder.find_spec(fullname, [str(Path.cwd())])

"""Which classes a config may name: nothing else is imported, and nothing else is called.

A config.yaml comes with a run directory, and whoever wrote that could name `os.system`. See
docs/decisions/0009-what-a-config-may-name.md.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from types import FunctionType
from typing import Any

from unrolled.errors import UserError
from unrolled.run.allowed import allowed_packages, import_allowed_packages
from unrolled.run.conf import conf_dir
from unrolled.run.signatures import Signature, read_signature

MODULES = (
    "unrolled.metrics",
    "unrolled.models",
    "unrolled.synthetic",
    "unrolled.tasks",
    "torch.nn",
    "torch.optim",
    "lightning.fabric.accelerators",
    "lightning.fabric.plugins",
    "lightning.fabric.strategies",
    "lightning.pytorch.accelerators",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "torchmetrics.aggregation",
    "torchmetrics.classification",
    "torchmetrics.regression",
    "torchmetrics.retrieval",
)
"""Modules whose classes may be named; none of them does more than to keep its arguments."""

_TARGET = re.compile(r"^\s*_target_:\s*([\w.]+)\s*(#.*)?$", re.MULTILINE)


@cache
def own_targets() -> frozenset[str]:
    """What the config files that come with this package name."""
    files = conf_dir().rglob("*.yaml")
    return frozenset(name for f in files for name, _ in _TARGET.findall(f.read_text()))


def require_allowed_name(target: Any, allowed: frozenset[str]) -> None:
    """Refuse a name before anything is imported, since an import runs a module's code.

    Args:
        target: The value of `_target_`.
        allowed: Packages of the user.

    Raises:
        UserError: When it is not of a module that may be named.
    """
    if not isinstance(target, str):
        raise UserError(f"{target!r} is not the name of a class")
    if target in own_targets() or _is_below(target, (*MODULES, *allowed)):
        return
    package = target.partition(".")[0]
    if package in ("unrolled", "torch", "lightning", "torchmetrics"):
        raise UserError(
            f"{target!r} may not be named: of {package} these may be, the classes below "
            f"{', '.join(m for m in MODULES if _is_below(m, (package,)))}, and what the config "
            "files that come with unrolled name"
        )
    raise UserError(
        f"{target!r} is not of a package that may be run: "
        f"{', '.join(sorted({'unrolled', 'torch', 'lightning', 'torchmetrics', *allowed}))}; "
        f"where you trust {package}, say so with --allow {package}"
    )


def require_allowed_object(target: str, name: str, kind: str, allowed: frozenset[str]) -> None:
    """Refuse what an allowed name leads to elsewhere: `unrolled.models.head.os.system`.

    Args:
        target: The value of `_target_`.
        name: Where the object was defined: its module's name and its own.
        kind: `class`, `function` or what else it is.
        allowed: Packages of the user.

    Raises:
        UserError: When it is no class of a module that may be named, and no function of the user's.
    """
    if target in own_targets() or (kind == "class" and _is_below(name, MODULES)):
        return
    if kind in ("class", "function") and _is_below(name, tuple(allowed)):
        return
    raise UserError(
        f"{target!r} is {name}, a {kind}; a config may name classes of the modules "
        f"that decision 9 lists ({', '.join(sorted({m.partition('.')[0] for m in MODULES}))}), and "
        "classes and functions of packages named by --allow"
    )


def modules_of(config: Any) -> set[str]:
    """The modules of all that a config names, but for packages of the user."""
    found: set[str] = set()
    if isinstance(config, list):
        found.update(*map(modules_of, config))
    if isinstance(config, dict):
        found.update(*map(modules_of, config.values()))
        with suppress(UserError):
            target = config.get("_target_", "")
            require_allowed_name(target, frozenset())
            found.add(target.rpartition(".")[0])
    return found


def allowed_signature(target: Any, allowed: frozenset[str] = frozenset()) -> Signature:
    """The signature of what `_target_` names, read from the source: nothing is imported.

    The name is looked at first: of a package that may not be named not even the source is read.

    Args:
        target: The value of `_target_`.
        allowed: Packages that may be named beside those of `allowed_packages`.

    Raises:
        UserError: When it may not be named, or there is no such thing.
    """
    allowed = allowed | allowed_packages()
    require_allowed_name(target, allowed)
    import_allowed_packages()
    signature = read_signature(target)
    require_allowed_object(target, signature.name, signature.kind, allowed)
    return signature


def find_target(target: Any) -> Any:
    """The class (or function) that `_target_` names, imported.

    Raises:
        UserError: When it may not be named, or there is no such thing.
    """
    from hydra.utils import get_object

    allowed = allowed_packages()
    require_allowed_name(target, allowed)
    import_allowed_packages()
    try:
        found = get_object(target)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{target} can't be imported: {reason}") from error
    # Only what Python itself says of a class or a function: an object could say anything.
    kind = "class" if isinstance(found, type) else "object"
    kind = "function" if isinstance(found, FunctionType) else kind
    name = type(found).__name__
    if kind != "object":
        name = f"{found.__module__}.{found.__qualname__}"
    require_allowed_object(target, name, kind, allowed)
    return found


def _is_below(name: str, modules: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)

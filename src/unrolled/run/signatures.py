"""Signatures of classes and functions, read from their source without importing them.

Importing torch to learn that `hiden_size` is a misspelling would take seconds; reading one file
with griffe takes milliseconds.
"""

from __future__ import annotations

import ast
import importlib.util
import typing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import griffe

from unrolled.errors import UserError, did_you_mean
from unrolled.run.annotations import read_annotation

NOT_FOLLOWED = ("torch", "lightning", "lightning_utilities", "torchmetrics", "typing")
"""Packages whose classes' further keywords are not those of their bases."""

REQUIRED = object()
"""The default of a parameter that has none."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a class.

    Args:
        name: The argument's name.
        text: Its type as the source writes it; empty where it says nothing.
        annotation: The type a value is checked against; `Any` where the source says nothing.
        default: The value, where the source gives a literal; else `...`; or `REQUIRED`.
        is_path: Whether the value is a path of the file system.
    """

    name: str
    text: str
    annotation: Any
    default: Any
    is_path: bool


@dataclass(frozen=True)
class Signature:
    """The arguments of a class or a function.

    Args:
        target: Its dotted name.
        parameters: By name.
        accepts_any: Whether it takes any further keyword.
        name: Where it is defined, which is elsewhere when a module only imports it.
        kind: `class` or `function`.
    """

    target: str
    parameters: dict[str, Parameter]
    accepts_any: bool
    name: str = ""
    kind: str = "class"


def read_signature(target: str) -> Signature:
    """The signature of what `_target_: target` names.

    Raises:
        UserError: When there is no such module or name.
    """
    found = find_object(target)
    signature = _signature_of(found, target)
    return replace(signature, name=found.path, kind=found.kind.value)


def _signature_of(found: griffe.Object, target: str) -> Signature:
    if isinstance(found, griffe.Function):
        return _from_function(found, target, skip_self=False)
    if not isinstance(found, griffe.Class):
        raise UserError(f"_target_: {target} is neither a class nor a function")
    if isinstance(init := found.members.get("__init__"), griffe.Function):
        own = _from_function(init, target, skip_self=True)
        return _with_options_of_base(found, own) if own.accepts_any else own
    if any("dataclass" in str(d.value) for d in found.decorators):
        return Signature(target, _dataclass_fields(found), accepts_any=False)
    for base in found.bases:
        name = base if isinstance(base, str) else base.canonical_path
        try:
            return _signature_of(find_object(name), target)
        except UserError:
            continue
    return Signature(target, {}, accepts_any=not found.bases)


def _with_options_of_base(cls: griffe.Class, own: Signature) -> Signature:
    """The signature of a class whose `**options` go to its base.

    The class may give some of the base's arguments itself, so none of them is required, and their
    defaults are left to the base.
    """
    for base in cls.bases:
        name = base if isinstance(base, str) else base.canonical_path
        if name.partition(".")[0] in NOT_FOLLOWED:
            continue
        try:
            inherited = _signature_of(find_object(name), own.target)
        except UserError:
            continue
        further = {
            name: replace(parameter, default=...)
            for name, parameter in inherited.parameters.items()
            if name not in own.parameters
        }
        return replace(
            own, parameters={**own.parameters, **further}, accepts_any=inherited.accepts_any
        )
    return own


def _from_function(function: griffe.Function, target: str, *, skip_self: bool) -> Signature:
    parameters: dict[str, Parameter] = {}
    accepts_any = False
    for p in list(function.parameters)[1 if skip_self else 0 :]:
        if p.kind is griffe.ParameterKind.var_keyword:
            accepts_any = True
        elif p.kind is not griffe.ParameterKind.var_positional:
            parameters[p.name] = _parameter(p.name, p.annotation, p.default)
    return Signature(target, parameters, accepts_any)


def _dataclass_fields(cls: griffe.Class) -> dict[str, Parameter]:
    fields: dict[str, Parameter] = {}
    for base in reversed(cls.bases):
        parent = find_object(base if isinstance(base, str) else base.canonical_path)
        if isinstance(parent, griffe.Class):
            fields.update(_dataclass_fields(parent))
    for name, member in cls.members.items():
        # A property looks like an attribute to griffe.
        if not isinstance(member, griffe.Attribute) or "property" in member.labels:
            continue
        if member.annotation is not None:
            fields[name] = _parameter(name, member.annotation, member.value)
    return fields


def _parameter(name: str, annotation: Any, default: Any) -> Parameter:
    text = "" if annotation is None else str(annotation)
    return Parameter(
        name,
        text,
        read_annotation(annotation, _definition),
        _literal(default),
        is_path=text in ("Path", "Path | None"),
    )


def _definition(name: str) -> griffe.Object | None:
    try:
        return find_object(name)
    except UserError:
        return None


def _literal(default: Any) -> Any:
    if default is None:
        return REQUIRED
    try:
        return ast.literal_eval(str(default))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ...


@cache
def _visit(name: str) -> griffe.Module | None:
    """The module `name`, parsed; None when there is no such file.

    Raises:
        UserError: When the file is no Python.
    """
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    path = None if spec.origin is None else Path(spec.origin)
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    for part in rest:
        path, folders = _below(folders, part)
    if path is None or not path.is_file():
        return None
    try:
        return griffe.visit(name, path, path.read_text())
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: can't be read as Python: {error}") from error


def _below(folders: list[Path], name: str) -> tuple[Path | None, list[Path]]:
    """The file of a module in a package's folders, and its own folders, as Python finds them."""
    for folder in folders:
        if (init := folder / name / "__init__.py").is_file():
            return init, [init.parent]
        if (file := folder / f"{name}.py").is_file():
            return file, []
    # Without an __init__.py it is a namespace, which has no file.
    return None, [inner for folder in folders if (inner := folder / name).is_dir()]


def find_object(target: str, depth: int = 0) -> griffe.Object:
    """What a dotted name leads to, parsed.

    Raises:
        UserError: When there is no such module or name.
    """
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = _visit(".".join(parts[:cut]))
        if module is None:
            continue
        found: Any = module
        for part in parts[cut:]:
            if part not in found.members:
                raise UserError(
                    f"_target_: {target}: {found.path} has no '{part}'; "
                    f"{did_you_mean(part, _classes(found))}"
                )
            found = found.members[part]
            if found.is_alias:
                if depth > 20:
                    raise UserError(f"_target_: {target} refers to itself")
                found = find_object(found.target_path, depth + 1)
        return typing.cast(griffe.Object, found)
    raise UserError(f"_target_: {target}: there is no module '{'.'.join(parts[:-1])}'")


def _classes(module: Any) -> list[str]:
    own = [n for n, m in module.members.items() if not m.is_alias and (m.is_class or m.is_function)]
    # A package's `__init__` has nothing but imports.
    return own or [n for n, m in module.members.items() if m.is_alias]

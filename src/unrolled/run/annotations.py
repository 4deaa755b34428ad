"""Types read from annotations in a source file, by looking at their syntax alone.

An annotation can be any expression, and evaluating one runs its code. So only the forms that name
types are read: names, `|`, subscripts, `Literal`, and `Annotated` with pydantic's `Field`. Any
other form says nothing about a value.
"""

from __future__ import annotations

import ast
import collections.abc
import functools
import operator
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import griffe
import pydantic

Definition: TypeAlias = Callable[[str], "griffe.Object | None"]
"""Finds the parsed definition of a dotted name."""

_BUILTINS = (bool, int, float, str, list, dict, tuple, set, frozenset)
_CONTAINERS = ("Sequence", "Mapping", "Iterable", "Callable", "Collection", "Set")
_TYPING = ("Any", "Optional", "Union", "List", "Dict", "Tuple", *_CONTAINERS)
_PYDANTIC = (
    "PositiveInt", "NonNegativeInt", "NegativeInt", "NonPositiveInt",
    "PositiveFloat", "NonNegativeFloat", "NegativeFloat", "NonPositiveFloat", "FiniteFloat",
)  # fmt: skip
_KNOWN: dict[str, Any] = {
    **{kind.__name__: kind for kind in _BUILTINS},
    **{f"typing.{name}": getattr(typing, name) for name in _TYPING},
    **{f"collections.abc.{name}": getattr(collections.abc, name) for name in _CONTAINERS},
    **{f"pydantic.{name}": getattr(pydantic, name) for name in _PYDANTIC},
    "pathlib.Path": Path,
}
_LITERAL = ("typing.Literal", "typing_extensions.Literal")
_ANNOTATED = ("typing.Annotated", "typing_extensions.Annotated")

_PARSED_IN_VAIN = ("torch", "lightning", "lightning_utilities", "typing")
"""Packages whose aliases of plain types begin with an underscore and whose classes do not; to parse
them for certainty would take longer than all the rest."""

MOST_NESTED = 20
"""Annotations inside annotations, aliases included, that are followed."""


class _AnObject:
    """An instance of some class: no plain value of a config file is one."""


class _UnreadableError(Exception):
    """An expression that is not one of the forms that name a type."""


def read_annotation(annotation: Any, definition: Definition) -> Any:
    """The type that an annotation names; `Any` where it is missing or not of a form that is read.

    Args:
        annotation: griffe's expression, or the text of a constant.
        definition: Finds the definition of a name that another module defines.
    """
    if annotation is None:
        return Any
    try:
        return _type_of(annotation, definition, MOST_NESTED)
    except (_UnreadableError, TypeError, ValueError):
        return Any


def _type_of(node: Any, definition: Definition, depth: int) -> Any:
    if depth == 0:
        raise _UnreadableError
    inner = functools.partial(_type_of, definition=definition, depth=depth - 1)
    match node:
        case str():
            if (value := _constant(node)) is None or value is ...:
                return value
            raise _UnreadableError
        case griffe.ExprName() | griffe.ExprAttribute():
            return _named(node.canonical_path, definition, depth)
        case griffe.ExprBinOp(operator="|"):
            return typing.Union[inner(node.left), inner(node.right)]  # noqa: UP007
        case griffe.ExprList():
            return [inner(element) for element in node.elements]
        case griffe.ExprSubscript():
            return _subscript(node, inner)
    raise _UnreadableError


def _subscript(node: griffe.ExprSubscript, inner: Callable[[Any], Any]) -> Any:
    parts = node.slice.elements if isinstance(node.slice, griffe.ExprTuple) else [node.slice]
    name = node.canonical_path
    if name in _LITERAL:
        return typing.Literal[tuple(_constant(part) for part in parts)]
    if name in _ANNOTATED:
        bounds = [_field(part) for part in parts[1:]]
        return functools.reduce(
            lambda kind, field: typing.Annotated[kind, field], bounds, inner(parts[0])
        )
    arguments = tuple(inner(part) for part in parts)
    return operator.getitem(inner(node.left), arguments if len(parts) > 1 else arguments[0])


def _named(path: str, definition: Definition, depth: int) -> Any:
    if path in _KNOWN:
        return _KNOWN[path]
    name = path.rpartition(".")[2]
    if path.partition(".")[0] in _PARSED_IN_VAIN:
        return Any if name.startswith("_") or name.isupper() else _AnObject
    found = definition(path)
    if isinstance(found, griffe.Class):
        return _AnObject
    # `Probability`, a type that a module of ours defines: read its definition too.
    if isinstance(found, griffe.Attribute) and found.value is not None:
        return _type_of(found.value, definition, depth - 1)
    raise _UnreadableError


def _field(node: Any) -> Any:
    """Pydantic's `Field(...)` with constant arguments, which bounds a value."""
    if not isinstance(node, griffe.ExprCall) or node.canonical_path != "pydantic.Field":
        raise _UnreadableError
    keywords = {}
    for argument in node.arguments:
        if not isinstance(argument, griffe.ExprKeyword) or argument.name not in _BOUNDS:
            raise _UnreadableError
        keywords[argument.name] = _constant(argument.value)
    return pydantic.Field(**keywords)


_BOUNDS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length")


def _constant(node: Any) -> Any:
    try:
        return ast.literal_eval(str(node))
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise _UnreadableError from error

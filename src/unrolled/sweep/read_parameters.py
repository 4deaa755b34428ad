"""Parameters of a sweep file: from their fields to distributions, and what is wrong in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from unrolled.errors import UserError, did_you_mean
from unrolled.sweep.continuous import (
    Beta,
    InvLogUniform,
    InvLogUniformValues,
    LogNormal,
    LogUniform,
    LogUniformValues,
    Normal,
    QBeta,
    QLogNormal,
    QLogUniform,
    QLogUniformValues,
    QNormal,
    QUniform,
    Uniform,
)  # fmt: skip
from unrolled.sweep.distributions import (
    Categorical,
    CategoricalWithProbabilities,
    Constant,
    IntUniform,
    Parameter,
)

KINDS: dict[str, type[Parameter]] = {
    kind.model_fields["distribution"].annotation.__args__[0]: kind  # type: ignore[union-attr]
    for kind in (
        Constant, Categorical, CategoricalWithProbabilities, IntUniform, Uniform, QUniform,
        LogUniform, QLogUniform, InvLogUniform, LogUniformValues, QLogUniformValues,
        InvLogUniformValues, Normal, QNormal, LogNormal, QLogNormal, Beta, QBeta,
    )
}  # fmt: skip
"""The classes by what `distribution` says."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def inferred(fields: dict[str, Any]) -> str | None:
    """The distribution that W&B takes where none is named; None where nothing says which."""
    if "values" in fields:
        return "categorical_w_probabilities" if "probabilities" in fields else "categorical"
    if "value" in fields:
        return "constant"
    if "min" in fields and "max" in fields:
        whole = all(type(fields[end]) is int for end in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    return None


def read_parameters(node: Any, above: str = "") -> tuple[dict[str, Parameter], list[str]]:
    """Parameters by their dotted keys, nested ones too, and what is wrong with them."""
    where = f"parameters.{above}.parameters" if above else "parameters"
    if not isinstance(node, dict) or not node:
        return {}, [f"{where}: names are wanted here, each with its values"]
    found: dict[str, Parameter] = {}
    problems: list[str] = []
    for name, fields in node.items():
        key = f"{above}.{name}" if above else str(name)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            problems.append(
                f"{where}: {name!r}: W&B takes names of letters, digits and _ . - that begin with "
                "a letter or _"
            )
            continue
        if isinstance(fields, dict) and "parameters" in fields:
            if set(fields) != {"parameters"}:
                further = next(k for k in fields if k != "parameters")
                problems.append(f"parameters.{key}: '{further}' beside nested parameters")
            inner, wrong = read_parameters(fields["parameters"], key)
            problems += wrong
        else:
            inner = {}
            try:
                inner = {key: read_parameter(fields)}
            except UserError as error:
                problems += [f"parameters.{key}: {problem}" for problem in error.problems]
        problems += [f"parameters.{k}: given twice" for k in inner if k in found]
        found |= inner
    return found, problems


def read_parameter(fields: Any) -> Parameter:
    """One parameter from its fields.

    Raises:
        UserError: With every problem, without the parameter's name.
    """
    if not isinstance(fields, dict):
        raise UserError(f"{fields!r}: write value: {fields}, or values: [...], or min: and max:")
    if (strange := _no_plain_value(fields)) is not None:
        raise UserError(
            f"{strange}: a {type(strange).__name__} in YAML; write it in quotation marks: "
            f"'{strange}'"
        )
    name = fields.get("distribution", inferred(fields))
    if name is None and "distribution" not in fields:
        names = {k for kind in KINDS.values() for k in _fields(kind)} | {"parameters"}
        unknown = [k for k in fields if k not in names]
        hint = f"'{unknown[0]}': {did_you_mean(str(unknown[0]), names)}" if unknown else (
            "it needs value, values, min and max, or a distribution"
        )  # fmt: skip
        raise UserError(hint)
    if not isinstance(name, str) or name not in KINDS:
        raise UserError(f"distribution: {name}: no such one; {did_you_mean(str(name), KINDS)}")
    kind = KINDS[name]
    try:
        return kind.model_validate({**fields, "distribution": name})
    except ValidationError as error:
        known = _fields(kind)
        raise UserError(*explain(error, lambda above: known)) from None


def _fields(kind: type[Parameter]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()]


def explain(error: ValidationError, known: Callable[[str], Iterable[str]]) -> list[str]:
    """Pydantic's problems in words, each with its key.

    Args:
        error: What it found.
        known: The valid names below a key.
    """
    texts = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"])
        kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
        value = problem.get("input")
        if kind == "extra_forbidden":
            above, _, last = where.rpartition(".")
            texts.append(f"'{where}' is no key of W&B's; {did_you_mean(last, known(above))}")
        elif kind == "missing":
            texts.append(f"'{where}' is missing")
        elif isinstance(value, str) and is_number(value):
            texts.append(f"{where}: {text_for_number(value)}")
        elif kind == "literal_error":
            expected = str(problem.get("ctx", {}).get("expected", "")).replace("'", "")
            names = expected.replace(" or ", ", ").split(", ")
            texts.append(f"{where}: {value}: {did_you_mean(str(value), names)}")
        else:
            shown = f"{where}: {value!r}: " if where else ""
            texts.append(f"{shown}{message.replace('Input should', 'it must')}")
    return texts


def _no_plain_value(node: Any) -> Any:
    """The first value within that is none of JSON's: YAML makes dates of what looks like one."""
    if isinstance(node, dict):
        node = [*node, *node.values()]
    if isinstance(node, list):
        found = (_no_plain_value(inner) for inner in node)
        return next((inner for inner in found if inner is not None), None)
    return None if node is None or isinstance(node, bool | int | float | str) else node


def text_for_number(text: str) -> str:
    """What to tell where YAML has read a text that was meant as a number.

    YAML 1.1, which PyYAML reads, has no numbers like 1e-3 and 1.0e3.
    """
    mantissa, e, exponent = text.lower().partition("e")
    if not e:
        return f"{text} is a text; write it without quotation marks"
    pointed = mantissa if "." in mantissa else f"{mantissa}.0"
    signed = exponent if exponent[:1] in ("+", "-") else f"+{exponent}"
    return f"{text} is a text in YAML; write {pointed}e{signed}"


def is_number(text: str) -> bool:
    """Whether a text can be read as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True

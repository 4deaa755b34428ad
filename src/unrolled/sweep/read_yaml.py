"""YAML as it is meant: a key that is written twice and a number that is a text in YAML are told.

PyYAML's safe loader takes the last of two equal keys, and reads `1e-3`, without a point, as a text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from unrolled.errors import UserError
from unrolled.sweep.read_parameters import text_for_number

_TEXT_LIKE_A_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def read_yaml(path: Path) -> Any:
    """What a file says.

    Raises:
        UserError: When it is no YAML, or says something else than it seems to; with the line.
    """
    try:
        return yaml.load(path.read_text(), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = "" if isinstance(error, _NotMeant) else "not valid YAML: "
        raise UserError(f"{path}{line}: {what}{getattr(error, 'problem', error)}") from error


class _NotMeant(yaml.MarkedYAMLError):
    """Valid, and not what its writer meant."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            known = first.setdefault((key.tag, key.value), key)
            if known is not key:
                line = known.start_mark.line + 1
                raise _NotMeant(
                    problem=f"'{key.value}' is there already, in line {line}; which one counts?",
                    problem_mark=key.start_mark,
                )
        return super().construct_mapping(node, deep)

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        text = super().construct_yaml_str(node)
        # A text in quotation marks is meant to be one.
        if node.style is None and _TEXT_LIKE_A_NUMBER.fullmatch(text):
            raise _NotMeant(
                problem=f"{text_for_number(text)}, or '{text}'",
                problem_mark=node.start_mark,
            )
        return text


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)

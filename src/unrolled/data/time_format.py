"""Times that are written in a format of their own, rewritten in SQL as ISO 8601.

A format is that of Python's `strptime`, with the directives of `_DIRECTIVES`. One regular
expression takes a text apart and puts it together again, in every engine alike; a text that does
not fit stays as it is, and so is no time unless it is ISO 8601 already.
"""

from __future__ import annotations

import re

_DIRECTIVES = {
    "Y": "[0-9]{4}", "y": "[0-9]{2}", "m": "[0-9]{1,2}", "b": "[0-9]{2}", "B": "[0-9]{2}",
    "d": "[0-9]{1,2}", "H": "[0-9]{1,2}", "M": "[0-9]{1,2}", "S": "[0-9]{1,2}", "f": "[0-9]{1,9}",
    "z": " ?UTC|Z|[-+][0-9]{2}:?[0-9]{2}",
}  # fmt: skip
"""What each directive stands for; the names of months are replaced by their numbers first."""

_SHORT = {"F": "%Y-%m-%d", "T": "%H:%M:%S"}
_WIDTHS = {"Y": 4, "y": 2, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2}
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
           "October", "November", "December")  # fmt: skip

CALENDAR_DIGITS = {
    "%Y%m%d": (19000101, 20991231),
    "%Y%m%d%H": (1900010100, 2099123123),
    "%Y%m%d%H%M": (190001010000, 209912312359),
    "%Y%m%d%H%M%S": (19000101000000, 20991231235959),
    "%Y%m%d%H%M%S%f": (19000101000000000, 20991231235959999),
}
"""Formats that are recognised in whole numbers, each with its least and largest number."""


def format_problem(form: str) -> str | None:
    """Why a format can't be read; None where it can."""
    found = [letter for letter in re.findall(r"%(.?)", form) if letter not in _SHORT]
    unknown = [letter for letter in found if letter not in _DIRECTIVES]
    if unknown:
        known = " ".join(f"%{letter}" for letter in [*_DIRECTIVES, *_SHORT])
        return f"the directive %{unknown[0]} is not known; there are {known}"
    letters = [part[1] for part in _parts(form) if part[0] == "%"]
    if len([letter for letter in letters if letter in "Yy"]) != 1:
        return "it needs a year, once: %Y or %y"
    if len(set(letters)) != len(letters) or len(set(letters) & set("mbB")) > 1:
        return "it has a directive twice"
    if ("H" in letters and "d" not in letters) or (
        "d" in letters and not set(letters) & set("mbB")
    ):
        return "hours need %d, and days %m, %b or %B"
    if ("M" in letters and "H" not in letters) or ("S" in letters and "M" not in letters):
        return "minutes need %H, and seconds %M"
    if "f" in letters and "S" not in letters:
        return "fractions of a second need %S"
    if "z" in letters and "M" not in letters:
        return "a zone needs %H and %M"
    return None


def iso_text(text: str, form: str, *, digits: bool) -> str:
    """SQL for the text of a time in ISO 8601.

    Args:
        text: SQL for the text as it was written.
        form: A format without a `format_problem`.
        digits: Whether the text was a number, which has lost its first zeros.
    """
    parts = _parts(form)
    letters = [part[1] for part in parts if part[0] == "%"]
    if digits and len(letters) == len(parts) and all(letter in _WIDTHS for letter in letters):
        text = f"lpad({text}, {sum(_WIDTHS[letter] for letter in letters)}, '0')"
    for letter in {"b", "B"} & set(letters):
        for number, name in enumerate(_MONTHS, 1):
            text = f"replace({text}, '{name if letter == 'B' else name[:3]}', '{number:02}')"
    pattern = ""
    for before, part, after in zip(["", *parts], parts, [*parts[1:], ""], strict=False):
        if part[0] != "%":
            pattern += re.escape(part).replace("\\ ", " ")
            continue
        sign = _DIRECTIVES[part[1]]
        # Where nothing stands between two numbers, only their widths tell them apart.
        if part[1] in _WIDTHS and (before[:1] == "%" or after[:1] == "%"):
            sign = sign.replace("{1,2}", "{2}")
        pattern += f"({sign})"
    at = {letter: f"\\{index}" for index, letter in enumerate(letters, 1)}
    year = at["Y"] if "Y" in at else f"y{at['y']}"
    month = next((at[letter] for letter in "mbB" if letter in at), "01")
    built = f"{year}-{month}-{at.get('d', '01')}"
    if "H" in at:
        built += f" {at['H']}:{at.get('M', '00')}"
    if "S" in at:
        built += f":{at['S']}" + (f".{at['f']}" if "f" in at else "")
    built += at.get("z", "")
    whole = rf"^{pattern}\z"
    found = f"regexp_replace({text}, {_quoted(whole)}, {_quoted(built)})"
    if "y" in at:
        # As in POSIX: 69 to 99 are years of 1900.
        found = f"regexp_replace({found}, '^y([0-5][0-9]|6[0-8])-', '20\\1-')"
        found = f"regexp_replace({found}, '^y', '19')"
    return found


def _parts(form: str) -> list[str]:
    """Directives and the text between them."""
    for letter, long in _SHORT.items():
        form = form.replace(f"%{letter}", long)
    return [part for part in re.split("(%.)", form) if part]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"

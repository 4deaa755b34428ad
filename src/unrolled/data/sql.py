"""Names in SQL."""

from __future__ import annotations


class Identifier(str):
    """A column's name, quoted for SQL when formatted."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return '"' + str(self).replace('"', '""') + '"'


def feature(name: str) -> Identifier:
    """The column of the feature `name` in the table `events`, apart from the table's own."""
    return Identifier(f"feature {name}")

"""Types of arguments that several models share, with the range that a config is checked for."""

from typing import Annotated

from pydantic import Field

Probability = Annotated[float, Field(ge=0, lt=1)]
"""A share of units that dropout may set to zero."""

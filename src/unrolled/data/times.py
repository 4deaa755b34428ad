"""Times as a reader writes them."""

from __future__ import annotations

import numpy as np


def as_date(seconds: float) -> str:
    """Seconds since 1970 as date and time in UTC, also far outside what `datetime` holds."""
    return str(np.datetime64(int(seconds // 1), "s")).replace("T", " ")

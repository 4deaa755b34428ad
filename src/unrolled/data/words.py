"""Values of categorical columns as text, the same whatever engine has read them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def as_text(values: pa.ChunkedArray) -> pa.Array:
    """Values as the text that a vocabulary holds: 3, also where a file has 3.0; true; 2026-01-01.

    The same text whatever engine has read the values, and whatever type a file holds them in.
    """
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_floating(array.type):
        numbers = array.to_numpy(zero_copy_only=False).astype(np.float64)
        whole = np.isfinite(numbers) & (numbers == np.trunc(numbers)) & (np.abs(numbers) < 2**53)
        integers = pa.array(np.where(whole, numbers, 0).astype(np.int64)).cast(pa.large_string())
        array = pc.if_else(pa.array(whole), integers, array.cast(pa.large_string()))
    return cast("Any", array).cast(pa.large_string())

"""``allocate``: an array on a mapping of its own."""

from __future__ import annotations

import math
import mmap
import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike, NDArray

from writewatch.errors import UsageError


def allocate(
    shape: SupportsIndex | Sequence[SupportsIndex], dtype: DTypeLike = "f8", *, huge_pages: bool | None = None
) -> NDArray[Any]:
    """A zeroed C-ordered array that shares no page with anything else, so that every report is about it alone.

    Private anonymous memory, page-aligned, given back when the array and all its views are gone. Pages that are
    never written cost nothing.

    Args:
        shape: Lengths of the axes.
        dtype: Plain numbers or records; no Python objects.
        huge_pages: True asks for transparent huge pages (MADV_HUGEPAGE), False forbids them, None leaves it to
            the system. Tracked memory gives them up where it is written.

    Raises:
        UsageError: The dtype holds Python objects.
        ValueError: A negative length.
        OSError: ENOMEM.
    """
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise UsageError(f"dtype {kind} holds Python objects, which live elsewhere; allocate plain numbers")
    axes = shape if isinstance(shape, Sequence) else (shape,)
    lengths = tuple(operator.index(length) for length in axes)
    if any(length < 0 for length in lengths):
        raise ValueError(f"negative length in shape {lengths}")
    n_bytes = math.prod(lengths) * kind.itemsize
    if not n_bytes:
        return np.zeros(lengths, kind)
    mapping = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge_pages is not None and hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE if huge_pages else mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(mapping, kind, math.prod(lengths)).reshape(lengths)

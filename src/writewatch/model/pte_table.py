"""One page of PTEs, kept small while it can be.

Few tables are full, and many that are full hold one value: the marker. Either kind is a value for the rest and a
dictionary of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

_FEW: Final = 24

Entries: TypeAlias = NDArray[np.uint64]


class PteTable:
    """``n_entries`` entries, all empty at first."""

    __slots__ = ("_few", "_many", "_rest", "n_entries")

    def __init__(self, n_entries: int) -> None:
        self.n_entries = n_entries
        self._rest = 0
        self._few: dict[int, int] = {}
        self._many: Entries | None = None

    def get(self, index: int) -> int:
        """One entry."""
        return self._few.get(index, self._rest) if self._many is None else int(self._many[index])

    def set(self, index: int, pte: int) -> None:
        """Change one entry."""
        if self._many is not None:
            self._many[index] = pte
        elif pte == self._rest:
            self._few.pop(index, None)
        else:
            self._few[index] = pte
            if len(self._few) > _FEW:
                self._spread()

    def entries(self) -> Entries:
        """(n_entries,) all entries; to be read only."""
        if self._many is not None:
            return self._many
        entries = np.full(self.n_entries, self._rest, np.uint64)
        for index, pte in self._few.items():
            entries[index] = pte
        return entries

    def _spread(self) -> Entries:
        if self._many is None:
            self._many = self.entries()
            self._few = {}
        return self._many

    def put(self, indices: NDArray[np.int64], ptes: Entries) -> None:
        """Change several entries: both arrays have the shape (n,)."""
        if self._many is not None or len(indices) + len(self._few) > _FEW:
            self._spread()[indices] = ptes
            return
        for index, pte in zip(indices.tolist(), ptes.tolist(), strict=True):
            self.set(index, pte)

    def transform(self, low: int, high: int, change: Callable[[Entries], Entries]) -> None:
        """Replace the entries ``[low, high)`` by a function of each: it is given and returns an array (n,)."""
        if self._many is None and (low, high) == (0, self.n_entries):
            old = np.array([self._rest, *self._few.values()], np.uint64)
            self._rest, *new = change(old).tolist()
            self._few = {i: pte for i, pte in zip(self._few, new, strict=True) if pte != self._rest}
            return
        changed = change(self.entries()[low:high])
        self.put(np.arange(low, high), changed)

    def used(self, low: int, high: int) -> list[tuple[int, int]]:
        """(index, entry) of the entries in ``[low, high)`` that are not empty, ascending."""
        if self._many is None and not self._rest:
            return sorted((i, pte) for i, pte in self._few.items() if low <= i < high)
        part = self.entries()[low:high]
        indices = np.flatnonzero(part)
        return list(zip((indices + low).tolist(), part[indices].tolist(), strict=True))

    def is_empty(self) -> bool:
        """Whether every entry is empty."""
        return not (self._few or self._rest) if self._many is None else not self._many.any()

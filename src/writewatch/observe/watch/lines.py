"""``Lines``: which mapping of this epoch is which of the epochs before.

A heap grows, neighbours merge, a library's data is split by mprotect: to a person it stays one thing. A
mapping is the same **line** as an earlier one of its name when their addresses overlap or touch. Two mappings
of an epoch never share a line, except that more than ``MOST_LINES`` are not told apart: what appears after
them is on one line, ``EVERYTHING_ELSE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.watch.ages import Integers
from writewatch.tracker.process.writes import Mapping

#: Pages that lie in no mapping: what was there was unmapped in the same epoch.
NOWHERE: Final = 0
#: Mappings beyond ``MOST_LINES``.
EVERYTHING_ELSE: Final = 1
MOST_LINES: Final = 4000
_HIGHEST: Final = (1 << 63) - 1


class Lines:
    """Lines of one address space, numbered as they appear; the first two are for what has none of its own."""

    def __init__(self) -> None:
        self.mappings: list[Mapping] = []  # as last seen, by line
        self._ids: dict[str, int] = {}  # of names
        self._starting_at: dict[tuple[str, int], int] = {}
        self._latest: Sequence[Mapping] = ()
        self._found = np.zeros(0, np.int64)
        self._names = np.zeros(MOST_LINES, np.int64)
        self._bounds = np.zeros((MOST_LINES, 2), np.int64)
        for name in ("(unmapped)", "(more mappings)"):
            self._new(Mapping(0, 0, name, "special", ()))

    def __len__(self) -> int:
        return len(self.mappings)

    def match(self, mappings: Sequence[Mapping]) -> Integers:
        """The line of each mapping: (n,).

        Args:
            mappings: All of an epoch, ascending.
        """
        if mappings != self._latest:  # which is rare: most epochs map nothing
            free = np.ones(MOST_LINES, np.bool_)
            free[:2] = False
            self._found = np.array([self._line_of(mapping, free) for mapping in mappings], np.int64)
            self._latest = mappings
        return self._found

    def _line_of(self, mapping: Mapping, free: NDArray[np.bool_]) -> int:
        line = self._starting_at.get((mapping.name, mapping.start), -1)
        if line < 0 or not free[line] or self.mappings[line].start != mapping.start:
            line = self._overlapping(mapping, free)
        if line < 0:
            return self._new(mapping)
        free[line] = False
        self._set(line, mapping)
        return line

    def _overlapping(self, mapping: Mapping, free: NDArray[np.bool_]) -> int:
        """The line of this name that has most in common with it, or touches it; -1 when none does."""
        name = self._ids.get(mapping.name, -1)
        known = len(self)
        candidates = np.flatnonzero(free[:known] & (self._names[:known] == name))
        start, end = _bounds_of(mapping)
        common = np.minimum(self._bounds[candidates, 1], end) - np.maximum(self._bounds[candidates, 0], start)
        # 0 where they touch, less where something lies between them.
        if not len(common) or common.max() < 0:
            return -1
        return int(candidates[common.argmax()])

    def _new(self, mapping: Mapping) -> int:
        line = len(self)
        if line == MOST_LINES:
            return EVERYTHING_ELSE
        self.mappings.append(mapping)
        self._names[line] = self._ids.setdefault(mapping.name, len(self._ids))
        self._set(line, mapping)
        return line

    def _set(self, line: int, mapping: Mapping) -> None:
        self.mappings[line] = mapping
        self._starting_at[mapping.name, mapping.start] = line
        self._bounds[line] = _bounds_of(mapping)


def _bounds_of(mapping: Mapping) -> tuple[int, int]:
    # [vsyscall] lies where no int64 reaches; nobody writes there.
    return min(mapping.start, _HIGHEST), min(mapping.end, _HIGHEST)

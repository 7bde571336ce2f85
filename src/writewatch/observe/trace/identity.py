"""``Identities``: which mapping of this epoch is which of the one before, and what changed among them.

A mapping keeps its id while a mapping of its name and kind begins or ends at the same address: a heap that
grows, a stack that grows downwards. One that vanished never comes back; an id is never used twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from writewatch.tracker.process.writes import Mapping

_Key: TypeAlias = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """A mapping with its id and when it was first seen."""

    id: int
    mapping: Mapping
    from_ns: int


class Identities:
    """The mappings of one program.

    Args:
        ids: Where new ids come from; all the programs of a trace share it.
    """

    def __init__(self, ids: Iterator[int] | None = None) -> None:
        self._ids = itertools.count() if ids is None else ids
        self.known: tuple[Known, ...] = ()

    def update(self, mappings: Sequence[Mapping], from_ns: int) -> tuple[list[Known], list[Known]]:
        """Take the mappings of an epoch.

        Args:
            mappings: All, ascending.
            from_ns: When the epoch began.

        Returns:
            Those that are new or have another extent, and those that vanished.
        """
        by_start = {_key(one.mapping.start, one.mapping): one for one in self.known}
        by_end = {_key(one.mapping.end, one.mapping): one for one in self.known}
        left = {one.id: one for one in self.known}
        now, changed = [], []
        for mapping in mappings:
            old = by_start.get(_key(mapping.start, mapping)) or by_end.get(_key(mapping.end, mapping))
            if old is None or left.pop(old.id, None) is None:
                old = None
            one = (
                Known(next(self._ids), mapping, from_ns)
                if old is None
                else Known(old.id, mapping, old.from_ns)
            )
            now.append(one)
            if old is None or (old.mapping.start, old.mapping.end) != (mapping.start, mapping.end):
                changed.append(one)
        self.known = tuple(now)
        return changed, list(left.values())

    def starts_and_ends(self, page_size: int) -> NDArray[np.int64]:
        """(n, 2) the mappings' extents in pages, in their order."""
        extents = [(one.mapping.start // page_size, one.mapping.end // page_size) for one in self.known]
        return np.array(extents, np.int64).reshape(-1, 2)


def _key(addr: int, mapping: Mapping) -> _Key:
    return addr, mapping.name, mapping.kind

"""Where things are: each mapping of a script has a GiB of its own, at the same address on every side.

Names are known when the script is read, so operations carry plain addresses. A place is written ``a`` (all of a
mapping), ``a+3`` (one page) or ``a+2..5`` (pages 2, 3 and 4: half-open, like every range here).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from writewatch.observe.simulate.line import Line

BASE: Final = 0x1000_0000_0000
SLOT_BYTES: Final = 1 << 30
#: The tables are drawn page by page.
MOST_BYTES: Final = 64 << 20

_PLACE: Final = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:\+(?P<first>\d+)(?:\.\.(?P<end>\d+))?)?")


class Place(NamedTuple):
    """A range of memory, or of a file: ``[start, end)`` in bytes."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """In bytes."""
        return self.end - self.start


class Places:
    """The names of mappings and files, and where they are.

    Attributes:
        page_size: In bytes.
    """

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self._named: dict[str, Place] = {}
        self._slots: list[str] = []

    @property
    def arena(self) -> Place:
        """Every mapping lies inside."""
        return Place(BASE, BASE + len(self._slots) * SLOT_BYTES)

    def __contains__(self, name: str) -> bool:
        return name in self._named

    def new_slot(self, name: str, length: int) -> int:
        """Give a mapping an address."""
        start = BASE + len(self._slots) * SLOT_BYTES
        self._slots.append(name)
        self.put(name, start, length)
        return start

    def put(self, name: str, start: int, length: int) -> None:
        """Name a range."""
        self._named[name] = Place(start, start + length)

    def take(self, line: Line, what: str = "a place such as a, a+3 or a+2..5") -> Place:
        """The range that the next word of a line means."""
        word = line.take(what)
        found = _PLACE.fullmatch(word)
        if found is None:
            line.refuse(f'"{word}" is no place; write it like a, a+3 or a+2..5')
        if found["name"] not in self._named:
            line.refuse_word(found["name"], "name of memory or of a file", self._named)
        whole = self._named[found["name"]]
        if found["first"] is None:
            return whole
        first = int(found["first"])
        end = int(found["end"] or first + 1)
        if not first < end <= SLOT_BYTES // self.page_size:
            line.refuse(f'"{word}" holds no page; the end of a range is one past its last page, as in a+2..5')
        return Place(whole.start + first * self.page_size, whole.start + end * self.page_size)

    def spell(self, start: int, end: int | None = None) -> str:
        """An address, or a range of them, in the script's words."""
        slot, offset = divmod(start - BASE, SLOT_BYTES)
        if not 0 <= slot < len(self._slots):
            return f"{start:#x}" if end is None else f"[{start:#x}, {end:#x})"
        name = self._slots[slot]
        if end is None or end == start + self.page_size:
            return f"{name}+{self._pages(offset)}"
        if Place(start, end) == self._named[name]:
            return name
        return f"{name}+{offset // self.page_size}..{(end - BASE - slot * SLOT_BYTES) // self.page_size}"

    def _pages(self, offset: int) -> str:
        pages, rest = divmod(offset, self.page_size)
        return f"{pages}:{rest:#x}" if rest else str(pages)

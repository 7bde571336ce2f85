"""The swap area: content that left memory, and the swap cache that remembers where it came back to.

A slot is shared like a page: each entry that names it is one reference. While a slot has further references after
a page came back, its frame stays in the swap cache, so that the next reader maps the same frame and a
writer has to copy it.
"""

from __future__ import annotations

from dataclasses import dataclass

from writewatch.model.frames import ANON, Content, Frames


@dataclass(slots=True)
class _Slot:
    content: Content
    refs: int = 1
    pfn: int | None = None


class Swap:
    """All swap of a machine.

    Args:
        frames: Memory that content comes back to.
        n_pages: Size; 0 is a machine without swap.
    """

    def __init__(self, frames: Frames, n_pages: int) -> None:
        self._frames = frames
        self.n_pages = n_pages
        self._slots: dict[int, _Slot] = {}
        self._next = 1

    @property
    def has_room(self) -> bool:
        """Whether another page fits."""
        return len(self._slots) < self.n_pages

    def store(self, content: Content) -> int:
        """Keep content; returns its slot, with one reference. Preconditions: there is room."""
        slot = self._next
        self._next += 1
        self._slots[slot] = _Slot(content)
        return slot

    def duplicate(self, slot: int) -> None:
        """One more entry names a slot."""
        self._slots[slot].refs += 1

    def free(self, slot: int) -> None:
        """One entry fewer names a slot; the last one frees it and its place in the swap cache."""
        entry = self._slots[slot]
        entry.refs -= 1
        if entry.refs:
            return
        if entry.pfn is not None:
            self._frames.put(entry.pfn)
        del self._slots[slot]

    def content(self, slot: int) -> Content:
        """What a slot holds."""
        return self._slots[slot].content

    def read(self, slot: int) -> int:
        """The frame with a slot's content, held by the swap cache until the slot is freed."""
        # Compare mm/swap_state.c:read_swap_cache_async().
        entry = self._slots[slot]
        if entry.pfn is None:
            entry.pfn = self._frames.allocate(ANON)
            self._frames.exclusive[entry.pfn] = False
            self._frames.fill(entry.pfn, entry.content)
            self._frames.get(entry.pfn)
        return entry.pfn

    def cached(self) -> list[int]:
        """Frames that the swap cache holds."""
        return [slot.pfn for slot in self._slots.values() if slot.pfn is not None]

    def resize(self, n_pages: int) -> None:
        """Turn swap on, off, or to another size; what is swapped out stays readable."""
        self.n_pages = n_pages

"""Physical memory: page frames, who refers to them, and their content.

A frame is a number. Its content is one fill byte, except for at most one odd byte, until a store needs
more: only then does the frame own ``page_size`` bytes. So a terabyte that was touched here and there fits.

``compound`` marks the frames of a large anonymous folio, however it is mapped; ``folio.py`` ends that. ``lazy`` marks
what MADV_FREE gave up: dropped when it is reclaimed, if it is still clean. ``dirty`` marks what was ever written: a
page of shmem that was not is a hole again when it is reclaimed. ``exclusive`` is PageAnonExclusive: a fork takes
it from both sides, and the end of one does not give it back; only a write does.

Invariant: ``refs`` = mappings + 1 if a page cache holds the frame + 1 if the swap cache does. A frame whose
``refs`` reach 0 is freed, poisoned, and never read again; reading a free frame is an error of the model.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

FREE: Final = 0
ANON: Final = 1  # folio_test_anon()
CACHE: Final = 2  # in the page cache of a file, shmem included
RESERVED: Final = 3  # the zero pages, which nobody counts

_POISON: Final = 0xAA
_NO_ODD: Final = -1
_COLUMNS: Final = (
    *("kind", "mapcount", "refs", "compound", "lazy", "dirty", "exclusive"),
    *("_fill", "_odd_at", "_odd"),
)

#: What a frame holds: fill byte, offset of the odd byte or -1, the odd byte, all bytes or None.
Content: TypeAlias = tuple[int, int, int, bytes | None]
BLANK: Final[Content] = (0, _NO_ODD, 0, None)


class Frames:
    """All frames of a machine. Grows without bound: the model never runs out of memory."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self._n_used = 0
        self._free: list[int] = []
        self._bytes: dict[int, bytearray] = {}
        self.kind = np.zeros(64, np.uint8)
        self.mapcount = np.zeros(64, np.int32)
        self.refs = np.zeros(64, np.int32)
        self.compound = np.zeros(64, np.bool_)
        self.lazy = np.zeros(64, np.bool_)
        self.dirty = np.zeros(64, np.bool_)
        self.exclusive = np.zeros(64, np.bool_)
        self._fill = np.zeros(64, np.uint8)
        self._odd_at = np.full(64, _NO_ODD, np.int32)
        self._odd = np.zeros(64, np.uint8)

    # ---- allocation ------------------------------------------------------------------------------

    def allocate(self, kind: int) -> int:
        """A zeroed frame without references."""
        pfn = self._free.pop() if self._free else self._extend(1)
        self._reset(slice(pfn, pfn + 1), kind)
        return pfn

    def allocate_run(self, kind: int, n_frames: int) -> int:
        """The first of that many consecutive zeroed frames, aligned: what a huge page is made of."""
        gap = -self._n_used % n_frames
        if gap:
            skipped = self._extend(gap)
            self.kind[skipped : skipped + gap] = FREE
            self._free.extend(range(skipped, skipped + gap))
        first = self._extend(n_frames)
        self._reset(slice(first, first + n_frames), kind)
        self.compound[first : first + n_frames] = kind == ANON
        return first

    def allocate_many(self, kind: int, n_frames: int) -> NDArray[np.int64]:
        """(n_frames,) zeroed frames, anywhere."""
        first = self._extend(n_frames)
        self._reset(slice(first, first + n_frames), kind)
        return np.arange(first, first + n_frames)

    def _extend(self, n_frames: int) -> int:
        first = self._n_used
        self._n_used += n_frames
        if self._n_used > len(self.kind):
            self._grow(max(self._n_used, 2 * len(self.kind)))
        return first

    def _grow(self, size: int) -> None:
        for name in _COLUMNS:
            old = getattr(self, name)
            new = np.zeros(size, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def _reset(self, frames: slice, kind: int) -> None:
        self.kind[frames] = kind
        self.mapcount[frames] = 0
        self.refs[frames] = 0
        self.compound[frames] = False
        self.lazy[frames] = False
        self.dirty[frames] = False
        self.exclusive[frames] = kind == ANON
        self._fill[frames] = 0
        self._odd_at[frames] = _NO_ODD

    # ---- references ------------------------------------------------------------------------------

    def get(self, pfn: int, n_frames: int = 1) -> None:
        """One more holder of consecutive frames that is not a mapping."""
        self.refs[pfn : pfn + n_frames] += 1

    def put(self, pfn: int, n_frames: int = 1) -> None:
        """The opposite of ``get``; the last holder frees."""
        self.refs[pfn : pfn + n_frames] -= 1
        self._free_unused(pfn, n_frames)

    def map(self, pfn: int, n_frames: int = 1) -> None:
        """One more page-table entry for consecutive frames."""
        self.mapcount[pfn : pfn + n_frames] += 1
        self.refs[pfn : pfn + n_frames] += 1

    def unmap(self, pfn: int, n_frames: int = 1) -> None:
        """The opposite of ``map``; the last holder frees."""
        self.mapcount[pfn : pfn + n_frames] -= 1
        self.refs[pfn : pfn + n_frames] -= 1
        self._free_unused(pfn, n_frames)

    def _free_unused(self, pfn: int, n_frames: int) -> None:
        for frame in range(pfn, pfn + n_frames):
            if not self.refs[frame] and self.kind[frame] != RESERVED:
                self._release(frame)

    def _release(self, pfn: int) -> None:
        assert self.kind[pfn] != FREE, f"frame {pfn:#x} freed twice"
        self.kind[pfn] = FREE
        self.compound[pfn] = False
        self.exclusive[pfn] = False
        self._bytes.pop(pfn, None)
        self._fill[pfn] = _POISON
        self._odd_at[pfn] = _NO_ODD
        self._free.append(pfn)

    def is_alone(self, pfn: int) -> bool:
        """Whether one mapping is all that refers to an anonymous frame, so that a write may reuse it."""
        # Compare mm/memory.c:wp_can_reuse_anon_folio().
        return bool(self.kind[pfn] == ANON and self.refs[pfn] == 1)

    @property
    def n_used(self) -> int:
        """Frames that have ever been used: numbers below this one."""
        return self._n_used

    @property
    def n_allocated(self) -> int:
        """Frames that are not free, the zero pages included."""
        return self._n_used - len(self._free)

    # ---- content ---------------------------------------------------------------------------------

    def read(self, pfn: int, offset: int, length: int) -> bytes:
        """Bytes of a frame."""
        assert self.kind[pfn] != FREE, f"frame {pfn:#x} read after it was freed"
        stored = self._bytes.get(pfn)
        if stored is not None:
            return bytes(stored[offset : offset + length])
        data = bytearray([int(self._fill[pfn])]) * length
        odd_at = int(self._odd_at[pfn]) - offset
        if 0 <= odd_at < length and self._odd_at[pfn] != _NO_ODD:
            data[odd_at] = int(self._odd[pfn])
        return bytes(data)

    def write(self, pfn: int, offset: int, data: bytes) -> None:
        """Change bytes of a frame."""
        assert self.kind[pfn] != FREE, f"frame {pfn:#x} written after it was freed"
        self.dirty[pfn] = True
        stored = self._bytes.get(pfn)
        if stored is not None:
            stored[offset : offset + len(data)] = data
        elif len(data) == self.page_size and data == data[:1] * len(data):
            self._fill[pfn] = data[0]
            self._odd_at[pfn] = _NO_ODD
        elif len(data) == 1 and self._odd_at[pfn] in {_NO_ODD, offset}:
            self._odd_at[pfn] = offset
            self._odd[pfn] = data[0]
        elif data:
            self._expand(pfn)[offset : offset + len(data)] = data

    def write_many(self, pfns: NDArray[np.int64], offsets: NDArray[np.int64], byte: int) -> None:
        """Store one byte into each of different frames: the two arrays have the shape (n,)."""
        self.dirty[pfns] = True
        simple = (self._odd_at[pfns] == _NO_ODD) | (self._odd_at[pfns] == offsets)
        if self._bytes:
            simple &= ~np.isin(pfns, np.fromiter(self._bytes, np.int64, len(self._bytes)))
        self._odd_at[pfns[simple]] = offsets[simple]
        self._odd[pfns[simple]] = byte
        for pfn, offset in zip(pfns[~simple].tolist(), offsets[~simple].tolist(), strict=True):
            self.write(pfn, offset, bytes([byte]))

    def _expand(self, pfn: int) -> bytearray:
        expanded = bytearray(self.read(pfn, 0, self.page_size))
        self._bytes[pfn] = expanded
        return expanded

    def is_zero(self, pfn: int) -> bool:
        """Whether a frame holds nothing but zeros."""
        stored = self._bytes.get(pfn)
        if stored is not None:
            return not any(stored)
        return not self._fill[pfn] and (self._odd_at[pfn] == _NO_ODD or not self._odd[pfn])

    def content(self, pfn: int) -> Content:
        """All of a frame, to be put into another one or into swap."""
        assert self.kind[pfn] != FREE, f"frame {pfn:#x} read after it was freed"
        stored = self._bytes.get(pfn)
        odd = int(self._odd_at[pfn]), int(self._odd[pfn])
        return (int(self._fill[pfn]), *odd, None if stored is None else bytes(stored))

    def fill(self, pfn: int, content: Content) -> None:
        """Replace all of a frame."""
        self.dirty[pfn] = True
        self._fill[pfn], self._odd_at[pfn], self._odd[pfn], stored = content
        if stored is None:
            self._bytes.pop(pfn, None)
        else:
            self._bytes[pfn] = bytearray(stored)

"""The truth about what changed, found without any help from the kernel: a copy, and a full comparison.

Also the two ways in which programs usually find out, so that a run can say what they would have cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

PAGES_AT_ONCE = 4096  # what is compared in one NumPy expression; the intermediate result stays in the cache

Bytes = NDArray[np.uint8]


class Witness:
    """A copy of one table as it was at the end of the last epoch.

    Args:
        table: C-contiguous, on whole pages.
        page_size: In bytes.
    """

    def __init__(self, table: NDArray[np.float32], page_size: int) -> None:
        self.now = _as_words(table, page_size)
        self.before = self.now.copy()

    def changed_pages(self) -> NDArray[np.int64]:
        """Return the index of each page whose bytes differ from the copy, ascending: the full comparison."""
        differs = np.empty(len(self.now), dtype=bool)
        for at in range(0, len(self.now), PAGES_AT_ONCE):
            pages = slice(at, at + PAGES_AT_ONCE)
            differs[pages] = (self.now[pages] != self.before[pages]).any(axis=1)
        return np.flatnonzero(differs)

    def follow(self, pages: NDArray[np.int64]) -> None:
        """Bring the copy up to date; ``pages`` is what the comparison found, never what a tracker said."""
        self.before[pages] = self.now[pages]

    def hash_pages(self, digest: Callable[[Bytes], object]) -> None:
        """Hash every page, as a program does that keeps a digest of each."""
        for page in self.now.view(np.uint8):
            digest(page)


def fastest_digest() -> tuple[str, Callable[[Bytes], object]]:
    """Return the name of the digest and the function: XXH3 where it is installed, else BLAKE2b."""
    if find_spec("xxhash"):
        return "XXH3-128", import_module("xxhash").xxh3_128_digest
    return "BLAKE2b", lambda page: hashlib.blake2b(page, digest_size=16).digest()


def _as_words(table: NDArray[np.float32], page_size: int) -> NDArray[np.uint64]:
    """The same memory as (n_pages, words of a page). Bits are compared, so that a NaN equals itself."""
    return table.reshape(-1).view(np.uint64).reshape(-1, page_size // 8)

"""What a scan reported, from the kernel's words to page runs, worked out when somebody asks.

Truth: ``struct page_region`` in ``include/uapi/linux/fs.h``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.pagemap import PAGE_REGION
from writewatch.pages import Runs


def page_runs(words: NDArray[np.uint64], page_size: int) -> Runs:
    """Page runs of (n, 3) words of regions. Two may touch, where the kernel's walk restarted between them."""
    shift = page_size.bit_length() - 1  # a shift: NumPy divides integers ten times slower
    return words[:, :2].view(np.int64) >> shift


class WrittenPages:
    """What ``Pagemap.written`` found, kept as the kernel wrote it until somebody looks.

    A scan that protects leaves the processor with an empty TLB, and every page of code or data that is touched next is
    looked up anew: NumPy alone costs more then than the system call of a small scan. So nothing is worked out
    before it is asked for.
    """

    __slots__ = ("_parts", "_runs", "_shift")

    def __init__(self, parts: list[bytes], shift: int) -> None:
        self._parts = parts
        self._shift = shift
        self._runs: Runs | None = None

    def regions(self) -> NDArray[np.void] | None:
        """(n,) ``PAGE_REGION``, a fresh array; None where it is not as the kernel wrote it: two touch.

        That is where its walk was restarted. Also None after ``runs()``, from which regions are made as well.
        """
        parts = self._parts  # before the question: another thread may be in runs()
        if self._runs is not None:
            return None
        words = np.concatenate([np.frombuffer(part, np.uint64) for part in parts]).reshape(-1, 3)
        if (words[1:, 0] == words[:-1, 1]).any():
            return None
        return words.view(PAGE_REGION).reshape(-1)

    def runs(self) -> Runs:
        """(n, 2) page runs, ascending and disjoint; the array is read-only."""
        parts = self._parts  # before the question: another thread may be here as well
        if self._runs is None:
            words = np.frombuffer(b"".join(parts), np.int64).reshape(-1, 3)
            runs = words[:, :2] >> self._shift
            runs.flags.writeable = False
            self._runs = runs
            self._parts = []
        return self._runs

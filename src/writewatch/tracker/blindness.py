"""What no page table of ours records, found where it can be found, so that nobody is blind without knowing.

Page tables are per process and are consulted by the processor alone. So three kinds of writers leave no trace: a
device, or io_uring, that writes to memory **pinned** before; a store through **another mapping** of the same file or
shared memory, in this process or another; and whatever changes the **file** underneath (write(2), truncate, a
punched hole, another process). Nothing here guesses: it warns, once a tracker, and says what is not seen.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.errors import UnseenWritesWarning
from writewatch.pages import AddrRange

#: Looking at VmPin may take one part in so many of the time: it is put off for that many times what it took, which
#: is less than a millisecond.
_LOOK_SHARE = 32
_ANONYMOUS_SHARED = "/dev/zero (deleted)"  # how the kernel names MAP_SHARED | MAP_ANONYMOUS


class BlindSpots:
    """The watch that a tracker keeps for writers that it cannot see.

    Args:
        calls: What to ask.
        spans: The tracked buffers, in bytes.
        named_bytes: Size of the ranges that the caller has named as pinned: that much may be pinned unwarned.
        clock: Nanoseconds, monotonic.
    """

    def __init__(
        self,
        calls: KernelCalls,
        spans: Sequence[AddrRange],
        named_bytes: int,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._calls = calls
        self._allowed_pinned = named_bytes
        self._status = self._open_status()
        self._clock = clock
        self._look_again = 0  # ns; not before
        self._told_pinned = False
        self._forked = False
        vmas = _vmas_under(calls, spans)
        self._files = sorted({vma.name for vma in vmas if vma.is_file and vma.name != _ANONYMOUS_SHARED})
        self._is_shared_with_children = any(vma.name == _ANONYMOUS_SHARED for vma in vmas)

    def warn_of_files(self, stacklevel: int) -> None:
        """Warn when tracked memory belongs to a file or to named shared memory."""
        if self._files:
            warnings.warn(
                f"{', '.join(self._files)}: only stores of this process through the tracked mapping are seen; writes "
                "by other processes, through other mappings, by write(2), truncate or a punched hole are not",
                UnseenWritesWarning,
                stacklevel=stacklevel + 1,
            )

    def after_fork(self) -> None:
        """A child now shares what was mapped shared; the next ``check`` says so."""
        self._forked = self._is_shared_with_children

    def check(self, stacklevel: int) -> None:
        """Warn of what has turned up since: pinned memory, children that share memory."""
        if self._forked:
            self._forked = self._is_shared_with_children = False
            warnings.warn(
                "this process forked, and the child shares tracked memory (MAP_SHARED): what the child writes to it "
                "is not seen here",
                UnseenWritesWarning,
                stacklevel=stacklevel + 1,
            )
        if not self._told_pinned and (pinned := self._look_at_pinned()) > self._allowed_pinned:
            self._told_pinned = True
            warnings.warn(
                f"{pinned} bytes of this process are pinned for a device or io_uring (VmPin): what is written to them "
                "by DMA is not seen; name such ranges with track(…, pinned=…) to have them always reported",
                UnseenWritesWarning,
                stacklevel=stacklevel + 1,
            )

    def close(self) -> None:
        """Give back the descriptor. A second call does nothing."""
        status, self._status = self._status, -1
        if status >= 0:
            self._calls.close(status)

    def _open_status(self) -> int:
        try:
            return self._calls.open_status(None)
        except OSError:
            return -1  # no /proc here

    def _look_at_pinned(self) -> int:
        """Bytes pinned now; 0 when it was looked at so recently that looking again would cost too much."""
        started = self._clock()
        if self._status < 0 or started < self._look_again:
            return 0
        pinned = self._calls.read_pinned(self._status)
        now = self._clock()
        self._look_again = now + _LOOK_SHARE * (now - started)
        return pinned


def _vmas_under(calls: KernelCalls, spans: Sequence[AddrRange]) -> list[Vma]:
    """VMAs that hold a byte of the spans; none where there is no /proc."""
    try:
        vmas = calls.vmas(None)
    except OSError:
        return []
    ordered = sorted(spans)
    found, at = [], 0
    for vma in vmas:
        while at < len(ordered) and ordered[at].end <= vma.start:
            at += 1
        if at < len(ordered) and ordered[at].start < vma.end:
            found.append(vma)
    return found

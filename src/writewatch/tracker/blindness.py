"""What no page table of ours records, found where it can be found, so that nobody is blind without knowing.

Page tables are per process and are consulted by the processor alone. So three kinds of writers leave no trace: a
device, or io_uring, that writes to pages that it holds **pinned**; a store through **another mapping** of the same
file or shared memory, in this process or another; and whatever changes the **file** underneath (write(2), truncate,
a punched hole, another process). Nothing here guesses: it warns, once a tracker, and says what is not seen.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.errors import UnseenWritesWarning
from writewatch.kernel.maps import parse_maps
from writewatch.kernel.owning import is_identity
from writewatch.pages import AddrRange

#: VmPin is looked at this often at most, in nanoseconds: a program that collects every millisecond does not pay for
#: it each time, and hears of memory that stays pinned soon enough.
_LOOK_EVERY: Final = 20_000_000
#: Descriptors are looked through this often at most, in nanoseconds.
_DESCRIPTORS_EVERY: Final = 1_000_000_000

_ANONYMOUS_SHARED: Final = "/dev/zero (deleted)"  # how the kernel names MAP_SHARED | MAP_ANONYMOUS

_PINNED: Final = (
    "{} bytes of this process are pinned for a device or io_uring (VmPin): what is written to them by DMA is not "
    "seen; name such ranges with track(…, pinned=…) to have them always reported"
)
_DIRECT: Final = (
    "descriptor {} can read into memory past the processor ({}): a read into tracked memory that is still under way "
    "during a collect is not seen; let it end first, or name its buffers with track(…, pinned=…)"
)
_FORKED: Final = (
    "a child shares tracked memory (MAP_SHARED) since this process forked: what it writes there "
    "is not seen here"
)
_FILES: Final = (
    "{}: only stores of this process through the tracked mapping are seen; writes by other processes, through other "
    "mappings or by write(2) are not, nor, but in shared memory, is content that is dropped (MADV_DONTNEED, "
    "MADV_REMOVE, truncate, a punched hole)"
)
_RELATIVES: Final = (
    "process {} shares tracked memory (MAP_SHARED): what it writes there is not seen here; memory that nobody shares "
    "is had from writewatch.allocate, or mmap with MAP_PRIVATE"
)


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
        self._spans = spans
        self._clock = clock
        self._allowed_pinned = named_bytes
        self._told: set[str] = set()
        self._forked = False
        self._list_again = 0  # ns; not before
        self.look_again = 0  # the same: until then there is nothing to check
        vmas = _vmas_under(calls, spans)
        self._files = _names_of_files(vmas)
        self._shared = {(vma.device, vma.inode) for vma in vmas if vma.name == _ANONYMOUS_SHARED}
        self._status = -1
        self._identity: tuple[int, int] | None = None  # of the descriptor
        self._open_status()

    def warn_of_others(self, stacklevel: int) -> None:
        """Warn when tracked memory belongs to a file, to named shared memory, or to a relative as well."""
        if self._files:
            self._warn(_FILES, ", ".join(self._files), stacklevel=stacklevel + 1)
        for pid in _relatives_that_map(self._shared) if self._shared else ():
            self._warn(_RELATIVES, pid, stacklevel=stacklevel + 1)
            break

    def after_fork(self) -> None:
        """A child now shares what is mapped shared; the next ``check`` says so."""
        self._forked, self.look_again = True, 0

    def check(self, stacklevel: int) -> None:
        """Warn of what has turned up since: children that share memory, pinned memory, ways past the processor."""
        if self._forked and self._is_shared():
            self._warn(_FORKED, stacklevel=stacklevel + 1)
        now = self._clock()
        if now < self.look_again:
            return
        self.look_again = now + _LOOK_EVERY
        if self._status < 0:
            return
        if not self._is_status_ours():  # closed by the program, see writewatch.kernel.owning
            self._open_status()
            if self._status < 0:
                return
        pinned = self._calls.read_pinned(self._status)
        if pinned > self._allowed_pinned:
            self._warn(_PINNED, pinned, stacklevel=stacklevel + 1)
        if now >= self._list_again:
            self._list_again = now + _DESCRIPTORS_EVERY
            for fd, kind in _direct_descriptors():
                self._warn(_DIRECT, fd, kind, stacklevel=stacklevel + 1)
                break

    def _is_shared(self) -> bool:
        """Whether a child can have part of the memory in common; it may have become shared since it is tracked."""
        self._forked = False  # first: another thread may fork while it is looked
        try:
            return bool(self._shared) or any(
                vma.name == _ANONYMOUS_SHARED for vma in _vmas_under(self._calls, self._spans)
            )
        except BaseException:  # of a signal handler
            self._forked = True
            raise

    def close(self) -> None:
        """Give back the descriptor. A second call does nothing."""
        if not self._is_status_ours():
            self._status = -1  # whatever it is now, somebody else closes it
            return
        # Looked up first: once the number is forgotten, no signal handler may run before it is closed.
        close = self._calls.close
        status, self._status = self._status, -1
        if status >= 0:
            close(status)

    def __del__(self) -> None:
        # Interrupted before its tracker had it; nobody else can give the descriptor back.
        if getattr(self, "_status", -1) >= 0:
            self.close()

    def _warn(self, sentence: str, *facts: object, stacklevel: int) -> None:
        """Once for each sentence."""
        if sentence not in self._told:
            self._told.add(sentence)
            warnings.warn(sentence.format(*facts), UnseenWritesWarning, stacklevel=stacklevel + 1)

    def _open_status(self) -> None:
        self._status, self._identity = -1, None
        with contextlib.suppress(OSError):  # no /proc here
            self._status = self._calls.open_status(None)
            self._identity = self._calls.identity(self._status)

    def _is_status_ours(self) -> bool:
        return self._identity is None or is_identity(self._calls, self._status, self._identity)


def unseen_in_files(vmas: Sequence[Vma]) -> list[Warning]:
    """What there is to warn of when files have taken the place of tracked memory."""
    names = _names_of_files(vmas)
    return [UnseenWritesWarning(_FILES.format(", ".join(names)))] if names else []


def _names_of_files(vmas: Sequence[Vma]) -> list[str]:
    return sorted({vma.name for vma in vmas if vma.is_file and vma.name != _ANONYMOUS_SHARED})


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


def _relatives_that_map(inodes: set[tuple[str, int]]) -> Iterator[int]:
    """Processes with the same program that map one of these files of shmem.

    Shared anonymous memory has no name: only a fork without exec hands it on, so only a process that runs the
    same program can have it.
    """
    own = os.readlink("/proc/self/exe")
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            if pid != os.getpid() and os.readlink(f"/proc/{pid}/exe") == own:
                with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
                    if any((vma.device, vma.inode) in inodes for vma in parse_maps(file.readall())):
                        yield pid
        except OSError:
            continue  # it has ended, or belongs to somebody else


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise MemoryError("there is no memory to list the open descriptors; raise RLIMIT_AS") from error


def _direct_descriptors() -> Iterator[tuple[int, str]]:
    """Descriptors through which a device may write to memory by physical address, and what they are."""
    for fd in _descriptors():
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            if (
                flags & os.O_DIRECT
                and flags & os.O_ACCMODE != os.O_WRONLY
                and os.path.isfile(f"/proc/self/fd/{fd}")
            ):
                yield fd, "opened with O_DIRECT"
            elif os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[io_uring]":
                yield fd, "an io_uring"
        except OSError:
            continue  # closed meanwhile: it was the listing's own

"""The backend for kernels with uffd-wp but without WP_ASYNC: every first write waits for a helper process.

Each write fault costs a message, two switches of process and an ioctl, 30 to 60 µs instead of 0.9. In return it
needs no PAGEMAP_SCAN: bit 57 of ``/proc/PID/pagemap`` tells which pages are still protected. Reading the bits and
protecting again are two steps, but only pages that were read as written are protected again, so a write in between
is on a page that is reported anyway, or on one that stays unprotected for the next harvest. What the bits say is
believed of registered memory alone, which ``smaps`` tells: some milliseconds a harvest.

A write by the kernel itself (read(2) into the memory) faults too, so the descriptor must not be USER_MODE_ONLY: that
needs CAP_SYS_PTRACE, ``vm.unprivileged_userfaultfd`` = 1 or ``/dev/userfaultfd``. Without, such a system call
would fail with EFAULT, and a tracker must never break its program.

Before v6.4 (WP_UNPOPULATED) an empty entry cannot be protected. So pages are populated first, by reading, which
maps the zero page.
"""

from __future__ import annotations

import array
import contextlib
import errno
import select
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.abi.mman import MADV_POPULATE_READ
from writewatch.abi.pagemap import PM_UFFD_WP
from writewatch.abi.userfaultfd import (
    UFFD_FEATURE_PAGEFAULT_FLAG_WP,
    UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
    UFFD_FEATURE_WP_UNPOPULATED,
    UFFDIO_REGISTER,
    UFFDIO_UNREGISTER,
    UFFDIO_WAKE,
    UFFDIO_WRITEPROTECT,
)
from writewatch.errors import KernelUnsupportedError
from writewatch.kernel.owning import is_identity, not_ours
from writewatch.kernel.pagemap import Pagemap
from writewatch.kernel.userfaultfd import Userfaultfd
from writewatch.pages import Runs, clip, difference, intersection, no_runs, normalise, runs_of_mask, union
from writewatch.tracker.backend import Harvest, RangeRefusedError
from writewatch.tracker.blindness import unseen_in_files
from writewatch.tracker.ranges import files_under, huge_granules, huge_page_sizes, registered_runs
from writewatch.tracker.witness import Witnesses, is_shmem

_WANTED: Final = (
    UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED
)
_HELPER: Final = Path(__file__).with_name("uffd_sync_helper.py")
#: Pairs in one packet to the helper; a packet is at most 64 KiB.
_PAIRS: Final = 2048
_SERIAL_BYTES: Final = 8
#: Entries read at a time.
_CHUNK_PAGES: Final = 1 << 16


class HelperGoneError(Exception):
    """The helper process has died; Linux has lifted every protection with it."""


def _gone(error: OSError) -> Exception:
    """What an error of the socket means; one without errno is a signal handler's own (TimeoutError)."""
    return error if error.errno is None else HelperGoneError()


class _Helper:
    """The process with the userfaultfd, seen from its owner."""

    def __init__(self, calls: KernelCalls) -> None:
        if not sys.executable:
            raise KernelUnsupportedError(
                "uffd-wp-sync: this Python does not know its own interpreter", ("uffd-wp-sync",)
            )
        with Userfaultfd(0, user_mode_only=False, calls=calls) as probe:
            features = probe.features & _WANTED
        self.populates = not features & UFFD_FEATURE_WP_UNPOPULATED
        self._serial = 0  # of the last request; the answer carries it
        self._calls = calls
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, Userfaultfd(features, user_mode_only=False, calls=calls) as uffd:
                self._identity = calls.identity(self._socket.fileno())
                self._start(theirs, calls)
                # After this, and the end of the with statement, the helper has the only copy.
                socket.send_fds(self._socket, [b"."], [uffd.fileno()])
            self._hear(0)
        except BaseException:
            self._socket.close()
            raise

    @staticmethod
    def _start(theirs: socket.socket, calls: KernelCalls) -> None:
        """Start the helper so that it is nobody's child: the program may wait for all of its own."""
        requests = UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WRITEPROTECT, UFFDIO_WAKE
        numbers = *requests, calls.page_size, *huge_page_sizes(calls)
        command = [sys.executable, "-I", "-S", str(_HELPER), str(theirs.fileno()), *map(str, numbers)]
        subprocess.run(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # not meant by a signal to the process group
            check=False,
        )

    @property
    def is_ours(self) -> bool:
        """Whether our end of the socket is still what it was: the program may have closed it (os.closerange())."""
        return is_identity(self._calls, self._socket.fileno(), self._identity)

    @property
    def has_gone(self) -> bool:
        """Whether the process has ended, without a conversation; so it has where none could be started again."""
        if self._socket.fileno() < 0:
            return True
        poller = select.poll()
        poller.register(self._socket, select.POLLRDHUP)
        return bool(poller.poll(0))

    def ask(self, what: bytes, spans: list[tuple[int, int]]) -> list[int]:
        """One errno for each (start, length) in bytes, 0 where it was done."""
        if spans and self._socket.fileno() >= 0 and not self.is_ours:
            raise not_ours(self._socket.fileno())
        codes = array.array("i")
        for at in range(0, len(spans), _PAIRS):
            part = spans[at : at + _PAIRS]
            self._serial += 1
            pairs = b"".join(struct.pack("<QQ", *span) for span in part)
            try:
                self._socket.send(what + struct.pack("<Q", self._serial) + pairs)
            except OSError as error:
                raise _gone(error) from error
            codes.frombytes(self._hear(4 * len(part)))
        return codes.tolist()

    def _hear(self, length: int) -> bytes:
        """The answer to the last request. One to a request that was interrupted (Ctrl-C) may come first."""
        serial = -1
        while serial < self._serial:
            try:
                answer = self._socket.recv(_SERIAL_BYTES + length)
            except OSError as error:
                raise _gone(error) from error
            if len(answer) < _SERIAL_BYTES:
                raise HelperGoneError
            (serial,) = struct.unpack_from("<Q", answer)
        if len(answer) != _SERIAL_BYTES + length:
            raise HelperGoneError
        return answer[_SERIAL_BYTES:]

    def let_go(self) -> None:
        """Close our end, which is how a parent's child leaves it alone."""
        self._socket.close()

    def close(self) -> None:
        """End the process; with its descriptor every registration ends. Returns when it has."""
        if not self.is_ours:
            self._socket.detach()  # somebody else closes what it is now; the helper has ended
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(1):
                pass
        self._socket.close()


class UffdSync:
    """Write-protection by userfaultfd, each fault answered by a helper process."""

    name = "uffd-wp-sync"

    def __init__(self, calls: KernelCalls) -> None:
        self._calls = calls
        self._page_size = calls.page_size
        self._pagemap = Pagemap(calls=calls)
        try:
            self._helper = _Helper(calls)
        except HelperGoneError as error:
            self._pagemap.close()
            raise KernelUnsupportedError(
                "uffd-wp-sync: the helper process did not start", (self.name,)
            ) from error
        except BaseException:
            self._pagemap.close()
            raise
        self._ranges = no_runs()
        self._witnesses = Witnesses(calls, self._pagemap)
        self._unregistered = no_runs()  # told to the user already
        self._unseen = no_runs()  # not protected while there was no helper; for the next harvest to report
        self._granules: dict[tuple[int, int], int] = {}  # hugetlb VMAs met
        self._notices: list[str | Warning] = []

    def adjust(self, wanted: Runs) -> None:
        """Register and protect what is new, unregister what is not wanted any more."""
        added = difference(wanted, self._ranges)
        shared = self._learn_mappings(added)
        self._populate(added)
        try:
            codes = self._helper.ask(b"R", self._spans(added))
        except HelperGoneError:
            self._restart()
            codes = self._ask(b"R", added)
        if any(codes):
            failed = next(i for i, code in enumerate(codes) if code)
            self._ask(b"U", added[[not code for code in codes]])
            raise self._refusal(added[failed].tolist(), codes[failed])
        self._ask(b"U", difference(self._ranges, wanted))
        self._witnesses.keep(wanted)
        self._notices += self._witnesses.replace(added, shared)
        self._unseen = intersection(self._unseen, wanted)
        self._ranges = wanted  # last: interrupted before, all of this is done again

    def _learn_mappings(self, new: Runs) -> list[Vma]:
        """Find hugetlb mappings; return shared mappings of shmem, which want a witness."""
        files = files_under(self._calls, new)
        granules = huge_granules(self._calls, new) if files else {}
        self._granules.update(granules)
        huge = {first * self._page_size for first, _ in granules}
        return [vma for vma in files if is_shmem(vma) and vma.start not in huge]

    def _refusal(self, run: list[int], code: int) -> RangeRefusedError:
        span = f"[{run[0] * self._page_size:#x}, {run[1] * self._page_size:#x})"
        why = {
            errno.EBUSY: "is registered with another userfaultfd already",
            errno.EINVAL: "is of a kind that synchronous write-protection does not take (a regular file, say)",
        }.get(code, f"was refused: {errno.errorcode.get(code, code)}")
        return RangeRefusedError(f"{span} {why}", (self.name,))

    def units(self, spans: Runs) -> list[Runs]:
        """What is tracked of what was asked, in one part."""
        tracked = intersection(spans, self._ranges)
        return [tracked] if len(tracked) else []

    def harvest(self, unit: Runs) -> Harvest:
        """Read which pages are unprotected; protect exactly these again."""
        written = self._unprotected(unit)
        if self._helper.has_gone:  # before v6.9 its end left every entry protected, and no write shows
            return self._start_over(unit)
        self._populate(written)
        try:
            codes = self._helper.ask(b"P", self._spans(written))
        except HelperGoneError:
            return self._start_over(unit)
        refused = union(written[[bool(code) for code in codes]], self._unwatched(unit))
        lost = self._register_again(union(refused, intersection(self._unregistered, unit)))
        notices, self._notices = tuple(self._notices), []
        if self._witnesses.is_any:
            lost = union(lost, self._witnesses.harvest(unit, written))
        lost = union(lost, intersection(self._unseen, unit))
        self._unseen = difference(self._unseen, unit)
        return Harvest(difference(written, lost), lost, exact=not self._is_coarse(unit), notices=notices)

    def _is_coarse(self, unit: Runs) -> bool:
        """Whether part of a unit is hugetlb, where one write makes a whole huge page written."""
        return any(len(clip(unit, *run)) for run in self._granules)

    def _register_again(self, lost: Runs) -> Runs:
        """Try to track again what is not registered any more; all of it is to be reported."""
        for first, last in difference(lost, self._unregistered).tolist():
            self._notices.append(
                f"[{first * self._page_size:#x}, {last * self._page_size:#x}) was unmapped, replaced or unregistered "
                "while it was tracked; it is reported as written until it is tracked again"
            )
        self._unregistered = union(self._unregistered, lost)
        codes = self._ask(b"R", lost)
        still = lost[[bool(code) for code in codes]]
        self._watch_anew(difference(lost, still))
        self._unregistered = union(difference(self._unregistered, lost), still)
        return lost

    def _watch_anew(self, replaced: Runs) -> None:
        """What is mapped there now may be other shared memory than before, or no longer shared."""
        if len(replaced):
            self._notices += self._witnesses.replace(replaced, self._learn_mappings(replaced))
            self._notices += unseen_in_files(files_under(self._calls, replaced))

    def _start_over(self, unit: Runs) -> Harvest:
        """The helper died, and all protection with it: everything is assumed written, a new helper begins."""
        self._restart()
        self._unseen = difference(self._unseen, unit)
        notices, self._notices = tuple(self._notices), []
        return Harvest(assumed=unit, notices=notices)

    def _restart(self) -> None:
        """Start another helper. What was written meanwhile nobody has seen, and it is protected again here."""
        self._helper.close()
        self._unseen = self._ranges
        self._notices.append(
            "the process that answers write faults had died; everything is reported as written once"
        )
        try:
            self._helper = _Helper(self._calls)
        except HelperGoneError as error:
            raise OSError(
                errno.EIO, "the process that answers write faults could not be started again"
            ) from error
        self._populate(self._ranges)
        self._ask(b"R", self._ranges)

    def has_written(self, spans: Runs) -> bool:
        """Whether a page is unprotected, or was dropped, or was not protected for a while."""
        if len(intersection(self._unseen, spans)):
            return True
        if len(self._unprotected(spans)) or self._helper.has_gone or self._witnesses.lost(spans):
            return True
        return bool(len(self._unwatched(spans)))

    def abandon(self) -> None:
        """Close our ends; the helper goes on for the parent."""
        self._witnesses.abandon()
        self._pagemap.close()
        self._helper.let_go()

    def close(self) -> None:
        """End the helper, and with it every registration."""
        if not self._pagemap.closed:
            with contextlib.suppress(HelperGoneError, OSError):
                self._helper.ask(b"U", self._spans(self._ranges))
            self._helper.close()
        self._ranges = no_runs()
        self._witnesses.close()
        self._pagemap.close()

    # ---- parts -----------------------------------------------------------------------------------

    def _ask(self, what: bytes, runs: Runs) -> list[int]:
        try:
            return self._helper.ask(what, self._spans(runs))
        except HelperGoneError as error:
            raise OSError(
                errno.EIO, "the process that answers write faults has died; collect again"
            ) from error

    def _spans(self, runs: Runs) -> list[tuple[int, int]]:
        size = self._page_size
        return [(first * size, (last - first) * size) for first, last in runs.tolist()]

    def _populate(self, runs: Runs) -> None:
        if not self._helper.populates:
            return
        for start, length in self._spans(runs):
            with contextlib.suppress(OSError):  # a hole; protecting it tells
                self._calls.madvise(start, length, MADV_POPULATE_READ)

    def _unwatched(self, runs: Runs) -> Runs:
        """What is not registered, now that entries were read: there a protected one says nothing.

        Where a mapping is moved next to another and becomes one with it, Linux drops the registration of both and
        leaves the entries of the other as they were (``mremap_userfaultfd_prep()`` in ``fs/userfaultfd.c``).
        """
        return difference(runs, registered_runs(self._page_size))

    def _unprotected(self, runs: Runs) -> Runs:
        found = [no_runs()]
        for first, last in runs.tolist():
            for at in range(first, last, _CHUNK_PAGES):
                stop = min(at + _CHUNK_PAGES, last)
                entries = self._pagemap.entries(at * self._page_size, stop * self._page_size)
                clear = np.ones(stop - at, np.bool_)
                clear[: len(entries)] = entries & np.uint64(PM_UFFD_WP) == 0
                found.append(runs_of_mask(clear) + at)
        return intersection(normalise(np.concatenate(found)), runs)

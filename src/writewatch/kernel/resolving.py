"""Resolving faults: the ioctls that fill, map or move pages, and what they have done when they stop half-way.

The convention of Linux: a result field of the argument holds the bytes done, or a negative errno. All done is
success; some done is EAGAIN with the bytes in the field; none done is the error itself, and the field may
be untouched. Truth: ``mm/userfaultfd.c``; ioctl_userfaultfd(2).
"""

from __future__ import annotations

import errno
from typing import Any, SupportsIndex

from writewatch.abi import userfaultfd as abi
from writewatch.errors import remade
from writewatch.kernel.descriptor import Descriptor
from writewatch.kernel.ranges import checked_address, checked_length, checked_number


class PartialResultError(BlockingIOError):
    """A resolving ioctl stopped half-way: EAGAIN.

    What was done stays done, and its threads are woken unless ``wake=False`` was asked for.

    Attributes:
        done: Bytes served from the start of the range, more than 0. Go on behind them, and the next error
            says what stands in the way there.
    """

    def __init__(self, call: str, done: int, length: int) -> None:
        super().__init__(errno.EAGAIN, f"{call}: stopped after {done} of {length} bytes")
        self.done = done

    def __reduce__(self) -> tuple[Any, ...]:
        return remade, (type(self), self.args, self.__dict__)


class Resolving(Descriptor):
    """The part of ``Userfaultfd`` that resolves faults.

    Every method returns the bytes done, which is the whole length, and wakes the threads that wait there
    unless ``wake=False``. Errors that all of them know:

    ======================  =====================================================================
    ``UsageError``          not whole pages; nothing was asked of Linux
    ``PartialResultError``  some were done, ``.done`` bytes
    EAGAIN                  none: an event is waiting to be read (the mappings are changing)
    ENOENT                  none: not registered, or not wholly inside one registered mapping
    EEXIST                  none: there is a page already
    ESRCH, ENOMEM           none: the process is gone; there is no memory
    ======================  =====================================================================
    """

    def copy(
        self,
        dst: SupportsIndex,
        src: SupportsIndex,
        length: SupportsIndex,
        *,
        wp: bool = False,
        wake: bool = True,
    ) -> int:
        """Fill missing pages of the bound process with a copy of this process's memory.

        Works on every registration, write-protect alone included; a uffd-wp marker is overwritten.

        Args:
            dst: Where to, a page boundary.
            src: Any address of the caller; EFAULT where it cannot be read.
            length: Whole pages, in bytes.
            wp: Map the pages write-protected; EINVAL where the mapping is not registered for that.
            wake: False leaves the waiting threads to a later ``wake()``.
        """
        mode = abi.UFFDIO_COPY_MODE_WP * bool(wp) | abi.UFFDIO_COPY_MODE_DONTWAKE * (not wake)
        argument = abi.UffdioCopy(
            checked_address("dst", dst, self._page_size),
            checked_number("src", src),
            checked_length(length, self._page_size),
            mode,
        )
        return self._resolve(abi.UFFDIO_COPY, argument, "copy", argument.len)

    def zeropage(self, start: SupportsIndex, length: SupportsIndex, *, wake: bool = True) -> int:
        """Fill missing pages with zeros. EINVAL in hugetlb memory; EEXIST over an anonymous marker."""
        argument = abi.UffdioZeropage(
            self._range(start, length), abi.UFFDIO_ZEROPAGE_MODE_DONTWAKE * (not wake)
        )
        return self._resolve(abi.UFFDIO_ZEROPAGE, argument, "zeropage", argument.range.len)

    def continue_(
        self, start: SupportsIndex, length: SupportsIndex, *, wp: bool = False, wake: bool = True
    ) -> int:
        """Map pages that are in the page cache already: resolves a minor fault. Shmem and hugetlb only.

        EFAULT where the page is not in the cache, EINVAL in anonymous memory. ``wp`` as in ``copy()``.
        """
        mode = abi.UFFDIO_CONTINUE_MODE_WP * bool(wp) | abi.UFFDIO_CONTINUE_MODE_DONTWAKE * (not wake)
        argument = abi.UffdioContinue(self._range(start, length), mode)
        return self._resolve(abi.UFFDIO_CONTINUE, argument, "mapped", argument.range.len)

    def poison(self, start: SupportsIndex, length: SupportsIndex, *, wake: bool = True) -> int:
        """Mark missing pages as poisoned: touching one is SIGBUS, until ``MADV_DONTNEED``. Since v6.6."""
        argument = abi.UffdioPoison(self._range(start, length), abi.UFFDIO_POISON_MODE_DONTWAKE * (not wake))
        return self._resolve(abi.UFFDIO_POISON, argument, "updated", argument.range.len)

    def move(
        self,
        dst: SupportsIndex,
        src: SupportsIndex,
        length: SupportsIndex,
        *,
        allow_src_holes: bool = False,
        wake: bool = True,
    ) -> int:
        """Move pages instead of copying them: they are gone at ``src``. Since v6.8.

        Both ranges are private anonymous memory of this process with the same protection; EINVAL otherwise.
        A protected page that is swapped out keeps its uffd-wp bit on the way, and so looks clean at
        ``dst`` though its content is new there: mark it by un-protecting.

        Args:
            dst: Where to, a page boundary.
            src: Where from, a page boundary; need not be registered.
            length: Whole pages, in bytes.
            allow_src_holes: Skip holes at ``src``, counted as moved; otherwise ENOENT.
            wake: False leaves the waiting threads to a later ``wake()``.
        """
        mode = abi.UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES * bool(allow_src_holes)
        argument = abi.UffdioMove(
            checked_address("dst", dst, self._page_size),
            checked_address("src", src, self._page_size),
            checked_length(length, self._page_size),
            mode | abi.UFFDIO_MOVE_MODE_DONTWAKE * (not wake),
        )
        return self._resolve(abi.UFFDIO_MOVE, argument, "move", argument.len)

    def _resolve(self, request: int, argument: abi.UffdioArgument, field: str, length: int) -> int:
        # The field starts as 0: Linux before v6.15 could leave it unwritten on EAGAIN.
        try:
            self._calls.uffdio(self.fileno(), request, argument)
        except BlockingIOError as error:
            done: int = getattr(argument, field)
            if done > 0:
                raise PartialResultError(abi.UFFDIO_CALLS[request][0], done, length) from error
            raise
        result: int = getattr(argument, field)
        return result

    def _range(self, start: SupportsIndex, length: SupportsIndex) -> abi.UffdioRange:
        return abi.UffdioRange(
            checked_address("start", start, self._page_size), checked_length(length, self._page_size)
        )

"""What read(2) on a userfaultfd says: page faults and the non-cooperative events, decoded.

Truth: ``struct uffd_msg`` in ``include/uapi/linux/userfaultfd.h``. A fork message carries a descriptor that
the kernel has already installed into the reader: whoever decodes it owns it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from writewatch.abi import userfaultfd as abi

if TYPE_CHECKING:
    from writewatch.kernel.userfaultfd import Userfaultfd


@dataclass(frozen=True, slots=True)
class Pagefault:
    """A thread waits for somebody to resolve its page fault.

    Attributes:
        flags: ``UFFD_PAGEFAULT_FLAG_*``: 0 is a read of a missing page.
        address: Start of the page (of the huge page in hugetlb memory); the faulting byte with EXACT_ADDRESS.
        thread_id: As numbered in the thread's own PID namespace; 0 unless THREAD_ID was asked for.
    """

    flags: int
    address: int
    thread_id: int

    @property
    def is_write(self) -> bool:
        """Whether a write caused it. A write-protect fault always is one."""
        return bool(self.flags & abi.UFFD_PAGEFAULT_FLAG_WRITE)

    @property
    def is_wp(self) -> bool:
        """Whether uffd-wp stopped a write: ``write_protect(..., protect=False)`` resolves it."""
        return bool(self.flags & abi.UFFD_PAGEFAULT_FLAG_WP)

    @property
    def is_minor(self) -> bool:
        """Whether the page is in the page cache and only unmapped: ``continue_()`` resolves it."""
        return bool(self.flags & abi.UFFD_PAGEFAULT_FLAG_MINOR)


@dataclass(frozen=True, slots=True)
class Fork:
    """The process forked, and the child's registrations live on under a handle of their own.

    Attributes:
        userfaultfd: Bound to the child, owned by the receiver: close it, or the child stays registered.
    """

    userfaultfd: Userfaultfd


@dataclass(frozen=True, slots=True)
class Remap:
    """mremap(2) moved ``length`` bytes; registration and uffd-wp bits moved with them."""

    old_start: int
    new_start: int
    length: int


@dataclass(frozen=True, slots=True)
class Remove:
    """``MADV_DONTNEED``, ``MADV_FREE`` or ``MADV_REMOVE`` will drop the content of ``[start, end)``."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Unmap:
    """``[start, end)`` was unmapped, or mapped over."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event newer than Linux 6.18, which only a feature bit newer than it can bring.

    Attributes:
        event: Its number.
        words: The three words of the union, as they came.
    """

    event: int
    words: tuple[int, int, int]


Message: TypeAlias = Pagefault | Fork | Remap | Remove | Unmap | UnknownEvent


def decode(data: bytes, adopt: Callable[[int], Userfaultfd]) -> tuple[Message, ...]:
    """Every message of one read(2), in the kernel's order: faults before events.

    Args:
        data: A multiple of 32 bytes.
        adopt: Takes ownership of the descriptor of a forked child.
    """
    records = np.frombuffer(data, abi.UFFD_MSG)
    # The event is one byte; the seven after it are reserved and may be given a meaning.
    events = (records["event"] & 0xFF).tolist()
    return tuple(_decode_one(*one, adopt) for one in zip(events, records["arg"].tolist(), strict=True))


def _decode_one(event: int, words: list[int], adopt: Callable[[int], Userfaultfd]) -> Message:
    a, b, c = words
    match event:
        case abi.UFFD_EVENT_PAGEFAULT:
            return Pagefault(a, b, c & 0xFFFFFFFF)
        case abi.UFFD_EVENT_FORK:
            return Fork(adopt(a & 0xFFFFFFFF))
        case abi.UFFD_EVENT_REMAP:
            return Remap(a, b, c)
        case abi.UFFD_EVENT_REMOVE:
            return Remove(a, b)
        case abi.UFFD_EVENT_UNMAP:
            return Unmap(a, b)
    return UnknownEvent(event, (a, b, c))

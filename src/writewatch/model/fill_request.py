"""One UFFDIO_COPY, ZEROPAGE, CONTINUE or POISON on its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from writewatch.model.mm import failure
from writewatch.model.uffd import Context

COPY: Final = "UFFDIO_COPY"
ZEROPAGE: Final = "UFFDIO_ZEROPAGE"
CONTINUE: Final = "UFFDIO_CONTINUE"
POISON: Final = "UFFDIO_POISON"


class Reader(Protocol):
    """Reads memory of the calling process as the kernel does."""

    def __call__(self, addr: int, length: int) -> bytes:
        """Bytes at an address; EFAULT where it cannot be read."""
        ...


@dataclass(slots=True)
class Fill:
    """One call on its way.

    Attributes:
        call: ``COPY``, ``ZEROPAGE``, ``CONTINUE`` or ``POISON``.
        start, length: Destination, in bytes.
        protect: Whether the new pages get the bit.
        source: Where COPY reads.
        read: How COPY reads.
    """

    context: Context
    call: str
    start: int
    length: int
    protect: bool = False
    source: int = 0
    read: Reader | None = None

    def fail(self, number: int) -> OSError:
        """The error of this call."""
        return failure(number, self.call)


def read_source(fill: Fill, source: int, length: int) -> bytes:
    """What a page is filled with: the caller's bytes, or zeros."""
    return bytes(length) if fill.read is None else fill.read(source, length)

"""What every range must be before Linux is asked: whole pages, and at least one.

Linux says EINVAL to a wrong start, a wrong length and to much else; here the number at fault is named.
"""

from __future__ import annotations

import operator
from typing import Final, SupportsIndex

from writewatch.errors import UsageError
from writewatch.pages import round_down, round_up

_ADDRESSES: Final = 1 << 64


def checked_address(name: str, addr: SupportsIndex, page_size: int) -> int:
    """An address as an int; UsageError unless it is a page boundary."""
    at = checked_number(name, addr)
    if at % page_size:
        raise UsageError(
            f"{name} {at:#x} is not a multiple of the page size {page_size}; "
            f"round it down to {round_down(at, page_size):#x}"
        )
    return at


def checked_length(length: SupportsIndex, page_size: int) -> int:
    """A length in bytes as an int; UsageError unless it is one or more whole pages."""
    n_bytes = checked_number("length", length)
    if n_bytes == 0:
        raise UsageError(f"length is 0; name at least one page of {page_size} bytes")
    if n_bytes % page_size:
        raise UsageError(
            f"length {n_bytes} is not a multiple of the page size {page_size}; "
            f"round it up to {round_up(n_bytes, page_size)}"
        )
    return n_bytes


def checked_number(name: str, number: SupportsIndex) -> int:
    """An int that fits in a 64-bit field; ctypes would wrap any other in silence."""
    value = operator.index(number)
    if not 0 <= value < _ADDRESSES:
        raise UsageError(f"{name} {value:#x} does not fit in 64 bits; give a number from 0 to 2**64 - 1")
    return value

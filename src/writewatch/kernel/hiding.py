"""A kernel that looks older than it is, so that every fallback can be run on any machine.

``hide(calls, names)`` answers as a kernel without those features answers, errno for errno; everything else
goes through. The command line and the tests set ``WRITEWATCH_HIDE=pagemap_scan,wp_async``.

==================  =============================================================================
name                answer
==================  =============================================================================
userfaultfd         the system call is ENOSYS and there is no device (no CONFIG_USERFAULTFD)
dev_userfaultfd     there is no device (before v6.1)
user_mode_only      UFFD_USER_MODE_ONLY is EINVAL (before v5.11)
kernel_faults       EPERM without UFFD_USER_MODE_ONLY (no privilege)
pagemap             /proc/PID/pagemap cannot be opened (EACCES)
pagemap_scan        ENOTTY (before v6.7)
soft_dirty          entry bit 55 stays clear, the scan category is EINVAL (no CONFIG_MEM_SOFT_DIRTY)
guard               the scan category is EINVAL (before v6.16)
a UFFD_FEATURE_*    absent from the handshake's answer and EINVAL when asked for: wp_async, move, …
==================  =============================================================================
"""

from __future__ import annotations

import errno
import os
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.calls import KernelCalls
from writewatch.abi.pagemap import PAGE_IS_GUARD, PAGE_IS_SOFT_DIRTY, PM_SOFT_DIRTY, PmScanArg
from writewatch.abi.userfaultfd import (
    FEATURES,
    UFFD_USER_MODE_ONLY,
    UffdioApi,
    UffdioArgument,
)
from writewatch.errors import UsageError

_FEATURE_BITS: Final = {feature.name.lower(): feature.bit for feature in FEATURES}
_CATEGORY_BITS: Final = {"soft_dirty": PAGE_IS_SOFT_DIRTY, "guard": PAGE_IS_GUARD}

# Hiding one of these hides the device too: a kernel that lacks them is older than the device, or it is the
# other way to the same right.
_WITHOUT_DEVICE: Final = frozenset({"userfaultfd", "dev_userfaultfd", "user_mode_only", "kernel_faults"})

#: Every name that can be hidden.
HIDEABLE: Final = frozenset(
    _WITHOUT_DEVICE | {"pagemap", "pagemap_scan"} | _CATEGORY_BITS.keys() | _FEATURE_BITS.keys()
)


def parse_hidden(text: str) -> frozenset[str]:
    """Names out of a comma-separated list; spaces and empty items are ignored.

    Raises:
        UsageError: A name is not in ``HIDEABLE``: a misspelt switch would hide nothing and prove nothing.
    """
    names = frozenset(name.strip().lower() for name in text.split(",")) - {""}
    unknown = sorted(names - HIDEABLE)
    if unknown:
        raise UsageError(
            f"WRITEWATCH_HIDE names {', '.join(unknown)}, which cannot be hidden; "
            f"choose from {', '.join(sorted(HIDEABLE))}"
        )
    return names


def hide(calls: KernelCalls, names: frozenset[str]) -> KernelCalls:
    """The same calls without some features; the calls themselves when no name is given."""
    # What HidingCalls does not define it forwards by __getattr__, which a type checker cannot follow.
    return cast(KernelCalls, HidingCalls(calls, names)) if names else calls


def hidden_from(calls: KernelCalls) -> frozenset[str]:
    """What ``hide()`` hides from these calls."""
    return cast(Any, calls).hidden if isinstance(calls, HidingCalls) else frozenset()


def unhidden(calls: KernelCalls) -> KernelCalls:
    """The calls below every ``hide()``."""
    return unhidden(cast(Any, calls).inner) if isinstance(calls, HidingCalls) else calls


class HidingCalls:
    """Forwards every call, except that the hidden features answer as absent. Stateless, as what it wraps."""

    def __init__(self, inner: KernelCalls, hidden: frozenset[str]) -> None:
        self.inner = inner
        self.hidden = hidden
        # WP_ASYNC implies WP_UNPOPULATED: no kernel has had the one without the other.
        implied = {"wp_async"} if "wp_unpopulated" in hidden else set()
        self._features = _bits(_FEATURE_BITS, hidden | implied)
        self._categories = _bits(_CATEGORY_BITS, hidden)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __repr__(self) -> str:
        return f"<{type(self.inner).__name__} without {', '.join(sorted(self.hidden))}>"

    def userfaultfd(self, flags: int) -> int:
        """ENOSYS, EINVAL or EPERM, in the order in which the kernel would test them."""
        if "userfaultfd" in self.hidden:
            raise _refusal(errno.ENOSYS, "userfaultfd")
        if "user_mode_only" in self.hidden and flags & UFFD_USER_MODE_ONLY:
            raise _refusal(errno.EINVAL, "userfaultfd")
        if "kernel_faults" in self.hidden and not flags & UFFD_USER_MODE_ONLY:
            raise _refusal(errno.EPERM, "userfaultfd")
        return self.inner.userfaultfd(flags)

    def userfaultfd_from_device(self, flags: int) -> int:
        """ENOENT: the device node is not there."""
        if not self.hidden.isdisjoint(_WITHOUT_DEVICE):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/dev/userfaultfd")
        return self.inner.userfaultfd_from_device(flags)

    def uffdio(self, fd: int, request: int, argument: UffdioArgument) -> None:
        """A handshake that asks for a hidden feature is EINVAL and zeroed; another one never hears of it."""
        if not isinstance(argument, UffdioApi):
            self.inner.uffdio(fd, request, argument)
            return
        if argument.features & self._features:
            argument.api = argument.features = argument.ioctls = 0
            raise _refusal(errno.EINVAL, "UFFDIO_API")
        self.inner.uffdio(fd, request, argument)
        argument.features &= ~self._features

    def open_pagemap(self, pid: int | None) -> int:
        """EACCES, as where ptrace-read access is refused."""
        if "pagemap" in self.hidden:
            raise _refusal(errno.EACCES, "open pagemap")
        return self.inner.open_pagemap(pid)

    def read_pagemap(
        self, fd: int, first_page: int, n_pages: int, out: NDArray[np.uint64] | None = None
    ) -> NDArray[np.uint64]:
        """Entries; without soft-dirty their bit 55 is clear whatever was written."""
        entries = self.inner.read_pagemap(fd, first_page, n_pages, out)
        if "soft_dirty" in self.hidden:
            entries &= np.uint64(~PM_SOFT_DIRTY & 2**64 - 1)
        return entries

    def pagemap_scan(self, fd: int, argument: PmScanArg, vec: NDArray[np.void] | None) -> int:
        """ENOTTY without the ioctl; EINVAL, argument untouched, when a mask names a hidden category."""
        if "pagemap_scan" in self.hidden:
            raise _refusal(errno.ENOTTY, "PAGEMAP_SCAN")
        masks = argument.category_inverted | argument.category_mask | argument.category_anyof_mask
        if (masks | argument.return_mask) & self._categories:
            raise _refusal(errno.EINVAL, "PAGEMAP_SCAN")
        return self.inner.pagemap_scan(fd, argument, vec)


def _refusal(number: int, call: str) -> OSError:
    return OSError(number, f"{call}: {os.strerror(number)}")


def _bits(table: dict[str, int], names: frozenset[str]) -> int:
    return sum(bit for name, bit in table.items() if name in names)

"""Calls that fail at a chosen moment, before they do anything, half-way, or when they have done it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.pagemap import PM_SCAN_WP_MATCHING, PmScanArg
from writewatch.kernel.calls import LinuxCalls


class FailingCalls(LinuxCalls):
    """The kernel's calls, one of which fails.

    Attributes:
        n_calls: Of ``uffdio`` and ``pagemap_scan`` since ``arm``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._error: BaseException | None = None
        self.disarm()
        self.before_protecting: Callable[[PmScanArg], None] | None = None
        self._then: Callable[[], None] | None = None

    def arm(self, at: int, error: BaseException, *, done: bool = False) -> None:
        """Let the call number ``at``, from 1, fail: half-way, or when it is done."""
        self.n_calls, self._at, self._error, self._done = 0, at, error, done

    def disarm(self) -> None:
        """Let nothing fail."""
        self.n_calls, self._at, self._error, self._done = 0, 0, None, False

    def before(self, at: int, does: Callable[[], None]) -> None:
        """Before the call number ``at``, from 1, something happens."""
        self._left, self._then = at, does

    def is_waiting(self) -> bool:
        """Whether there was no such call yet; now there will be none."""
        then, self._then = self._then, None
        return then is not None

    def _is_due(self) -> bool:
        if self._then is not None:
            self._left -= 1
            if not self._left:
                then, self._then = self._then, None
                then()
        self.n_calls += 1
        return self.n_calls == self._at

    def uffdio(self, fd: int, request: int, argument: Any) -> None:
        """Fails before it does anything, unless asked to when it is done."""
        if not self._is_due():
            return super().uffdio(fd, request, argument)
        if self._done:
            super().uffdio(fd, request, argument)
        raise self._failure()

    def pagemap_scan(self, fd: int, argument: PmScanArg, vec: NDArray[np.void] | None) -> int:
        """Fails in the middle of its range: what is before it was reported, and protected."""
        if self.before_protecting is not None and argument.flags & PM_SCAN_WP_MATCHING:
            self.before_protecting(argument)
        if not self._is_due():
            return super().pagemap_scan(fd, argument, vec)
        if not self._done:
            half = argument.start + (argument.end - argument.start) // 2 // self.page_size * self.page_size
            start, argument.end, end = argument.start, half, argument.end
            super().pagemap_scan(fd, argument, vec)
            argument.start, argument.end, argument.walk_end = start, end, end
        else:
            super().pagemap_scan(fd, argument, vec)
        raise self._failure()

    def _failure(self) -> BaseException:
        assert self._error is not None
        return self._error

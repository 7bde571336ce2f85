"""How an access or a call ends when it does not simply succeed.

``Segfault`` and ``BusError`` are what the processor's access becomes; an access on behalf of a system call
turns them into EFAULT. ``WouldBlock`` stands for a thread that sleeps until a userfaultfd is served.
"""

from __future__ import annotations

import signal as _signal
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from writewatch.model.waits import Wait

SEGV_MAPERR: Final = 1
SEGV_ACCERR: Final = 2
BUS_ADRERR: Final = 2
BUS_MCEERR_AR: Final = 4


class MemoryFault(Exception):
    """An access that a real process would answer with a signal.

    Attributes:
        signal: SIGSEGV or SIGBUS.
        address: ``si_addr``.
        code: ``si_code``.
    """

    signal: ClassVar[int] = 0

    def __init__(self, address: int, code: int) -> None:
        super().__init__(f"{type(self).__name__} at {address:#x}, si_code {code}")
        self.address, self.code = address, code


class Segfault(MemoryFault):
    """SIGSEGV: no VMA, no permission, or a guard page."""

    signal = int(_signal.SIGSEGV)


class BusError(MemoryFault):
    """SIGBUS: past the end of a file, a poisoned page, or a context with ``UFFD_FEATURE_SIGBUS``."""

    signal = int(_signal.SIGBUS)


class Poisoned(BusError):
    """SIGBUS on a poisoned page. A kernel without CONFIG_MEMORY_FAILURE has no si_code of its own for it."""


class NeverReturns(Exception):
    """A call or an access that Linux (6.18.44) is never done with: it runs in circles until the process is killed."""


class MustWait(Exception):
    """Raised inside a fault that has to wait. The fault changed nothing; it is started again after the wake.

    Attributes:
        wait: What it waits for.
    """

    def __init__(self, wait: Wait) -> None:
        super().__init__(str(wait))
        self.wait = wait


class WouldBlock(Exception):
    """A call made outside a task would sleep until a userfaultfd is read or served.

    The message stays queued. An access may simply be made again; a call that waited for an event is over
    its first half. Make such a call with ``ModelCalls.spawn`` to see it through.

    Attributes:
        wait: What it waits for; ``wait.message`` is what was queued.
    """

    def __init__(self, wait: Wait) -> None:
        super().__init__(f"would block: {wait}")
        self.wait = wait

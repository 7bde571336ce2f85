"""``Fault``: one page fault on its way through the handlers."""

from __future__ import annotations

from dataclasses import dataclass

from writewatch.model.mm import Mm
from writewatch.model.signals import BUS_ADRERR, BUS_MCEERR_AR, Poisoned
from writewatch.model.vma import Vma


@dataclass(slots=True)
class Fault:
    """``struct vm_fault``.

    Attributes:
        mm, vma: Where.
        addr: Start of the page.
        at: The faulting byte.
        write: FAULT_FLAG_WRITE.
        user: FAULT_FLAG_USER: an access of the program, not of the kernel on its behalf.
        kept: UFFD_WP when the entry was a marker with the bit, so that what replaces it keeps it; else 0.
    """

    mm: Mm
    vma: Vma
    addr: int
    at: int
    write: bool
    user: bool
    kept: int = 0

    def poisoned(self) -> Poisoned:
        """The end of an access to a poisoned page."""
        code = BUS_MCEERR_AR if self.mm.machine.settings.memory_failure else BUS_ADRERR
        return Poisoned(self.at, code)

    def count(self, kind: str) -> None:
        """The fault was resolved, in this way."""
        self.mm.machine.counters.faults[kind] += 1

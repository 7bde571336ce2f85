"""``ModelCalls``: the ``KernelCalls`` protocol served by a simulated machine.

What each call does is documented at the protocol. A call that can sleep, or that others can run in the middle of,
exists twice: the method runs it to its end, and a ``_<method>_steps`` generator serves tasks and ``explore``.
"""

from __future__ import annotations

from writewatch.model.mm_calls import MmCalls
from writewatch.model.proc_calls import ProcCalls
from writewatch.model.uffd_calls import UffdCalls


class ModelCalls(UffdCalls, ProcCalls, MmCalls):
    """One process of the model. Implements ``writewatch.abi.calls.KernelCalls``."""

    @property
    def page_size(self) -> int:
        """Of the machine, in bytes."""
        return self.machine.page_size

    @property
    def huge_page_size(self) -> int:
        """What one PMD maps, in bytes."""
        return self.machine.huge_page_size

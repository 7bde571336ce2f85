"""What is read of a process before one of its threads is stopped, so that the stop is short: where calls can be made.

Runs in the helper process too: nothing here may import NumPy.
"""

from __future__ import annotations

import bisect
import ctypes
from typing import Final

from writewatch.kernel.ptrace import places
from writewatch.kernel.ptrace.registers import X8664, Machine
from writewatch.kernel.ptrace.tracing import Tracee

_XSTATE_BYTES: Final = 1 << 14


class Footing:
    """Where in a process its thread can be made to run a system call.

    Attributes:
        places: Its VMAs.
        gadgets: Where a self-restoring call can be made; both None where none can.
        site: A system call instruction, for the plain way; None where none was found.
        why_plain: Why no frame will do, in words; empty where one will.
        tracee: The thread, as far as its memory is concerned.
        scratch: Room for its vector registers.
    """

    def __init__(self, tracee: Tracee, pid: int, machine: Machine) -> None:
        self.tracee = tracee
        self.scratch = ctypes.create_string_buffer(_XSTATE_BYTES)
        self.places = places.read_places(pid, tracee.tid)
        self._starts = [place.start for place in self.places]
        self.gadgets = places.Gadgets(None, None)
        self.why_plain = ""
        if not isinstance(machine, X8664):
            self.why_plain = f"frames are not written on {machine.name}"
        elif places.is_go(tracee.tid):
            self.why_plain = "a goroutine's stack may be too small"
        else:
            self.gadgets = places.find_gadgets(tracee, self.places)
            if None in self.gadgets:
                self.why_plain = "the instructions it needs are nowhere in the process"
        self.site = places.find_instruction(tracee, self.places, machine.instruction)

    def has_room(self, lowest: int, stack_pointer: int, thread_pointer: int) -> bool:
        """Whether there is room on the thread's stack, see ``places.has_room()``."""
        at = bisect.bisect_right(self._starts, lowest) - 1
        return at >= 0 and places.has_room(self.places[at], lowest, stack_pointer, thread_pointer)

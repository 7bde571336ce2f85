"""What a stopped thread is made to start an injected call from.

With a signal frame below its stack it becomes itself again even when its tracer dies (``frame.py``). Where there is no
room for one, or something forbids it, the call starts from the thread's own registers, and only the tracer can put
them back.

A thread is held while this runs, so everything that can be is made or looked for before: see ``Footing`` and
``rehearse()``.

Runs in the helper process too: nothing here may import NumPy.
"""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass
from typing import Final

from writewatch.abi.ptrace import NT_X86_XSTATE, PtraceSudConfig, UserRegs
from writewatch.kernel.ptrace import frame, obstacles, places
from writewatch.kernel.ptrace.footing import Footing
from writewatch.kernel.ptrace.registers import X8664, Machine, Registers
from writewatch.kernel.ptrace.tracing import Tracee

_REHEARSALS: Final = 2


class NoGroundError(Exception):
    """There is no system call instruction in reach."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A thread as the stop found it.

    Attributes:
        registers: All of them.
        abort_ip: Where the restartable sequence goes on that it is in; None outside of one.
        mask: Signals that it blocks.
        dispatch: Syscall user dispatch that has to be switched off meanwhile; None without.
    """

    registers: Registers
    abort_ip: int | None
    mask: bytes
    dispatch: PtraceSudConfig | None


@dataclass(frozen=True, slots=True)
class Ground:
    """Where the thread starts from.

    Attributes:
        registers: Its own, with the stack pointer on the frame if there is one.
        site: Address of a system call instruction.
        why_plain: Why there is no frame, in words; empty where there is one.
        overwritten: What was where the frame is.
    """

    registers: Registers
    site: int
    why_plain: str
    overwritten: bytes = b""

    def leave(self, tracee: Tracee) -> None:
        """Take the frame away, from a thread that has its own registers again.

        Mostly nobody would notice: it is below the stack. But a signal handler, or a coroutine, may have a stack of its
        own inside of the thread's, and live data below.
        """
        if self.overwritten:
            with contextlib.suppress(OSError):  # the thread has been killed
                tracee.write(self.registers.rsp, self.overwritten)


def prepare(tracee: Tracee, machine: Machine, footing: Footing, stopped: Stopped) -> Ground:
    """Write a frame if one can be had, and find the instruction.

    Raises:
        NoGroundError: There is none.
        ThreadEndedError: It was killed meanwhile.
    """
    why = footing.why_plain or _why_no_frame_now(tracee, footing, stopped)
    if not why:
        assert isinstance(machine, X8664)
        assert footing.gadgets.call is not None
        try:
            registers, overwritten = _write_frame(tracee, machine, footing, stopped)
            return Ground(registers, footing.gadgets.call, "", overwritten)
        except (frame.NoFrameError, OSError) as error:
            why = str(error)
    return Ground(stopped.registers, _plain_site(tracee, machine, footing, stopped), why)


def rehearse(footing: Footing) -> None:
    """Go through the motions with a thread that runs: what was used a moment ago is in the processor's caches.

    Without it building the frame took three times as long, in a process that had slept until then.
    """
    if footing.why_plain:
        return
    machine, registers = X8664(), UserRegs()
    registers.rsp = footing.places[-1].end
    for _ in range(_REHEARSALS):
        _gadgets_are_there(footing.tracee, footing)
        found = machine.before_the_call(registers, None)
        area = frame.vector_state(ctypes.string_at(footing.scratch, frame.LEAST_AREA))
        at, _data = frame.build(found, found.rsp, bytes(8), area, 0)
        footing.has_room(at, found.rsp, found.fs_base)


def _why_no_frame_now(tracee: Tracee, footing: Footing, stopped: Stopped) -> str:
    if stopped.dispatch is not None:
        return "its system calls are dispatched to itself, which has to be switched off meanwhile"
    if obstacles.has_shadow_stack(tracee):
        return "it has a shadow stack"
    if not _gadgets_are_there(tracee, footing):
        return "the instructions it needs are gone"
    return ""


def _gadgets_are_there(tracee: Tracee, footing: Footing) -> bool:
    call, sigreturn = footing.gadgets
    return _is_there(tracee, call, places.CALL_AND_RETURN) and _is_there(tracee, sigreturn, *places.SIGRETURN)


def _is_there(tracee: Tracee, address: int | None, *patterns: bytes) -> bool:
    """Whether memory still holds one of the patterns; looked at while the thread is stopped."""
    found = places.read_or_nothing(tracee, address or 0, len(patterns[0]))
    return found.startswith(patterns)


def _write_frame(
    tracee: Tracee, machine: X8664, footing: Footing, stopped: Stopped
) -> tuple[UserRegs, bytes]:
    """The thread's registers, with the stack pointer on a frame that has been written there, and what was there."""
    found: UserRegs = stopped.registers
    n_bytes = tracee.register_set(NT_X86_XSTATE, footing.scratch)
    area = frame.vector_state(ctypes.string_at(footing.scratch, n_bytes))
    restored = machine.before_the_call(found, stopped.abort_ip)
    assert footing.gadgets.sigreturn is not None
    at, data = frame.build(restored, found.rsp, stopped.mask, area, footing.gadgets.sigreturn)
    if not footing.has_room(at, found.rsp, found.fs_base):
        raise frame.NoFrameError("there is no room on its stack")
    overwritten = tracee.read(at, len(data))
    tracee.write(at, data)
    base = UserRegs.from_buffer_copy(found)
    base.rsp = at
    return base, overwritten


def _plain_site(tracee: Tracee, machine: Machine, footing: Footing, stopped: Stopped) -> int:
    """An instruction to run: the one of the call that the thread sleeps in, else one that was found before."""
    for site in (machine.site_of_call(stopped.registers), footing.site):
        if site is not None and _is_there(tracee, site, machine.instruction):
            return site
    raise NoGroundError

"""What each architecture calls the registers of a thread, and how one of its system calls is begun and taken back.

``Machine`` is the small interface; everything in it but ``read`` and ``write`` is arithmetic on a register set. A
thread that was stopped while it slept in a system call shows how the kernel means to go on:

- x86-64 keeps the number in ``orig_rax`` and a code between -512 and -516 in ``rax``; *after* the stop, with both
  untouched, it restarts the call or has it return EINTR. Some calls say -EINTR (-4) themselves, although no signal
  came; -514 (ERESTARTNOHAND) in its place has them restarted, unless a handler did run.
- aarch64 prepares the restart *before* the stop: ``pc`` is back at the instruction, ``x0`` has its first argument
  again, and the reason is in a local variable of the kernel that the injected calls lose. So the call is repeated
  with its first arguments.

Truth: ``arch/x86/kernel/signal.c:arch_do_signal_or_restart()``, ``arch/arm64/kernel/signal.c:do_signal()``.

Runs in the helper process too: nothing here may import NumPy.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Any, Final, Protocol

from writewatch.abi.ptrace import NT_ARM_SYSTEM_CALL, NT_PRSTATUS, UserPtRegs, UserRegs
from writewatch.kernel.ptrace.tracing import Tracee

#: ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK (``include/linux/errno.h``).
RESTART_CODES: Final = frozenset({-512, -513, -514, -516})
ERESTARTNOHAND: Final = -514
EINTR: Final = -4

#: Calls of x86-64 that return EINTR after a mere stop and take no harm from being made again: epoll_wait, epoll_pwait,
#: epoll_pwait2, semop, semtimedop, rt_sigtimedwait, io_uring_enter; with SO_RCVTIMEO accept, accept4, recvfrom,
#: recvmsg. A time limit starts anew. connect is not among them: it would say EALREADY.
_REPEATABLE: Final = frozenset({232, 281, 441, 65, 220, 128, 426, 43, 288, 45, 47})

_USER_CODE_64: Final = 0x33  # __USER_CS
_TRAP_FLAG: Final = 1 << 8

Registers = Any  # the ctypes structure of the machine at hand


def signed(value: int) -> int:
    """A register as a number with a sign."""
    return value - (1 << 64) if value >> 63 else value


class Machine(Protocol):
    """One architecture.

    Attributes:
        name: As ``uname -m`` spells it.
        instruction: Bytes of the instruction that makes a system call.
        userfaultfd, close: Numbers of the two calls.
    """

    name: str
    instruction: bytes
    userfaultfd: int
    close: int

    def read(self, tracee: Tracee) -> Registers:
        """The registers of a stopped thread."""
        ...

    def write(self, tracee: Tracee, registers: Registers) -> None:
        """Give a stopped thread registers; the kernel is kept from restarting a call that these do not name."""
        ...

    def ip(self, registers: Registers) -> int:
        """Address of the next instruction."""
        ...

    def runs_foreign_code(self, registers: Registers) -> bool:
        """Whether the thread runs code of another word size now."""
        ...

    def site_of_call(self, registers: Registers) -> int | None:
        """Where the instruction is that made the system call which the stop interrupted; None outside of one."""
        ...

    def call(self, registers: Registers, site: int, number: int, argument: int) -> Registers:
        """A copy that makes a system call of one argument at a site, on the same stack."""
        ...

    def result(self, registers: Registers) -> int:
        """What the call returned; negative for an errno."""
        ...

    def as_found(self, registers: Registers, abort_ip: int | None) -> Registers:
        """What to restore, so that the program notices nothing.

        Args:
            registers: At the first stop.
            abort_ip: Where the restartable sequence goes on that the thread was in; None outside of one.
        """
        ...


class X8664:
    """x86-64."""

    name = "x86_64"
    instruction = b"\x0f\x05"
    userfaultfd = 323
    close = 3

    def read(self, tracee: Tracee) -> UserRegs:
        """See ``Machine``."""
        registers = UserRegs()
        tracee.register_set(NT_PRSTATUS, registers)
        return registers

    def write(self, tracee: Tracee, registers: UserRegs) -> None:
        """See ``Machine``."""
        tracee.set_register_set(NT_PRSTATUS, registers)

    def ip(self, registers: UserRegs) -> int:
        """See ``Machine``."""
        return int(registers.rip)

    def runs_foreign_code(self, registers: UserRegs) -> bool:
        """See ``Machine``."""
        return bool(registers.cs != _USER_CODE_64)

    def site_of_call(self, registers: UserRegs) -> int | None:
        """See ``Machine``."""
        return registers.rip - len(self.instruction) if signed(registers.orig_rax) >= 0 else None

    def call(self, registers: UserRegs, site: int, number: int, argument: int) -> UserRegs:
        """See ``Machine``."""
        copy = UserRegs.from_buffer_copy(registers)
        copy.rip, copy.rax, copy.rdi = site, number, argument
        copy.orig_rax = (1 << 64) - 1  # no system call that the kernel could restart
        copy.eflags &= ~_TRAP_FLAG
        return copy

    def result(self, registers: UserRegs) -> int:
        """See ``Machine``."""
        return signed(registers.rax)

    def is_to_be_repeated(self, registers: UserRegs) -> bool:
        """Whether the interrupted call is to be made again, as far as the program is concerned."""
        number, code = signed(registers.orig_rax), signed(registers.rax)
        return number >= 0 and (code in RESTART_CODES or (code == EINTR and number in _REPEATABLE))

    def as_found(self, registers: UserRegs, abort_ip: int | None) -> UserRegs:
        """See ``Machine``. EINTR without a signal is hidden."""
        copy = UserRegs.from_buffer_copy(registers)
        if self.is_to_be_repeated(registers) and signed(registers.rax) == EINTR:
            copy.rax = ERESTARTNOHAND % (1 << 64)
        if abort_ip is not None:
            copy.rip = abort_ip
        return copy

    def before_the_call(self, registers: UserRegs, abort_ip: int | None) -> UserRegs:
        """What rt_sigreturn is to restore: it knows no restart codes, so the call is made anew from its instruction."""
        copy = self.as_found(registers, abort_ip)
        if self.is_to_be_repeated(registers):
            copy.rip -= len(self.instruction)
            copy.rax = registers.orig_rax
        return copy


class Aarch64:
    """aarch64, from its documents. The plain way alone: SVE and SME state makes a signal frame very large."""

    name = "aarch64"
    instruction = b"\x01\x00\x00\xd4"
    userfaultfd = 282
    close = 57

    def read(self, tracee: Tracee) -> UserPtRegs:
        """See ``Machine``."""
        registers = UserPtRegs()
        tracee.register_set(NT_PRSTATUS, registers)
        return registers

    def write(self, tracee: Tracee, registers: UserPtRegs) -> None:
        """See ``Machine``. The number is in a register set of its own; -1 is no call, so none is restarted."""
        tracee.set_register_set(NT_PRSTATUS, registers)
        tracee.set_register_set(NT_ARM_SYSTEM_CALL, ctypes.create_string_buffer(b"\xff" * 4, 4))

    def ip(self, registers: UserPtRegs) -> int:
        """See ``Machine``."""
        return int(registers.pc)

    def runs_foreign_code(self, registers: UserPtRegs) -> bool:
        """See ``Machine``. PSR_MODE32_BIT."""
        return bool(registers.pstate & 0x10)

    def site_of_call(self, registers: UserPtRegs) -> int | None:
        """See ``Machine``. Whether there was a call cannot be told; a caller looks for the instruction there."""
        return int(registers.pc)

    def call(self, registers: UserPtRegs, site: int, number: int, argument: int) -> UserPtRegs:
        """See ``Machine``. x7 stays: the kernel puts its own marks there at the stops, and then back."""
        copy = UserPtRegs.from_buffer_copy(registers)
        copy.pc, copy.regs[8], copy.regs[0] = site, number, argument
        return copy

    def result(self, registers: UserPtRegs) -> int:
        """See ``Machine``."""
        return signed(registers.regs[0])

    def as_found(self, registers: UserPtRegs, abort_ip: int | None) -> UserPtRegs:
        """See ``Machine``."""
        copy = UserPtRegs.from_buffer_copy(registers)
        if abort_ip is not None:
            copy.pc = abort_ip
        return copy


def machine_of(name: str = platform.machine()) -> Machine | None:
    """The architecture by the name that uname gives it; None where attaching is not written."""
    machines: tuple[Machine, ...] = (X8664(), Aarch64())
    return next((machine for machine in machines if machine.name == name), None)

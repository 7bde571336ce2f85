"""What in a stopped thread stands in the way of a system call that it did not ask for.

- A restartable sequence: moving the instruction pointer makes the kernel forget that the thread is inside of one.
  Put back, it would go on without the atomicity it counts on; so it goes on at the sequence's abort address, where the
  kernel itself sends it after a preemption. Truth: ``kernel/rseq.c:rseq_ip_fixup()``.
- Syscall user dispatch (Wine, emulators): the call would raise SIGSYS, and with signals blocked would take its handler
  away. Nothing need be done while the thread's own selector byte allows calls. Else dispatch is switched off
  meanwhile. Truth: ``kernel/entry/syscall_user_dispatch.c``.
- A shadow stack: a return to an address that was not pushed by a call is a fault. ``arch/x86/kernel/shstk.c``.

Runs in the helper process too: nothing here may import NumPy.
"""

from __future__ import annotations

import ctypes
import errno
from typing import Final

from writewatch.abi.ptrace import (
    NT_X86_SHSTK,
    PTRACE_GET_RSEQ_CONFIGURATION,
    PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG,
    PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG,
    PtraceRseqConfiguration,
    PtraceSudConfig,
    RseqCs,
)
from writewatch.kernel.ptrace.places import read_or_nothing
from writewatch.kernel.ptrace.tracing import Tracee

#: What an older kernel says to a request that it does not know.
_UNKNOWN: Final = (errno.EIO, errno.EINVAL)
_RSEQ_CS_AT: Final = 8  # offset of rseq_cs in struct rseq
_POINTER_BYTES: Final = 8
_ALLOW: Final = b"\0"  # SYSCALL_DISPATCH_FILTER_ALLOW


def abort_ip(tracee: Tracee, ip: int) -> int | None:
    """Where the thread has to go on if it is inside a restartable sequence; None outside of one."""
    configuration = PtraceRseqConfiguration()
    if not _asked(tracee, PTRACE_GET_RSEQ_CONFIGURATION, configuration) or not configuration.rseq_abi_pointer:
        return None
    pointer = read_or_nothing(tracee, configuration.rseq_abi_pointer + _RSEQ_CS_AT, _POINTER_BYTES)
    section_at = int.from_bytes(pointer, "little")
    if not section_at:
        return None
    data = read_or_nothing(tracee, section_at, ctypes.sizeof(RseqCs))
    if len(data) != ctypes.sizeof(RseqCs):
        return None
    return where_it_aborts(RseqCs.from_buffer_copy(data), ip)


def where_it_aborts(section: RseqCs, ip: int) -> int | None:
    """The abort address when an instruction pointer is inside the section."""
    inside = section.start_ip <= ip < section.start_ip + section.post_commit_offset
    return int(section.abort_ip) if inside else None


def dispatch_in_the_way(tracee: Tracee) -> PtraceSudConfig | None:
    """The configuration to switch off, and to put back; None where system calls go through as they are."""
    configuration = PtraceSudConfig()
    if not _asked(tracee, PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, configuration) or not configuration.mode:
        return None
    if configuration.selector and read_or_nothing(tracee, configuration.selector, 1) == _ALLOW:
        return None
    return configuration


def set_dispatch(tracee: Tracee, configuration: PtraceSudConfig) -> None:
    """Give a thread a configuration; ``PtraceSudConfig()`` switches dispatch off."""
    size = ctypes.sizeof(configuration)
    tracee.ask(PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, size, ctypes.addressof(configuration))


def has_shadow_stack(tracee: Tracee) -> bool:
    """Whether the thread's returns are checked."""
    return tracee.has_register_set(NT_X86_SHSTK)


def _asked(tracee: Tracee, request: int, structure: ctypes.Structure) -> bool:
    """Fill a structure in; False where the kernel does not know the request."""
    try:
        tracee.ask(request, ctypes.sizeof(structure), ctypes.addressof(structure))
    except OSError as error:
        if error.errno in _UNKNOWN:
            return False
        raise
    return True

"""``include/uapi/linux/ptrace.h``, and of ``linux/rseq.h`` what a debugger needs.

The register sets are those of x86-64 (``struct user_regs_struct``) and aarch64 (``struct user_pt_regs``).
"""

from __future__ import annotations

import ctypes
from typing import Final

PTRACE_PEEKDATA: Final = 2
PTRACE_POKEDATA: Final = 5
PTRACE_CONT: Final = 7
PTRACE_GETREGS: Final = 12
PTRACE_SETREGS: Final = 13
PTRACE_DETACH: Final = 17
PTRACE_SYSCALL: Final = 24
PTRACE_SETOPTIONS: Final = 0x4200
PTRACE_GETEVENTMSG: Final = 0x4201
PTRACE_GETSIGINFO: Final = 0x4202
PTRACE_GETREGSET: Final = 0x4204
PTRACE_SETREGSET: Final = 0x4205
PTRACE_SEIZE: Final = 0x4206
PTRACE_INTERRUPT: Final = 0x4207
PTRACE_LISTEN: Final = 0x4208
PTRACE_GETSIGMASK: Final = 0x420A
PTRACE_SETSIGMASK: Final = 0x420B
PTRACE_GET_SYSCALL_INFO: Final = 0x420E
PTRACE_GET_RSEQ_CONFIGURATION: Final = 0x420F  # since v5.13
PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG: Final = 0x4210  # since v6.4
PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: Final = 0x4211  # since v6.4

PTRACE_EVENT_FORK: Final = 1
PTRACE_EVENT_VFORK: Final = 2
PTRACE_EVENT_CLONE: Final = 3
PTRACE_EVENT_EXEC: Final = 4
PTRACE_EVENT_VFORK_DONE: Final = 5
PTRACE_EVENT_EXIT: Final = 6
PTRACE_EVENT_SECCOMP: Final = 7
PTRACE_EVENT_STOP: Final = 128

PTRACE_O_TRACESYSGOOD: Final = 1 << 0
PTRACE_O_TRACEFORK: Final = 1 << PTRACE_EVENT_FORK
PTRACE_O_TRACEVFORK: Final = 1 << PTRACE_EVENT_VFORK
PTRACE_O_TRACECLONE: Final = 1 << PTRACE_EVENT_CLONE
PTRACE_O_TRACEEXEC: Final = 1 << PTRACE_EVENT_EXEC
PTRACE_O_TRACEEXIT: Final = 1 << PTRACE_EVENT_EXIT
PTRACE_O_EXITKILL: Final = 1 << 20
PTRACE_O_SUSPEND_SECCOMP: Final = 1 << 21

NT_PRSTATUS: Final = 1
NT_X86_XSTATE: Final = 0x202
NT_X86_SHSTK: Final = 0x204  # since v6.6; ENODEV where the thread has no shadow stack
NT_ARM_SYSTEM_CALL: Final = 0x404


class UserRegs(ctypes.Structure):
    """``struct user_regs_struct`` of x86-64."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
            "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es",
            "fs", "gs",
        )
    )  # fmt: skip


class UserPtRegs(ctypes.Structure):
    """``struct user_pt_regs`` of aarch64."""

    _fields_ = (
        ("regs", ctypes.c_uint64 * 31),
        ("sp", ctypes.c_uint64),
        ("pc", ctypes.c_uint64),
        ("pstate", ctypes.c_uint64),
    )


class PtraceRseqConfiguration(ctypes.Structure):
    """``struct ptrace_rseq_configuration``."""

    _fields_ = (
        ("rseq_abi_pointer", ctypes.c_uint64),
        ("rseq_abi_size", ctypes.c_uint32),
        ("signature", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class PtraceSudConfig(ctypes.Structure):
    """``struct ptrace_sud_config``: syscall user dispatch."""

    _fields_ = (
        ("mode", ctypes.c_uint64),
        ("selector", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("len", ctypes.c_uint64),
    )


class RseqCs(ctypes.Structure):
    """``struct rseq_cs``: one restartable sequence; ``abort_ip`` is where an interrupted one continues."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("start_ip", ctypes.c_uint64),
        ("post_commit_offset", ctypes.c_uint64),
        ("abort_ip", ctypes.c_uint64),
    )

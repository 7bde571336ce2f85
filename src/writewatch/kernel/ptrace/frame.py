"""The signal frame that lets a thread of x86-64 become itself again when its tracer dies half-way.

It is what the kernel writes below the stack pointer before it runs a signal handler: the registers, the vector
registers, the signal mask. The injected system call is begun at a ``syscall; ret`` with the stack pointer on the
frame. Its first word is the address of ``mov $15, %rax; syscall``: a thread that nobody stops returns into
rt_sigreturn, which restores everything at once, signal mask included. A tracer that lives takes the way of
``as_found()`` instead, which keeps the time that is left of a sleep as well.

Rules: below the red zone; the XSAVE area at a multiple of 64, with its two magic words, or the vector registers are
lost; ``ss_flags`` invalid, so that the alternate signal stack stays as it is.
Truth: ``arch/x86/kernel/signal_64.c:restore_sigcontext()``, ``arch/x86/kernel/fpu/signal.c:fpu__restore_sig()``,
``struct rt_sigframe`` in ``arch/x86/include/asm/sigframe.h``.

Runs in the helper process too: nothing here may import NumPy.
"""

from __future__ import annotations

import operator
import struct
from typing import Final

from writewatch.abi.ptrace import UserRegs

_RED_ZONE: Final = 128
_FP_XSTATE_MAGIC1: Final = 0x46505853
_FP_XSTATE_MAGIC2: Final = 0x46505845
#: Where ``struct _fpx_sw_bytes`` lies in the legacy area, and the mask of features in the header after it.
_SW_BYTES: Final = 464
_HEADER: Final = 512
#: UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
_UC_FLAGS: Final = 7
_NO_SUCH_FLAG: Final = 0x40

#: pretcode; uc_flags, uc_link; ss_sp, ss_flags, ss_size.
_HEAD: Final = struct.Struct("<Q QQ Qi4xQ")
#: r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags; cs, gs, fs, ss; err, trapno, oldmask, cr2; fpstate;
#: reserved1[8].
_SIGCONTEXT: Final = struct.Struct("<18Q4H4QQ64x")
_SIGINFO_BYTES: Final = 128
_FRAME_BYTES: Final = _HEAD.size + _SIGCONTEXT.size + 8 + _SIGINFO_BYTES
#: AMX's tile registers (XSTATE_BV bits 17 and 18) begin here in the standard format; what lies before is 2,696 bytes.
_TILES_AT: Final = 2752
_TILES: Final = 3 << 17
_WITHOUT_TILES: Final = 2696
#: Bytes of the smallest area: the legacy part and the header.
LEAST_AREA: Final = 576

_ORDER: Final = (
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    *("rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip", "eflags"),
)
_in_order: Final = operator.attrgetter(*_ORDER)


class NoFrameError(Exception):
    """Why the thread's state does not go into a frame, in words."""


def vector_state(area: bytes) -> bytes:
    """The part of an XSAVE area (NT_X86_XSTATE) that a frame takes.

    Raises:
        NoFrameError: Tile registers are in use: a frame with them takes 11 KiB, and a permission that we cannot see.
    """
    (in_use,) = struct.unpack_from("<Q", area, _HEADER)
    if in_use & _TILES:
        raise NoFrameError("its AMX tile registers are in use")
    return area[:_WITHOUT_TILES] if len(area) > _TILES_AT else area


def build(
    registers: UserRegs, stack_pointer: int, mask: bytes, area: bytes, sigreturn: int
) -> tuple[int, bytes]:
    """Lay a frame out below a stack pointer.

    Args:
        registers: What rt_sigreturn is to restore.
        stack_pointer: Of the thread now.
        mask: Its blocked signals, 8 bytes.
        area: Its XSAVE area, see ``vector_state()``.
        sigreturn: Address of ``mov $15, %rax; syscall``.

    Returns:
        Address of the first byte, which becomes the stack pointer, and the bytes.
    """
    fp_bytes = len(area) + 4
    fp_at = (stack_pointer - _RED_ZONE - fp_bytes) & ~63
    at = ((fp_at - _FRAME_BYTES) & ~15) - 8  # as a function finds it: 8 below a multiple of 16
    data = bytearray(fp_at + fp_bytes - at)
    _HEAD.pack_into(data, 0, sigreturn, _UC_FLAGS, 0, 0, _NO_SUCH_FLAG, 0)
    segments = registers.cs & 0xFFFF, 0, 0, registers.ss & 0xFFFF
    _SIGCONTEXT.pack_into(data, _HEAD.size, *_in_order(registers), *segments, 0, 0, 0, 0, fp_at)
    after = _HEAD.size + _SIGCONTEXT.size
    data[after : after + 8] = mask
    data[fp_at - at :] = _with_magic(area)
    return at, bytes(data)


def _with_magic(area: bytes) -> bytes:
    """The area as the kernel leaves it in a frame: how long it is, which features, and a word after its end."""
    features = struct.unpack_from("<Q", area, _SW_BYTES)[0] or struct.unpack_from("<Q", area, _HEADER)[0] | 3
    marked = bytearray(area)
    struct.pack_into("<IIQI28x", marked, _SW_BYTES, _FP_XSTATE_MAGIC1, len(area) + 4, features, len(area))
    return bytes(marked) + struct.pack("<I", _FP_XSTATE_MAGIC2)

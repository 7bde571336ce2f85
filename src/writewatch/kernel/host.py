"""Facts about this machine and this process that tracking depends on but does not ask ``KernelCalls`` for.

Trials like those in ``offers.py``.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Final

from writewatch.abi.calls import KernelCalls
from writewatch.kernel import libc
from writewatch.kernel.refusals import CAP_SYS_PTRACE, NotWorkingError, read_text, surroundings

_THP: Final = "/sys/kernel/mm/transparent_hugepage/enabled"
_HUGETLB: Final = "/sys/kernel/mm/hugepages"
_YAMA: Final = "/proc/sys/kernel/yama/ptrace_scope"


class _Iovec(ctypes.Structure):
    _fields_ = (("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t))


def thp(_: KernelCalls) -> str:
    """Transparent huge pages are on, always or where ``madvise`` asks."""
    match = re.search(r"\[(\w+)\]", read_text(_THP) or "")
    if match is None:
        raise NotWorkingError("this kernel has no transparent huge pages", "kernel")
    if match[1] == "never":
        raise NotWorkingError("switched off", "sysctl", f"as root: echo madvise > {_THP}")
    return f"mode {match[1]}"


def hugetlb(_: KernelCalls) -> str:
    """There are free hugetlb pages."""
    pools = sorted(Path(_HUGETLB).glob("hugepages-*kB"))
    if not pools:
        raise NotWorkingError("this kernel has no hugetlb pages", "kernel")
    free = {pool.name[10:]: int(read_text(f"{pool}/free_hugepages") or 0) for pool in pools}
    if not any(free.values()):
        mend = f"as root: echo 64 > {_HUGETLB}/hugepages-2048kB/nr_hugepages"
        raise NotWorkingError("no page is free", "sysctl", mend)
    return ", ".join(f"{count} of {size}" for size, count in free.items())


def process_vm_readv(calls: KernelCalls) -> str:
    """The system call reads this process."""
    source = ctypes.create_string_buffer(b"writewatch")
    target = ctypes.create_string_buffer(len(source))
    local = _Iovec(ctypes.addressof(target), len(target))
    remote = _Iovec(ctypes.addressof(source), len(source))
    addresses = ctypes.addressof(local), 1, ctypes.addressof(remote), 1
    libc.syscall("process_vm_readv", os.getpid(), *addresses, 0)
    if target.raw != source.raw:
        raise NotWorkingError("the system call reads something else", "kernel")
    return "this process can be read"


def ptrace(_: KernelCalls) -> str:
    """Processes of the same user may be traced."""
    scope = int(read_text(_YAMA) or 0)
    if scope == 0:
        return "processes of the same user"
    if scope < 3 and surroundings().has(CAP_SYS_PTRACE):
        return "any process, by CAP_SYS_PTRACE"
    if scope == 1:
        mend = "start the program under writewatch, or as root: sysctl kernel.yama.ptrace_scope=0"
        raise NotWorkingError("only own children (Yama 1)", "sysctl", mend)
    if scope == 2:
        raise NotWorkingError("only with CAP_SYS_PTRACE (Yama 2)", "sysctl", "run as root")
    raise NotWorkingError("nobody (Yama 3)", "sysctl", "reboot without kernel.yama.ptrace_scope=3")


def memlock(_: KernelCalls) -> str:
    """How much memory this process may lock."""
    import resource

    soft, hard = (
        "no limit" if limit == resource.RLIM_INFINITY else f"{limit >> 10} KiB"
        for limit in resource.getrlimit(resource.RLIMIT_MEMLOCK)
    )
    return f"{soft} (at most {hard})" if soft != hard else soft


def pinned(calls: KernelCalls) -> str:
    """Nothing is pinned: a device writes pinned memory without a trace in our page tables."""
    n_bytes = calls.pinned_bytes(None)
    if n_bytes:
        raise NotWorkingError(
            f"{n_bytes >> 10} KiB are pinned; a device may write them unseen",
            "kernel",
            "name those ranges to the tracker with pinned=, so that they are always reported",
        )
    return "nothing is pinned for a device"

"""Trials of what Linux offers: descriptors, features, ioctls. Half of those behind ``capabilities()``.

A trial takes the calls, tries, and returns in a few words what was seen, or raises: ``NotWorkingError`` when
it knows why the thing does not work, ``OSError`` when the errno says it. Whatever happens, nothing remains:
no descriptor, no mapping, no thread, no child, and no bit of anybody else's memory is touched.
"""

from __future__ import annotations

import errno
import os

from writewatch.abi import pagemap as pm
from writewatch.abi import userfaultfd as abi
from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import MAP_ANONYMOUS, MAP_SHARED, PROT_READ, PROT_WRITE
from writewatch.kernel.opening import open_userfaultfd
from writewatch.kernel.refusals import (
    NotWorkingError,
    explain_device,
    explain_pagemap,
    explain_userfaultfd,
)
from writewatch.kernel.scratch import Scratch, scratch
from writewatch.kernel.userfaultfd import Userfaultfd

# ---- userfaultfd ---------------------------------------------------------------------------------


def userfaultfd(calls: KernelCalls) -> str:
    """A descriptor for faults from user mode, by any way there is."""
    try:
        calls.close(open_userfaultfd(calls, device=False))
    except OSError as refusal:
        try:
            calls.close(open_userfaultfd(calls, device=True))
        except OSError:
            raise explain_userfaultfd(refusal, user_mode_only=True) from refusal
        return f"by /dev/userfaultfd; the system call answers {os.strerror(refusal.errno or 0)}"
    return "by the system call, without privilege"


def kernel_faults(calls: KernelCalls) -> str:
    """A descriptor that also handles faults which system calls take."""
    try:
        calls.close(open_userfaultfd(calls, user_mode_only=False))
    except OSError as refusal:
        raise explain_userfaultfd(refusal, user_mode_only=False) from refusal
    return "faults that system calls take can be handled"


def dev_userfaultfd(calls: KernelCalls) -> str:
    """A descriptor from the device."""
    try:
        calls.close(open_userfaultfd(calls, device=True))
    except OSError as refusal:
        raise explain_device(refusal) from refusal
    return "/dev/userfaultfd opens"


def all_features(calls: KernelCalls) -> int:
    """The features that the kernel has. One throw-away descriptor: the handshake works once."""
    with Userfaultfd(calls=calls) as uffd:
        features: int = uffd.features
        return features


def wp_async(calls: KernelCalls) -> str:
    """``UFFD_FEATURE_WP_ASYNC`` can be enabled."""
    return _enable(calls, "WP_ASYNC")


def wp_unpopulated(calls: KernelCalls) -> str:
    """``UFFD_FEATURE_WP_UNPOPULATED`` can be enabled."""
    return _enable(calls, "WP_UNPOPULATED")


def _enable(calls: KernelCalls, name: str) -> str:
    feature = next(feature for feature in abi.FEATURES if feature.name == name)
    try:
        Userfaultfd(feature.bit, calls=calls).close()
    except OSError as refusal:
        if refusal.errno != errno.EINVAL:
            raise
        since = ".".join(map(str, feature.since))
        raise NotWorkingError(
            f"this kernel does not know UFFD_FEATURE_{name}", "kernel", f"use Linux {since} or newer"
        ) from refusal
    return f"UFFD_FEATURE_{name} can be enabled"


def wp_shmem(calls: KernelCalls) -> str:
    """Shared memory can be registered for write-protection."""
    length = calls.page_size
    start = calls.mmap(0, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS)
    try:
        with Userfaultfd(calls=calls) as uffd:
            uffd.register(start, length, wp=True)
            has_hugetlb = uffd.features & abi.UFFD_FEATURE_WP_HUGETLBFS_SHMEM
    except OSError as refusal:
        if refusal.errno != errno.EINVAL:
            raise
        detail = "shared memory cannot be registered for write-protection"
        raise NotWorkingError(detail, "kernel", "use Linux 5.19 or newer") from refusal
    finally:
        calls.munmap(start, length)
    return "shared memory and hugetlb memory" if has_hugetlb else "shared memory"


# ---- pagemap -------------------------------------------------------------------------------------


def pagemap(calls: KernelCalls) -> str:
    """/proc/self/pagemap opens, and tells a page that is there from one that is not."""
    try:
        with scratch(calls, 2) as memory:
            memory.write(0)
            present = [bool(int(entry) & pm.PM_PRESENT) for entry in memory.entries()]
    except (PermissionError, FileNotFoundError) as refusal:
        raise explain_pagemap(refusal) from refusal
    if present != [True, False]:
        raise NotWorkingError(f"a page that is there and one that is not are shown as {present}", "kernel")
    return "/proc/self/pagemap can be read"


def pfn(calls: KernelCalls) -> str:
    """Frame numbers are shown."""
    with scratch(calls, 1) as memory:
        memory.write(0)
        if not int(memory.entries()[0]) & pm.PM_PFRAME_MASK:
            raise NotWorkingError(
                "frame numbers are hidden", "permission", "run with CAP_SYS_ADMIN; tracking does without"
            )
    return "frame numbers are shown"


def pagemap_scan(calls: KernelCalls) -> str:
    """PAGEMAP_SCAN knows WPALLOWED and WRITTEN."""
    try:
        with scratch(calls, 1) as memory:
            memory.scan(mask=pm.PAGE_IS_WPALLOWED, returned=pm.PAGE_IS_WRITTEN)
    except OSError as refusal:
        if refusal.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        raise NotWorkingError(f"{refusal.strerror}", "kernel", "use Linux 6.7 or newer") from refusal
    return "PAGEMAP_SCAN answers"


def all_categories(calls: KernelCalls) -> int:
    """Every category that PAGEMAP_SCAN knows: a scan of nothing that names an unknown one is EINVAL."""
    with scratch(calls, 1) as memory:
        nothing = Scratch(calls, memory.start, 0, memory.pagemap)
        return sum(bit for bit in pm.CATEGORIES if _accepts(nothing, bit))


def _accepts(nothing: Scratch, category: int) -> bool:
    try:
        nothing.scan(mask=category)
    except OSError:
        return False
    return True

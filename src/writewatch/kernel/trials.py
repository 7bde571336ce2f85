"""Trials of tracking itself: write to some pages, and see whether exactly those are reported.

The second half of those behind ``capabilities()``; ``offers.py`` says what a trial is.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from writewatch.abi import pagemap as pm
from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import MADV_COLLAPSE, MADV_DONTNEED, MADV_HUGEPAGE
from writewatch.kernel import bugs, soft_dirty_child
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.hiding import unhidden
from writewatch.kernel.messages import Message, Pagefault
from writewatch.kernel.refusals import NotWorkingError
from writewatch.kernel.scratch import Scratch, registered, scratch
from writewatch.kernel.userfaultfd import Userfaultfd
from writewatch.pages import round_up

_N_PAGES: Final = soft_dirty_child.N_PAGES
_WRITTEN: Final = soft_dirty_child.WRITTEN
# How long a message may take, which takes Linux microseconds, and a child with an interpreter in it, which may
# be emulated. After that the thing counts as not working.
_MESSAGE_SECONDS: Final = 5.0
_CHILD_SECONDS: Final = 30.0
# With 64 KiB pages a huge page has 512 MiB: more than a trial may take.
_MOST_FOR_A_TRIAL: Final = 32 << 20


def is_real(calls: KernelCalls) -> bool:
    """Whether the calls go to the running kernel, hidden features or not."""
    return isinstance(unhidden(calls), LinuxCalls)


def refuse_if_affected(calls: KernelCalls, bug: bugs.KernelBug) -> None:
    """Raise when the running kernel has a bug; calls that are not the kernel's have none."""
    if is_real(calls) and bug.affects(bugs.running_release()):
        raise NotWorkingError(f"refused on this kernel: {bug.name}; {bug.effect}", "kernel", bug.mend())


def uffd_wp_async(calls: KernelCalls) -> str:
    """Writes are reported by a scan that protects again, and not by the next."""
    refuse_if_affected(calls, bugs.DIRTY_BITS_LOST)
    with scratch(calls, _N_PAGES) as memory, registered(memory) as uffd:
        uffd.write_protect(memory.start, memory.length)
        memory.write(*_WRITTEN)
        first = memory.written(flags=pm.PM_SCAN_WP_MATCHING | pm.PM_SCAN_CHECK_WPASYNC)
        second = memory.written(flags=pm.PM_SCAN_CHECK_WPASYNC)
    if (first, second) != (_WRITTEN, ()):
        raise NotWorkingError(f"wrote pages {_WRITTEN}; a scan says {first}, the next {second}", "kernel")
    return "a write shows up, an unwritten page does not"


def uffd_wp_sync(calls: KernelCalls) -> str:
    """A write to a protected page waits for its handler and then goes on."""
    if not is_real(calls):
        raise NotWorkingError("not tried: it takes a second thread of a real process", "kernel")
    with scratch(calls, 1) as memory, Userfaultfd(calls=calls) as uffd:
        memory.write(0)  # before v6.4 only a page that is there can be protected
        uffd.register(memory.start, memory.length, wp=True)
        uffd.write_protect(memory.start, memory.length)
        seen = _messages_of_a_write(memory, uffd)
    if len(seen) != 1 or not isinstance(seen[0], Pagefault) or not seen[0].is_wp:
        raise NotWorkingError(f"a write to a protected page gave {seen}, not one message", "kernel")
    return "a write waits for its handler"


def _messages_of_a_write(memory: Scratch, uffd: Userfaultfd) -> tuple[Message, ...]:
    # The store runs without the GIL (libc.memmove through ctypes), so a writer that waits holds up nobody.
    writer = threading.Thread(target=memory.write, args=(0,), daemon=True)
    try:
        writer.start()
    except RuntimeError as error:
        raise NotWorkingError(str(error), "limit", "raise the limit of processes, see `ulimit -u`") from error
    try:
        return uffd.read() if uffd.poll(_MESSAGE_SECONDS) else ()
    finally:
        # Unregistering does not wake a writer; waking does. Closing does both, where a filter refuses one of them, but
        # not while a forked child has a copy.
        for release in (uffd.unregister, uffd.wake):
            with suppress(OSError):
                release(memory.start, memory.length)
        uffd.close()
        writer.join()


def soft_dirty(calls: KernelCalls) -> str:
    """After the bits were cleared, a written page has its bit set, and an unwritten one has not."""
    # New mappings are soft-dirty throughout. One that is not says: CONFIG_MEM_SOFT_DIRTY is off. Clearing
    # would then succeed and do nothing, so no errno tells.
    with scratch(calls, 1) as memory:
        memory.write(0)
        if not int(memory.entries()[0]) & pm.PM_SOFT_DIRTY:
            mend = "use a kernel built with CONFIG_MEM_SOFT_DIRTY"
            raise NotWorkingError("a written page is not marked", "kernel", mend)
    refuse_if_affected(calls, bugs.SOFT_DIRTY_LOST)
    seen = _soft_dirty_in_a_child() if is_real(calls) else _soft_dirty_here(calls)
    if seen != _WRITTEN:
        raise NotWorkingError(f"wrote pages {_WRITTEN}; marked are {seen}", "kernel")
    return "a write shows up, an unwritten page does not"


def _soft_dirty_here(calls: KernelCalls) -> tuple[int, ...]:
    with scratch(calls, _N_PAGES) as memory:
        memory.write(*range(_N_PAGES))
        calls.clear_refs(None, pm.CLEAR_REFS_SOFT_DIRTY)
        memory.write(*_WRITTEN)
        return tuple(page for page, entry in enumerate(memory.entries()) if int(entry) & pm.PM_SOFT_DIRTY)


def _soft_dirty_in_a_child() -> tuple[int, ...]:
    import subprocess  # only here, and only where soft-dirty is likely to work

    if not Path(sys.executable or "").name.startswith(("python", "pypy")):
        raise NotWorkingError("not tried: no Python interpreter to run the trial in", "kernel")
    command = [sys.executable, "-I", "-S", soft_dirty_child.__file__]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=_CHILD_SECONDS, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NotWorkingError(f"the trial did not run: {error}", "kernel") from error
    return tuple(int(page) for page in done.stdout.split())


# ---- what is dropped must be reported --------------------------------------------------------------


def pte_holes(calls: KernelCalls) -> str:
    """A dropped page is written, whichever masks ask."""
    with scratch(calls, 1) as memory, registered(memory):
        memory.write(0)
        calls.madvise(memory.start, memory.length, MADV_DONTNEED)
        exact = memory.written()
        other = memory.pages(memory.scan(anyof=pm.PAGE_IS_WRITTEN, returned=pm.PAGE_IS_WRITTEN))
    if not exact:
        raise NotWorkingError("a dropped page is not reported", "kernel")
    if exact != other:
        raise NotWorkingError(
            "a dropped page is reported only to a request for exactly WRITTEN, the one that trackers make",
            "kernel",
            "use Linux 6.12.105, 6.18.44 or newer for other masks",
        )
    return "dropped pages are reported"


def pmd_holes(calls: KernelCalls) -> str:
    """The pages of a protected huge page that was dropped whole are all written."""
    size = calls.huge_page_size
    if size > _MOST_FOR_A_TRIAL:
        raise NotWorkingError(f"not tried: a huge page has {size >> 20} MiB", "kernel")
    with scratch(calls, 2 * size // calls.page_size) as room:
        start = round_up(room.start, size)
        memory = Scratch(calls, start, size // calls.page_size, room.pagemap)
        if not _becomes_huge(memory):
            raise NotWorkingError("not tried: Linux gave no huge page", "kernel")
        with registered(memory) as uffd:
            uffd.write_protect(memory.start, memory.length)
            calls.madvise(memory.start, memory.length, MADV_DONTNEED)
            n_written = len(memory.written())
    if n_written != memory.n_pages:
        raise NotWorkingError(
            f"of a dropped huge page {n_written} of {memory.n_pages} pages are reported",
            "kernel",
            "use Linux 6.12.105, 6.18.44 or newer",
        )
    return "dropped huge pages are reported"


def _becomes_huge(memory: Scratch) -> bool:
    # Where huge pages are switched off, collapsing still makes one (since v6.1).
    with suppress(OSError):
        memory.calls.madvise(memory.start, memory.length, MADV_HUGEPAGE)
    memory.write(0)
    if not _is_huge(memory):
        with suppress(OSError):
            memory.calls.madvise(memory.start, memory.length, MADV_COLLAPSE)
    return _is_huge(memory)


def _is_huge(memory: Scratch) -> bool:
    return len(memory.pages(memory.scan(mask=pm.PAGE_IS_HUGE))) == memory.n_pages


def vecless_scan(calls: KernelCalls) -> str:
    """A scan that protects may do without a vec."""
    refuse_if_affected(calls, bugs.VECLESS_PANIC)
    return "safe by release: a scan that protects may do without a vec"


def hugetlb_scan(calls: KernelCalls) -> str:
    """A scan may protect hugetlb memory that was never touched."""
    refuse_if_affected(calls, bugs.HUGETLB_HOLE_DEADLOCK)
    return "safe by release: a scan may protect hugetlb memory never touched"

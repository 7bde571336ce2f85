"""The model's settings that make it a machine like this one."""

from __future__ import annotations

import os
import re
from typing import Any, Final

from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.probe import capabilities
from writewatch.kernel.refusals import CAP_SYS_PTRACE, read_text, surroundings
from writewatch.model.machine import Settings

_THP: Final = "/sys/kernel/mm/transparent_hugepage"
#: Other modes of ``shmem_enabled``, by what they do to a mapping that is as large as a huge page.
_SHMEM_THP: Final = {"within_size": "always", "force": "always", "deny": "never"}


def settings_here() -> Settings:
    """What this machine has: page sizes, huge pages, swap, and the rights of this process."""
    calls, here = LinuxCalls(), surroundings()
    return Settings(
        page_size=calls.page_size,
        huge_page_size=calls.huge_page_size,
        **_huge_pages(calls.huge_page_size),
        swap_pages=_meminfo("SwapFree") // calls.page_size,
        soft_dirty=capabilities()["soft_dirty"].works,
        memory_failure=os.path.exists("/proc/sys/vm/memory_failure_recovery"),
        # Either lets a process have a userfaultfd that serves faults of the kernel.
        privileged=here.has(CAP_SYS_PTRACE) or here.sysctl == 1,
    )


def _huge_pages(huge_page_size: int) -> dict[str, Any]:
    shmem = _chosen("shmem_enabled")
    pool = f"/sys/kernel/mm/hugepages/hugepages-{huge_page_size >> 10}kB"
    # Free pages are promised to mappings before they are taken.
    free, promised = (int(read_text(f"{pool}/{name}_hugepages") or 0) for name in ("free", "resv"))
    return {
        "thp": _chosen("enabled"),
        "shmem_thp": _SHMEM_THP.get(shmem, shmem),
        "use_zero_page": (read_text(f"{_THP}/use_zero_page") or "1").strip() == "1",
        "hugetlb_pages": max(free - promised, 0),
    }


def _chosen(name: str) -> str:
    found = re.search(r"\[(\w+)\]", read_text(f"{_THP}/{name}") or "")
    return found[1] if found else "never"


def _meminfo(name: str) -> int:
    """A figure of /proc/meminfo, in bytes."""
    found = re.search(rf"^{name}: +(\d+) kB", read_text("/proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) << 10 if found else 0

"""What tracking shows on the kernel that runs this: ``python -m scripts.kernels.observe FILE`` writes JSON.

Each backend is tried on two kinds of memory, and with stores made by the program and by the kernel: three of
sixteen pages are written, and what a collect reports is told apart: exactly these, more than these, fewer
(which no backend may do, ever), or a refusal.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import writewatch as ww

BACKENDS = ("uffd-wp", "soft-dirty", "content-hash", "uffd-wp-sync", "every-page")
N_PAGES = 16
WRITTEN = (2, 3, 11)
PAGE = mmap.PAGESIZE

Store = Callable[[memoryview, int], None]


def store_by_program(memory: memoryview, offset: int) -> None:
    """An ordinary store."""
    memory[offset] = 7


def store_by_kernel(memory: memoryview, offset: int) -> None:
    """read(2) into the page: the kernel stores."""
    descriptor = os.open("/dev/zero", os.O_RDONLY)
    try:
        os.readv(descriptor, [memory[offset : offset + 1]])
    finally:
        os.close(descriptor)


TRIALS: dict[str, tuple[int, Store]] = {
    "private memory": (mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, store_by_program),
    "private memory, `read(2)` into it": (mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, store_by_kernel),
    "shared memory": (mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, store_by_program),
}


def try_backend(backend: str, flags: int, store: Store) -> dict[str, str]:
    """Write three pages, collect, collect again."""
    buffer = mmap.mmap(-1, N_PAGES * PAGE, flags=flags)
    memory = memoryview(buffer)
    memory[:] = b"\x01" * len(memory)
    try:
        with ww.track(memory, backend=backend) as tracker:
            for page in WRITTEN:
                store(memory, page * PAGE)
            dirty, again = tracker.collect(), tracker.collect()
            reported = set(dirty.pages(memory).tolist())
            return judged(reported, again.n_pages)
    except (ww.WriteWatchError, OSError) as error:
        return {"result": "no", "reason": str(error)}
    finally:
        memory.release()
        buffer.close()


def judged(reported: set[int], n_again: int) -> dict[str, str]:
    """Put what two collects reported into words."""
    if missed := set(WRITTEN) - reported:
        return {"result": f"MISSED {len(missed)}", "reason": "a written page was not reported"}
    if reported != set(WRITTEN):
        return {"result": f"all, and {len(reported) - len(WRITTEN)} more", "reason": ""}
    return {"result": "exact" if not n_again else f"exact, then {n_again} again", "reason": ""}


def observed() -> dict[str, Any]:
    """Everything that the matrix says of one kernel, but for the test-suites."""
    with ww.track(bytearray(PAGE)) as tracker:
        chosen, why = tracker.backend, tracker.reason
    release = platform.release()
    return {
        "series": ".".join(release.split(".")[:2]).partition("-")[0],
        "release": release,
        "machine": f"{platform.machine()}, {transparent_huge_pages()}",
        "chosen": chosen,
        "why": why,
        "features": {
            item.name: {"works": item.works, "reason": f"{item.detail}; {item.mend}".rstrip("; ")}
            for item in ww.capabilities()
        },
        "backends": {
            name: {kind: try_backend(name, *how) for kind, how in TRIALS.items()} for name in BACKENDS
        },
    }


def transparent_huge_pages() -> str:
    """``THP always``, or what the kernel is set to."""
    try:
        setting = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "no THP"
    return f"THP {setting.partition('[')[2].partition(']')[0]}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(observed(), indent=1) + "\n")

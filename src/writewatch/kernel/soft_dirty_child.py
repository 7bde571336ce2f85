"""Whether soft-dirty works, tried out in a process of its own. Run as a script; standard library only.

``clear_refs`` clears the soft-dirty bits of the *whole* process. Done in the caller it would take the writes
of every other user of them: a tracker of ours, or CRIU between two dumps. So a process that nobody
watches does it: it writes pages 2, 3 and 11 of 16 and prints which ones are reported.
"""

from __future__ import annotations

import mmap
import os
import re

N_PAGES = 16
WRITTEN = (2, 3, 11)
_SOFT_DIRTY = 1 << 55


def _soft_dirty_pages() -> tuple[int, ...]:
    # A memory file has a name, so its mapping is found in /proc/self/maps; the pages are private copies.
    file = os.memfd_create("writewatch-trial")
    os.ftruncate(file, N_PAGES * mmap.PAGESIZE)
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    with mmap.mmap(file, 0, mmap.MAP_PRIVATE) as memory:
        for page in range(N_PAGES):
            memory[page * mmap.PAGESIZE] = 1
        with open("/proc/self/clear_refs", "wb", buffering=0) as clear_refs:
            clear_refs.write(b"4")
        for page in WRITTEN:
            memory[page * mmap.PAGESIZE] = 2
        entries = os.pread(pagemap, 8 * N_PAGES, _start_of_mapping() // mmap.PAGESIZE * 8)
    words = memoryview(entries).cast("Q")
    return tuple(page for page, word in enumerate(words) if word & _SOFT_DIRTY)


def _start_of_mapping() -> int:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        match = re.search(r"^([0-9a-f]+)-.*/memfd:writewatch-trial", maps.read(), re.MULTILINE)
    assert match is not None
    return int(match[1], 16)


if __name__ == "__main__":
    print(*_soft_dirty_pages())

"""``python -m tests.model.speed``: how fast faults are simulated, and how small a large address space is.

Prints each figure beside the least (or most) that it should be, and ends with 1 when one is missed. Not a test: figures
are of the machine and of who else uses it.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from tests.model.worlds import BASE, PRIVATE, RW, Area

_TEBIBYTE = 1 << 40
_LARGE = BASE + _TEBIBYTE


def batch_faults() -> float:
    """Asynchronous write faults a second, all addresses in one call; the best of three."""
    return max(_batch(Area(1 << 16)) for _ in range(3))


def _batch(area: Area) -> float:
    area.fill()
    area.armed()
    addresses = area.start + np.random.default_rng(1).permutation(area.n_pages) * area.page
    before, started = area.calls.completed_faults(), time.perf_counter()
    area.calls.touch(addresses, 2)
    return (area.calls.completed_faults() - before) / (time.perf_counter() - started)


def single_faults() -> float:
    """The same, one store a call; the best of three."""
    return max(_single(Area(1 << 13)) for _ in range(3))


def _single(area: Area) -> float:
    area.fill()
    area.armed()
    addresses = (area.start + np.arange(area.n_pages) * area.page).tolist()
    before, started = area.calls.completed_faults(), time.perf_counter()
    for address in addresses:
        area.calls.store(address, b"\x02")
    return (area.calls.completed_faults() - before) / (time.perf_counter() - started)


def large_space_mib() -> float:
    """MiB of this process that 1 TiB with 1 % of its pages touched takes."""
    area, before = Area(), _resident()
    area.calls.mmap(_LARGE, _TEBIBYTE, RW, PRIVATE)
    rng, n_pages = np.random.default_rng(7), _TEBIBYTE >> 12
    for part in range(64):
        first = n_pages // 64 * part
        places = first + rng.choice(n_pages // 64, n_pages // 6400, replace=False)
        area.calls.touch(_LARGE + np.sort(places) * 4096, 1)
    return (_resident() - before) / (1 << 20)


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def main() -> int:
    """Measure and print."""
    batch, single, large = batch_faults(), single_faults(), large_space_mib()
    print(f"faults in one call: {batch:,.0f} a second (at least 200,000)")
    print(f"faults one by one: {single:,.0f} a second (at least 20,000)")
    print(f"1 TiB, 1 % touched: {large:,.0f} MiB (at most 1,024)")
    return 0 if batch >= 200_000 and single >= 20_000 and large <= 1024 else 1


if __name__ == "__main__":
    sys.exit(main())

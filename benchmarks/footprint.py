"""What a tracker itself holds in memory, for patterns that are easy and hard to keep small.

Each pattern runs in a fresh process: the tracked array is written to and tracked; then the same
pages are written and collected for some epochs, while a second consumer collects nothing, so that all
of them stay pending for it. Counted is what the process gained since before ``track``: by the resident set,
which has everything, and by tracemalloc, which has what Python and NumPy asked for, and its peak. What was freed
and malloc keeps for later is given back to the system first: it is the process's, no tracker holds it.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

import writewatch as ww
from writewatch.observe.benchmark.memory import allocate, choose_pages

_EPOCHS: Final = 4

PATTERNS: Final[dict[str, Callable[[int], NDArray[np.int64]]]] = {
    "nothing": lambda n: np.arange(0),
    "1 % random": lambda n: choose_pages(n, 0.01, "random"),
    "10 % random": lambda n: choose_pages(n, 0.1, "random"),
    "every other page": lambda n: np.arange(0, n, 2),
    "everything": np.arange,
}


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes, for one pattern.

    Attributes:
        pattern: A key of ``PATTERNS``.
        tracked_bytes: What is tracked.
        resident_bytes: Gain of the resident set: after the last collect, its result dropped.
        held_bytes: Gain by tracemalloc at the same moment.
        peak_bytes: Most by tracemalloc at any moment, results of collects included.
        table_bytes: Gain of the page tables (``VmPTE``), which Linux holds and no resident set has.
    """

    pattern: str
    tracked_bytes: int
    resident_bytes: int
    held_bytes: int
    peak_bytes: int
    table_bytes: int

    @property
    def share(self) -> float:
        """The greater of both gains, as a share of what is tracked."""
        return max(self.resident_bytes, self.held_bytes) / self.tracked_bytes


def footprint(pattern: str, size_bytes: int) -> Footprint:
    """Measure one pattern in a fresh process, twice: tracemalloc's own books would count as resident."""
    resident = _in_child(pattern, size_bytes, "resident")
    traced = _in_child(pattern, size_bytes, "traced")
    return Footprint(
        pattern,
        size_bytes,
        resident["resident_bytes"],
        traced["held_bytes"],
        traced["peak_bytes"],
        resident["table_bytes"],
    )


def _in_child(pattern: str, size_bytes: int, mode: str) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.footprint", pattern, str(size_bytes), mode]
    done = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1])
    result: dict[str, int] = json.loads(done.stdout)
    return result


def _measure(pattern: str, size_bytes: int, *, traced: bool) -> dict[str, int]:
    _exercise("1 % random", 8 << 20)  # everything that is loaded or made on first use is there
    memory = allocate(size_bytes, "4k")
    pages = PATTERNS[pattern](memory.n_pages)
    memory.touch(pages)
    if traced:
        tracemalloc.start()
    before = _status()
    with ww.track(memory.buffer) as tracker:
        waiting = tracker.consumer("waiting")
        for _ in range(_EPOCHS):
            memory.touch(pages)
            tracker.collect()
        after = _status()
        held, peak = tracemalloc.get_traced_memory()
        waiting.close()
    gain = {f"{name}_bytes": after[name] - before[name] for name in before}
    return gain | {"held_bytes": held, "peak_bytes": peak}


def _exercise(pattern: str, size_bytes: int) -> None:
    memory = allocate(size_bytes, "4k")
    with ww.track(memory.buffer) as tracker:
        memory.touch(PATTERNS[pattern](memory.n_pages))
        tracker.collect()


def _status() -> dict[str, int]:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; others do not hoard
    if trim is not None:
        trim(ctypes.c_size_t(0))
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    return {
        name: int(fields[key].split()[0]) << 10 for name, key in (("resident", "VmRSS"), ("table", "VmPTE"))
    }


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], int(sys.argv[2]), traced=sys.argv[3] == "traced")))

"""10,000 arrays of 16 KiB in one tracker, beside one buffer of the same total size.

Where the arrays lie decides. NumPy takes arrays of this size from the heap, one after the other, so that they
make few ranges, and those hold the heap's own bookkeeping too. The second layout is the hardest there
is: so much untracked memory between any two that each is a range of its own, and asked by a system call of
its own.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

import writewatch as ww
from writewatch.observe.benchmark.memory import allocate
from writewatch.observe.benchmark.timing import Effort, Spread, interleave, paired_ratio, timed

N_BUFFERS: Final = 10_000
BUFFER_BYTES: Final = 16 << 10
_BETWEEN: Final = 128 << 10
_DIRTY_SHARE: Final = 100  # one array in so many is written to


@dataclass(frozen=True, slots=True)
class ManyBuffers:
    """Collect of one tracker over many arrays.

    Attributes:
        layout: ``heap`` or ``apart``.
        n_buffers, buffer_bytes: What is tracked.
        track_ns: Starting the tracker, once.
        many_ns, one_ns: Collect over all of them, and over one buffer of their total size.
        ratio: The first to the second.
    """

    layout: str
    n_buffers: int
    buffer_bytes: int
    track_ns: int
    many_ns: Spread
    one_ns: Spread
    ratio: Spread


def many_buffers(
    layout: str, n_buffers: int = N_BUFFERS, buffer_bytes: int = BUFFER_BYTES, effort: Effort | None = None
) -> ManyBuffers:
    """Measure one of ``LAYOUTS``: the same number of pages is written in the same places of both."""
    arrays = LAYOUTS[layout](n_buffers, buffer_bytes)
    whole = allocate(n_buffers * buffer_bytes, "4k")
    made: list[ww.Tracker] = []
    track_ns = timed(lambda: made.append(ww.track(*arrays)))
    with made[0] as many, ww.track(whole.buffer) as one:
        subjects = {
            "one": lambda: _collect(one, list(whole.buffer.reshape(n_buffers, buffer_bytes))),
            "many": lambda: _collect(many, arrays),
        }
        taken = interleave(subjects, effort or Effort(warmups=2, least=9, most=101, seconds=3))
    ratio = paired_ratio(taken["many"], taken["one"])
    many_ns, one_ns = Spread.of(taken["many"]), Spread.of(taken["one"])
    return ManyBuffers(layout, n_buffers, buffer_bytes, track_ns, many_ns, one_ns, ratio)


def _collect(tracker: ww.Tracker, arrays: list[NDArray[np.uint8]]) -> int:
    written = arrays[::_DIRTY_SHARE]
    for array in written:
        array[len(array) // 2] += 1
    found: list[ww.DirtySet] = []
    took = timed(lambda: found.append(tracker.collect()))
    if found[0].n_pages < len(written):
        raise AssertionError(f"{len(written)} arrays were written, {found[0].n_pages} pages reported")
    return took


def _on_heap(n_buffers: int, buffer_bytes: int) -> list[NDArray[np.uint8]]:
    return [np.ones(buffer_bytes, np.uint8) for _ in range(n_buffers)]


def _apart(n_buffers: int, buffer_bytes: int) -> list[NDArray[np.uint8]]:
    step = buffer_bytes + _BETWEEN
    mapping = mmap.mmap(-1, n_buffers * step, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_NOHUGEPAGE)
    whole = np.frombuffer(mapping, np.uint8).reshape(n_buffers, step)
    whole[:, :buffer_bytes] = 1  # what lies between stays unpopulated
    return list(whole[:, :buffer_bytes])


LAYOUTS: Final[dict[str, Callable[[int, int], list[NDArray[np.uint8]]]]] = {"heap": _on_heap, "apart": _apart}

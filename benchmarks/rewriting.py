"""A program that rewrites everything each epoch: the worst case of write-protection, tracked and untracked.

Every page would fault once an epoch, and the answer would be "all of it" each time. What is counted is
whole blocks of epochs, writing and collecting together, so that the now and then of looking again at hot
ranges is in the figure. The first block, in which nothing is hot yet, is shown apart.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import writewatch as ww
from writewatch.observe.benchmark.memory import Memory, allocate
from writewatch.observe.benchmark.timing import Effort, Spread, interleave, paired_ratio

_EPOCHS_PER_BLOCK: Final = 8


@dataclass(frozen=True, slots=True)
class Rewriting:
    """Fill and collect beside fill alone.

    Attributes:
        size_bytes: Rewritten in each epoch.
        untracked_ns: An epoch of the program alone.
        tracked_ns: An epoch of it with a collect at its end.
        ratio: Block by block.
        first_ratio: Of the first block after ``track``, which pays the faults.
    """

    size_bytes: int
    untracked_ns: Spread
    tracked_ns: Spread
    ratio: Spread
    first_ratio: float


def rewriting(size_bytes: int, effort: Effort | None = None) -> Rewriting:
    """Two memories of one size, one of them tracked, rewritten in turn."""
    plain, watched = allocate(size_bytes, "4k"), allocate(size_bytes, "4k")
    with ww.track(watched.buffer) as tracker:
        subjects = {"untracked": lambda: _block(plain), "tracked": lambda: _block(watched, tracker)}
        first = interleave(subjects, Effort(warmups=0, least=1, most=1))
        taken = interleave(subjects, effort or Effort(least=5, most=15, seconds=6))
    epoch = 1 / _EPOCHS_PER_BLOCK
    return Rewriting(
        size_bytes,
        Spread.of(taken["untracked"]).scaled(epoch),
        Spread.of(taken["tracked"]).scaled(epoch),
        paired_ratio(taken["tracked"], taken["untracked"]),
        first["tracked"][0] / first["untracked"][0],
    )


def _block(memory: Memory, tracker: ww.Tracker | None = None) -> int:
    began = time.perf_counter_ns()
    for epoch in range(_EPOCHS_PER_BLOCK):
        memory.buffer.fill(epoch)
        if tracker is not None and tracker.collect().n_pages < memory.n_pages:
            raise AssertionError("everything was rewritten and less was reported: no figure for that")
    return time.perf_counter_ns() - began

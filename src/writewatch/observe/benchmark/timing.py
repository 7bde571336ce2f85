"""Interleaved runs, and what is said about them: a median and the middle half.

A machine that other people use is noisy, and its noise drifts: two figures taken a second apart may
differ by more than what they measure. So subjects take turns (A B A B …), each run of one is paired with the
next run of the other, and a ratio is the median of the pairs' ratios. Spread is always the
quartiles: half of all runs lay inside.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

#: Prepares, runs and measures once; nanoseconds of the measured part.
Subject: TypeAlias = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of some runs; the unit is said by whoever holds it.

    Attributes:
        median: Of all runs.
        low, high: First and third quartile.
        runs: How many.
    """

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))

    def scaled(self, factor: float) -> Spread:
        """The same runs in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.runs)


@dataclass(frozen=True, slots=True)
class Effort:
    """How often to run, and when to stop.

    Attributes:
        warmups: Rounds that are not counted.
        least, most: Rounds that are.
        seconds: No new round starts after this long, once ``least`` are done.
    """

    warmups: int = 1
    least: int = 5
    most: int = 31
    seconds: float = 1.0


def interleave(subjects: Mapping[str, Subject], effort: Effort) -> dict[str, list[int]]:
    """Run the subjects in turn, in the order given, round after round.

    Returns:
        For each name its nanoseconds, round by round: position i of every list is of the same round.
    """
    for _ in range(effort.warmups):
        for subject in subjects.values():
            subject()
    taken: dict[str, list[int]] = {name: [] for name in subjects}
    ends = time.monotonic() + effort.seconds
    for done in range(effort.most):
        if done >= effort.least and time.monotonic() > ends:
            break
        for name, subject in subjects.items():
            taken[name].append(subject())
    return taken


def paired_ratio(these: Sequence[float], those: Sequence[float]) -> Spread:
    """How many times as long these took as those, pair by pair."""
    return Spread.of([a / max(b, 1) for a, b in zip(these, those, strict=True)])


def timed(work: Callable[[], object]) -> int:
    """Nanoseconds that one call took; what it returns is dropped after the clock was read."""
    began = time.perf_counter_ns()
    result = work()
    took = time.perf_counter_ns() - began
    del result
    return took

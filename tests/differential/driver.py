"""Runs scripts on two sides, compares every outcome, and shrinks a script on which they differ."""

from __future__ import annotations

import contextlib
import pprint
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.conformance import machine
from tests.conformance.world import Need, WorldLost
from tests.differential.arena import ARENA_PAGES, HUGE_START, HUGETLB_START, Operation, Outcome
from tests.differential.sides import Side

#: Parts of the arena, each seen after an operation whose first number is a page of it.
WINDOWS = ((0, 64), (496, 64), (HUGE_START, 1024), (HUGETLB_START, ARENA_PAGES - HUGETLB_START))
#: All of it, after so many operations; and what costs more, after so many and at the end.
SEE_PERIOD, LOOK_PERIOD = 16, 64
LOOK: tuple[Operation, ...] = (("see", 0, ARENA_PAGES), ("entries", 0, ARENA_PAGES), ("vmas",))

Open = Callable[[], Side]


@dataclass(frozen=True)
class Pair:
    """How to open each side, and what scripts may use on this machine."""

    linux: Open
    model: Open
    options: frozenset[str]


def available_options() -> frozenset[str]:
    """The options of scripts that this machine can serve, which is set up and held still for them."""
    machine.hold_still()
    needs = {"thp": Need.THP, "hugetlb": Need.HUGETLB, "swap": Need.SWAP, "shmem-thp": Need.SHMEM_THP}
    return frozenset(option for option, need in needs.items() if not machine.lacks(need)) | {"regular"}


@dataclass(frozen=True)
class Divergence:
    """The first operation whose outcomes differ, with the script up to it."""

    operations: tuple[Operation, ...]
    expected: Outcome
    got: Outcome

    def __str__(self) -> str:
        script = pprint.pformat(list(self.operations), width=100)
        return f"script = {script}\nexpected: {self.expected}\ngot:      {self.got}"


def observed(operations: Sequence[Operation]) -> list[Operation]:
    """The same operations with observations in between."""
    script: list[Operation] = []
    waits = any(operation[0] == "spawn" for operation in operations)
    for number, operation in enumerate(operations):
        script.append(operation)
        if waits:
            script.append(("settle",))  # what an operation woke goes on in its own time
        if number % LOOK_PERIOD == LOOK_PERIOD - 1 or number == len(operations) - 1:
            script += LOOK
        elif number % SEE_PERIOD == SEE_PERIOD - 1:
            script.append(("see", 0, ARENA_PAGES))
        else:
            script += _windows(operation)
    return script


def _windows(operation: Operation) -> list[Operation]:
    """Observations of the part that an operation names."""
    numbers = [value for value in operation if isinstance(value, int)]
    return [
        ("see", start, n) for start, n in WINDOWS if any(start <= value < start + n for value in numbers[:1])
    ]


def compare(first: Open, second: Open, script: Sequence[Operation]) -> Divergence | None:
    """Run a script, as it is, on two fresh sides."""
    sides = first(), second()
    try:
        with ThreadPoolExecutor(1) as beside:  # one side is another process: both work at once
            answer = beside.submit(sides[0].run, script)
            got = sides[1].run(script)
            expected = answer.result()
    finally:
        for side in sides:
            side.close()
    for index, (ours, theirs) in enumerate(zip(expected, got, strict=True)):
        if ours != theirs:
            return Divergence(tuple(script[: index + 1]), ours, theirs)
    return None


def compare_twice(first: Open, second: Open, script: Sequence[Operation]) -> tuple[Divergence | None, bool]:
    """A divergence that shows again in fresh processes, and whether one showed once only.

    What shows once is the machine's doing: somebody else took the huge pages, removed the swap area, or kept the disk
    so busy that a process did not answer in time.
    """
    with contextlib.suppress(WorldLost):
        if compare(first, second, script) is None:
            return None, False
    again = compare(first, second, script)
    return again, again is None


def shrink(first: Open, second: Open, divergence: Divergence, attempts: int = 400) -> Divergence:
    """Leave out operations while the last one still differs; coarse pieces first."""
    smallest = divergence
    piece = len(smallest.operations) // 2
    while piece and attempts:
        at = 0
        while at < len(smallest.operations) - 1 and attempts:
            attempts -= 1
            kept = smallest.operations[:at] + smallest.operations[at + piece :]
            found = compare(first, second, kept) if kept else None
            if found is None:
                at += piece
            else:
                smallest = found
        piece //= 2
    return smallest

"""Runs scripts on two sides, compares every outcome, and shrinks a script on which they differ."""

from __future__ import annotations

import pprint
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.conformance import machine
from tests.conformance.world import Need
from tests.differential.executor import ARENA_PAGES, Operation, Outcome
from tests.differential.sides import OWN, Side

#: After every operation; now and then, and at the end, what costs more.
EACH: tuple[Operation, ...] = (("see",),)
SOMETIMES: tuple[Operation, ...] = (("entries", 0, ARENA_PAGES), ("vmas",))
PERIOD = 30  # operations between two of the costly observations

Open = Callable[[], Side]


@dataclass(frozen=True)
class Pair:
    """How to open each side, and what scripts may use on this machine."""

    linux: Open
    model: Open
    options: frozenset[str]


def available_options() -> frozenset[str]:
    """The options of scripts that this machine can serve."""
    needs = {"thp": Need.THP, "hugetlb": Need.HUGETLB, "swap": Need.SWAP, "shmem-thp": Need.SHMEM_THP}
    return frozenset(option for option, need in needs.items() if not machine.lacks(need))


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
    for number, operation in enumerate(operations):
        script.append(operation)
        if operation[0] in OWN:
            script.append(("settle",))
        script += EACH
        if number % PERIOD == PERIOD - 1 or number == len(operations) - 1:
            script += SOMETIMES
    return script


def compare(first: Open, second: Open, script: Sequence[Operation]) -> Divergence | None:
    """Run a script, as it is, on two fresh sides."""
    sides = first(), second()
    try:
        expected, got = (side.run(script) for side in sides)
    finally:
        for side in sides:
            side.close()
    for index, (ours, theirs) in enumerate(zip(expected, got, strict=True)):
        if ours != theirs:
            return Divergence(tuple(script[: index + 1]), ours, theirs)
    return None


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

"""The first pass of a survey: what was written where, over all of the time."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.report.axis import Program, Territory
from writewatch.observe.trace.blocks import Block, Event, Records
from writewatch.pages import Runs, normalise, total, union

#: Program, name and kind of a mapping: what a report takes for one.
Key: TypeAlias = tuple[Program, str, str]

_UNMAPPED: Final = "(unmapped)"


class Where:
    """First pass: territories, epochs and events."""

    def __init__(self) -> None:
        self.territories: dict[Key, Territory] = {}
        self.epochs: list[Records] = []
        self.events: list[Event] = []
        self.commands: dict[Program, tuple[str, str]] = {}
        self.n_ranges = 0
        self.n_claimed = 0
        self.n_reported = 0
        self.n_coarse = 0

    def add(self, block: Block) -> None:
        """The next block of the trace."""
        self.events += block.events
        if not len(block.epochs):
            return
        self.epochs.append(block.epochs)
        self.n_ranges += len(block.ranges)
        self.n_claimed += total(np.stack((block.ranges["start"], block.ranges["end"]), axis=1))
        self.n_reported += int(block.ranges["reported"].sum())
        self.n_coarse += int((~block.ranges["exact"]).sum())
        for row in block.epochs:
            program = int(row["pid"]), int(row["program"])
            self.commands[program] = block.text(row["command"]), block.text(row["backend"])
        keys = keys_of(block)
        owners = owners_of(block, keys)
        for number in np.unique(owners).tolist():
            own = block.ranges[owners == number]
            self._extend(keys[number], normalise(np.stack((own["start"], own["end"]), axis=1)))
        self._measure(block)

    def _extend(self, key: Key, runs: Runs) -> None:
        territory = self.territories.setdefault(key, Territory(*key))
        territory.written = fewer(union(territory.written, runs))

    def _measure(self, block: Block) -> None:
        """Extents and times of the mappings that were written."""
        page = int(block.epochs["page_size"][0])
        rows = block.mappings
        extents = np.stack((rows["start"] // page, -(-rows["end"] // page)), axis=1)
        numbers: dict[Key, list[int]] = {}
        for number, key in enumerate(keys_of(block)[: len(rows)]):
            numbers.setdefault(key, []).append(number)
        for key, own in numbers.items():
            territory = self.territories.get(key)
            if territory is not None:
                territory.extents = fewer(union(territory.extents, normalise(extents[own])))
                territory.seen_ns = max(territory.seen_ns, int(rows["to_ns"][own].max()))


def keys_of(block: Block) -> list[Key]:
    """Program, name and kind of each mapping of a block; then those for pages in no mapping, a program each."""
    rows = block.mappings
    keys: list[Key] = [
        ((int(row["pid"]), int(row["program"])), block.text(row["name"]), block.text(row["kind"]))
        for row in rows
    ]
    programs = sorted({(int(row["pid"]), int(row["program"])) for row in block.epochs})
    return keys + [(program, _UNMAPPED, "") for program in programs]


def owners_of(block: Block, keys: list[Key]) -> NDArray[np.int64]:
    """For each range, the first number in ``keys`` that says whose it is."""
    first: dict[Key, int] = {}
    for number, key in enumerate(keys):
        first.setdefault(key, number)
    canonical = np.array([first[key] for key in keys], np.int64)
    epochs = block.epochs[block.ranges["epoch"]]
    nowhere = block.ranges["mapping"] < 0
    rows = np.searchsorted(block.mappings["id"], block.ranges["mapping"])
    for program in {(int(row["pid"]), int(row["program"])) for row in epochs[nowhere]}:
        own = nowhere & (epochs["pid"] == program[0]) & (epochs["program"] == program[1])
        rows[own] = first[program, _UNMAPPED, ""]
    owners: NDArray[np.int64] = canonical[rows]
    return owners


def fewer(runs: Runs, most: int = 1 << 18) -> Runs:
    """Runs that hold these and are not too many: the smallest gaps are closed."""
    if len(runs) <= most:
        return runs
    gaps = runs[1:, 0] - runs[:-1, 1]
    closed = np.argpartition(gaps, len(runs) - most // 2)[: len(runs) - most // 2]
    begins = np.ones(len(runs), np.bool_)
    begins[closed + 1] = False
    at = np.flatnonzero(begins)
    return np.stack((runs[at, 0], np.maximum.reduceat(runs[:, 1], at)), axis=1)

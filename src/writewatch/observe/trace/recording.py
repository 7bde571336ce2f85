"""``Recording``: from what was collected of several processes to blocks of a trace.

It knows what was said already, so that a block holds only what is new: a mapping when it appears, changes
its extent or vanishes, a note once. After ``begin_segment`` everything that still holds is said again: a
segment is complete in itself.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from writewatch.observe.trace.blocks import ALIVE, EPOCH, MAPPING, Block, Event, Records, Words, joined
from writewatch.observe.trace.identity import Identities, Known
from writewatch.observe.trace.ranges import ASSUMED, DISCARDED, WRITTEN, Ranges, coarsened, ranges_of
from writewatch.observe.watch.ages import meet
from writewatch.pages import Runs, difference, normalise, union
from writewatch.tracker.process.writes import Mapping, ProcessWrites

#: Different notes that a trace keeps of a process; what is said after them is counted out loud once.
_MOST_NOTES: Final = 200


@dataclass(slots=True)
class _Process:
    """What was said of one process.

    Attributes:
        identities: Of its mappings.
        program: Counts exec.
        n_epochs: Collects so far, over all programs.
        last_epoch: The tracker's own count.
        seen_ns: When its last epoch ended.
        saw_end: Whether nothing was written after that.
        notes: Sentences that stand in the trace.
        said: Ids of mappings that stand in the open segment.
    """

    identities: Identities
    program: int = 0
    n_epochs: int = 0
    last_epoch: int = -1
    seen_ns: int = 0
    saw_end: bool = False
    notes: set[str] = field(default_factory=set)
    said: set[int] = field(default_factory=set)


class Recording:
    """Makes blocks.

    Args:
        words: Shared with the owner.
        began_ns: ``time.monotonic_ns()`` of the trace's time 0.
        epoch_ranges: Most ranges of an epoch.
    """

    def __init__(self, words: Words, began_ns: int, epoch_ranges: int) -> None:
        self._words = words
        self._began_ns = began_ns
        self._limit = epoch_ranges
        self._ids = itertools.count()
        self._processes: dict[int, _Process] = {}
        self._used: dict[int, tuple[int, int]] = {}

    def begin_segment(self) -> None:
        """Say again what still holds, with the next block."""
        for process in self._processes.values():
            process.said.clear()

    def block(self, writes: Sequence[ProcessWrites]) -> Block:
        """What one round of collects said. A process that is not in it any more has ended."""
        present = {one.pid for one in writes}
        # Without a round there is nothing that says when it is.
        now_ns = max((one.ended_ns for one in writes), default=None) or time.monotonic_ns()
        ended = [self._end(pid, now_ns - self._began_ns) for pid in sorted(self._processes.keys() - present)]
        blocks = [Block(self._words, events=tuple(ended)), *(self._of_process(one) for one in writes)]
        return joined(blocks)

    def _end(self, pid: int, now_ns: int) -> Event:
        process = self._processes.pop(pid)
        # A process id may come back: a program and an epoch of it are never used twice.
        self._used[pid] = process.program + 1, process.n_epochs
        text = (
            "ended; its last epoch holds all that it wrote to its end"
            if process.saw_end
            else "ended, or is not watched any more; what it wrote after its last epoch is not in the trace"
        )
        return Event("exit", pid, process.seen_ns, max(now_ns, process.seen_ns), text)

    def _of_process(self, writes: ProcessWrites) -> Block:
        process = self._processes.get(writes.pid)
        events: list[Event] = []
        if process is None:
            events += self._fork(writes)
            process = _Process(Identities(self._ids), *self._used.get(writes.pid, (0, 0)))
            self._processes[writes.pid] = process
        elif writes.epoch <= process.last_epoch:
            events.append(self._exec(process, writes))
        process.last_epoch, process.seen_ns = writes.epoch, writes.ended_ns - self._began_ns
        process.saw_end = writes.is_last
        from_ns, to_ns = writes.started_ns - self._began_ns, writes.ended_ns - self._began_ns
        rows = self._mapping_rows(process, writes, from_ns)
        ranges = coarsened(_ranges(writes, process.identities), self._limit)
        epoch = self._epoch_row(process, writes, bool(ranges["exact"].all()))
        process.n_epochs += 1
        events += self._notes(process, writes, to_ns)
        return Block(self._words, epoch, ranges, rows, tuple(events))

    def _fork(self, writes: ProcessWrites) -> Iterator[Event]:
        """A process that appears beside others is one that is followed."""
        if self._processes:
            at_ns = writes.started_ns - self._began_ns
            yield Event("fork", writes.pid, at_ns, at_ns, f"{writes.command} is followed from here")

    def _exec(self, process: _Process, writes: ProcessWrites) -> Event:
        process.program += 1
        process.identities = Identities(self._ids)
        process.said.clear()
        at_ns = writes.started_ns - self._began_ns
        return Event("exec", writes.pid, at_ns, at_ns, f"exec: now {writes.command}")

    def _epoch_row(self, process: _Process, writes: ProcessWrites, exact: bool) -> Records:
        row = np.zeros(1, EPOCH)
        row["pid"], row["program"], row["epoch"], row["n_epochs"] = (
            writes.pid,
            process.program,
            process.n_epochs,
            1,
        )
        row["from_ns"] = writes.started_ns - self._began_ns
        row["to_ns"] = writes.ended_ns - self._began_ns
        row["n_pages"], row["page_size"], row["exact"] = writes.n_pages, writes.page_size, exact
        row["command"], row["backend"] = (
            self._words.number(writes.command),
            self._words.number(writes.backend),
        )
        return row

    def _mapping_rows(self, process: _Process, writes: ProcessWrites, from_ns: int) -> Records:
        """Of mappings that changed, or do not yet stand in this segment; and of those that vanished."""
        changed, vanished = process.identities.update(_of_user_space(writes.mappings), from_ns)
        again = [one for one in process.identities.known if one.id not in process.said]
        alive = {one.id: one for one in (*changed, *again)}
        process.said.update(alive)
        gone = [one for one in vanished if one.id in process.said]
        process.said.difference_update(one.id for one in gone)
        rows = np.zeros(len(alive) + len(gone), MAPPING)
        self._fill(rows[: len(alive)], list(alive.values()))
        self._fill(rows[len(alive) :], gone)
        rows["pid"], rows["program"] = writes.pid, process.program
        rows["to_ns"][: len(alive)] = ALIVE
        rows["to_ns"][len(alive) :] = from_ns
        return rows

    def _fill(self, rows: Records, known: Sequence[Known]) -> None:
        number = self._words.number
        rows["id"] = [one.id for one in known]
        rows["from_ns"] = [one.from_ns for one in known]
        for name in ("start", "end", "tracked"):
            rows[name] = [getattr(one.mapping, name) for one in known]
        for name in ("name", "kind"):
            rows[name] = self._words.numbers(getattr(one.mapping, name) for one in known)
        rows["perms"] = self._words.numbers(_perms(one.mapping) for one in known)
        rows["unseen"] = [-1 if one.mapping.unseen is None else number(one.mapping.unseen) for one in known]

    def _notes(self, process: _Process, writes: ProcessWrites, at_ns: int) -> Iterator[Event]:
        for note in writes.notes:
            if note in process.notes or len(process.notes) > _MOST_NOTES:
                continue
            process.notes.add(note)
            full = len(process.notes) > _MOST_NOTES
            text = f"more than {_MOST_NOTES} different notes: later ones are not kept" if full else note
            yield Event("note", writes.pid, at_ns, at_ns, text)


def _of_user_space(mappings: Sequence[Mapping]) -> list[Mapping]:
    """All but ``[vsyscall]``: nobody can write there, and its address does not fit into int64."""
    return [mapping for mapping in mappings if mapping.end < ALIVE]


def _perms(mapping: Mapping) -> str:
    return mapping.vmas[0].perms if mapping.vmas else ""


def _ranges(writes: ProcessWrites, identities: Identities) -> Ranges:
    """Everything that may have changed, each page once and as the best known that it is, cut at the mappings' ends."""
    known: Runs = writes.written
    parts = [(known, WRITTEN, writes.exact)]
    for runs, how, exact in (
        (writes.assumed, ASSUMED, False),
        (writes.discarded, DISCARDED, writes.exact),
    ):
        parts.append((difference(runs, known), how, exact))
        known = union(known, runs)
    extents = identities.starts_and_ends(writes.page_size)
    ids = np.array([one.id for one in identities.known], np.int32)
    found = np.concatenate([_cut(runs, extents, ids, how, exact) for runs, how, exact in parts])
    return found[np.lexsort((found["start"], found["mapping"]))]


def _cut(runs: Runs, extents: Runs, ids: Iterable[int], how: int, exact: bool) -> Ranges:
    inside = meet(runs, extents)
    outside = difference(runs, normalise(extents))
    ranges = ranges_of(len(inside.runs) + len(outside))
    both = np.concatenate((inside.runs, outside))
    ranges["start"], ranges["end"] = both[:, 0], both[:, 1]
    ranges["reported"] = both[:, 1] - both[:, 0]
    ranges["mapping"] = np.append(np.asarray(ids, np.int32)[inside.of_b], np.full(len(outside), -1, np.int32))
    ranges["how"], ranges["exact"] = how, exact
    return ranges

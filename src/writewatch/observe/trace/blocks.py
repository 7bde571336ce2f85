"""``Block``: a stretch of a trace in memory, as NumPy arrays that refer to each other by row and by id.

Times are nanoseconds since the trace began. Text that repeats (names, kinds) is kept once, in a ``Words``
that all the blocks of one reader or writer share, and stands in the arrays as a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.trace.ranges import Ranges, ranges_of, united

#: One collect of one process, or several that were merged.
EPOCH: Final = np.dtype(
    [
        ("pid", np.int32),
        ("program", np.int32),  # counts the programs that exec started in this process, from 0
        ("epoch", np.int64),  # counts the collects of this process, from 0; of merged ones the first
        ("n_epochs", np.int32),  # collects that are merged into this one
        ("from_ns", np.int64),
        ("to_ns", np.int64),
        ("n_pages", np.int64),  # reported, before anything was coarsened; summed over merged epochs
        ("page_size", np.int32),
        ("command", np.int32),  # word
        ("backend", np.int32),  # word
        ("exact", np.bool_),  # every page in its ranges was written
    ]
)

#: A mapping, from when to when it was there, with the widest extent it had.
MAPPING: Final = np.dtype(
    [
        ("id", np.int32),
        ("pid", np.int32),
        ("program", np.int32),
        ("start", np.int64),  # [start, end) in bytes
        ("end", np.int64),
        ("from_ns", np.int64),
        ("to_ns", np.int64),  # end of the last epoch at whose end it was there
        ("name", np.int32),  # word
        ("kind", np.int32),  # word
        ("perms", np.int32),  # word, of its first VMA
        ("unseen", np.int32),  # word; -1: none
        ("tracked", np.bool_),
    ]
)

Records: TypeAlias = NDArray[Any]

#: ``to_ns`` of a mapping that is still there: it is settled when the block is closed.
ALIVE: Final = np.iinfo(np.int64).max


class Words:
    """Texts by number, each once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text, a new one where it is new."""
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return found

    def numbers(self, texts: Iterable[str]) -> NDArray[np.int32]:
        """The numbers of several."""
        return np.array([self.number(text) for text in texts], np.int32)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a process.

    Attributes:
        what: ``exec``, ``exit``, ``fork``, ``note``, or ``lost``: a stretch of the trace that was given up.
        pid: Of the process.
        from_ns, to_ns: When; the same for what has no length.
        text: In words.
    """

    what: str
    pid: int
    from_ns: int
    to_ns: int
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a trace.

    Attributes:
        words: What the numbers stand for.
        epochs: (n,) ``EPOCH``, in the order of their end.
        ranges: (n,) ``RANGE``, united; ``epoch`` is a row of ``epochs``, ``mapping`` an id in ``mappings``.
        mappings: (n,) ``MAPPING``, ascending by id, each once.
        events: In their order.
    """

    words: Words
    epochs: Records = field(default_factory=lambda: np.zeros(0, EPOCH))
    ranges: Ranges = field(default_factory=lambda: ranges_of(0))
    mappings: Records = field(default_factory=lambda: np.zeros(0, MAPPING))
    events: tuple[Event, ...] = ()

    @property
    def end_ns(self) -> int:
        """When its last epoch ended; 0 without epochs."""
        return int(self.epochs["to_ns"].max(initial=0))

    def text(self, number: int) -> str:
        """The text of a word; empty for -1."""
        return self.words.texts[number] if number >= 0 else ""


def joined(blocks: Sequence[Block]) -> Block:
    """Several blocks of the same words, in the order of time, as one."""
    shifts = np.cumsum([0, *(len(block.epochs) for block in blocks)])
    ranges = np.concatenate([block.ranges for block in blocks])
    counts = [len(block.ranges) for block in blocks]
    ranges["epoch"] += np.repeat(shifts[:-1], counts).astype(np.int32)
    return Block(
        blocks[0].words,
        np.concatenate([block.epochs for block in blocks]),
        ranges,
        each_once(np.concatenate([block.mappings for block in blocks])),
        tuple(event for block in blocks for event in block.events),
    )


def each_once(mappings: Records) -> Records:
    """One row for each mapping: the first one's words, the widest extent, until when the last one says."""
    if not len(mappings):
        return mappings
    mappings = mappings[np.argsort(mappings["id"], kind="stable")]
    at = np.flatnonzero(np.diff(mappings["id"], prepend=-1))
    rows = _spanning(mappings, at)
    rows["to_ns"] = mappings["to_ns"][np.append(at[1:], len(mappings)) - 1]
    return rows


def _spanning(mappings: Records, at: NDArray[np.intp]) -> Records:
    rows = mappings[at].copy()
    for name in ("start", "from_ns"):
        rows[name] = np.minimum.reduceat(mappings[name], at)
    for name in ("end", "to_ns"):
        rows[name] = np.maximum.reduceat(mappings[name], at)
    return rows


def fewer_mappings(block: Block, limit: int) -> Block:
    """At most so many mappings: those of one process, name and kind are joined, the nearest ones first.

    A joined mapping spans what lay between. Where there are more names than the limit allows, more stay.
    """
    if len(block.mappings) <= limit:
        return block
    keys = ("name", "kind", "program", "pid")
    rows = block.mappings[np.lexsort((block.mappings["start"], *(block.mappings[key] for key in keys)))]
    same = np.zeros(len(rows), np.bool_)
    same[1:] = np.logical_and.reduce([rows[key][1:] == rows[key][:-1] for key in keys])
    gaps = np.zeros(len(rows), np.int64)
    gaps[1:] = rows["start"][1:] - rows["end"][:-1]
    begins = _begins(same, gaps, limit)
    at = np.flatnonzero(begins)
    ids = np.minimum.reduceat(rows["id"], at)
    fewer = _spanning(rows, at)
    fewer["id"] = ids
    to = dict(zip(rows["id"].tolist(), ids[np.cumsum(begins) - 1].tolist(), strict=True)) | {-1: -1}
    ranges = block.ranges.copy()
    ranges["mapping"] = [to[number] for number in ranges["mapping"].tolist()]
    return Block(block.words, block.epochs, united(ranges), np.sort(fewer, order="id"), block.events)


def _begins(same: NDArray[np.bool_], gaps: NDArray[np.int64], limit: int) -> NDArray[np.bool_]:
    closable = np.flatnonzero(same)
    n_closed = min(len(same) - limit, len(closable))
    begins = np.ones(len(same), np.bool_)
    begins[closable[np.argsort(gaps[closable], kind="stable")[:n_closed]]] = False
    return begins

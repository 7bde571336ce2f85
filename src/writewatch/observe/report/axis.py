"""``Axis``: the addresses of a report, stacked, mapping upon mapping: what was written and what lies near it.

An address space is almost all gaps, and most of what is mapped is never written. So the axis is made of
**bands**, one for a mapping that was written, in the order of their addresses, process after process. A
band is made of **pieces**: stretches of pages without the long ones in which nothing was ever written,
which are cut out. Every page of the axis has a **place**, counted from 0 through all pieces.

Where mappings used the same addresses one after the other, the one that was seen last gives a page its band.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.watch.ages import meet
from writewatch.pages import Runs, clip, difference, no_runs, normalise, total, union

#: A process id and the number of its program.
Program: TypeAlias = tuple[int, int]

#: A stretch that was never written is cut out when it is a larger part of the axis than this, and has more pages than
#: were written at all.
_LONG: Final = 1 / 40
_MOST_CUTS: Final = 400
#: Bands beyond these, those with the fewest pages written, are shown together with their neighbours.
_MOST_BANDS: Final = 200


@dataclass(slots=True)
class Territory:
    """What one mapping wrote over the whole trace.

    Attributes:
        program: Whose it is.
        name, kind: Of the mapping; empty for pages in no mapping.
        written: Runs of pages.
        extents: Runs of pages that were mapped.
        seen_ns: When it was there last.
    """

    program: Program
    name: str
    kind: str
    written: Runs = field(default_factory=no_runs)
    extents: Runs = field(default_factory=no_runs)
    seen_ns: int = 0


@dataclass(frozen=True, slots=True)
class Band:
    """A mapping on the axis.

    Attributes:
        program: Whose it is.
        name, kind: What to call it.
        pieces: (n, 2) stretches of pages that are shown, ascending.
        place: Of its first page.
        n_written: Distinct pages written.
        piece_names: Of the mapping of each piece, where the band stands for several.
    """

    program: Program
    name: str
    kind: str
    pieces: Runs
    place: int
    n_written: int
    piece_names: tuple[str, ...] = ()

    @property
    def n_pages(self) -> int:
        """Pages that are shown."""
        return total(self.pieces)


@dataclass(frozen=True, slots=True)
class Axis:
    """All bands, in the order of their places."""

    bands: tuple[Band, ...]

    @property
    def n_places(self) -> int:
        """Pages of the axis."""
        return sum(band.n_pages for band in self.bands)

    def pieces(self, program: Program | None = None) -> tuple[Runs, NDArray[np.int64]]:
        """The pieces of a program, or of all in their order, and the place at which each begins."""
        own = [band for band in self.bands if program in (None, band.program)]
        pieces = np.concatenate([no_runs(), *(band.pieces for band in own)])
        places = [band.place + _before(band.pieces) for band in own]
        return pieces, np.concatenate([np.empty(0, np.int64), *places])

    def weights(self) -> NDArray[np.float64]:
        """(n_bands,) the share of the picture's height that each band has: by the square root of its pages.

        In proportion to pages a stack of 33 pages beside a heap of 262,144 would be thinner than a hair.
        """
        roots = np.sqrt([band.n_pages for band in self.bands])
        floor = roots.sum() / max(len(roots), 1) / 6
        roots = np.maximum(roots, floor)
        shares: NDArray[np.float64] = roots / roots.sum() if len(roots) else roots
        return shares


class Places:
    """Finds the places of a program's pages.

    Args:
        axis: The axis.
        program: Which program.
    """

    def __init__(self, axis: Axis, program: Program) -> None:
        pieces, places = axis.pieces(program)
        order = np.argsort(pieces[:, 0], kind="stable")
        self._pieces, self._shift = pieces[order], (places - pieces[:, 0])[order]

    def of(self, runs: Runs) -> tuple[Runs, NDArray[np.int64]]:
        """Runs of pages as runs of places, cut where pieces end, and the row in ``runs`` of each.

        Args:
            runs: (n, 2) ascending and disjoint.
        """
        found = meet(runs, self._pieces)
        return found.runs + self._shift[found.of_b][:, np.newaxis], found.of_a


def make_axis(territories: Iterable[Territory]) -> Axis:
    """The axis of what was written."""
    by_program: dict[Program, list[Territory]] = {}
    for territory in territories:
        if len(territory.written):
            by_program.setdefault(territory.program, []).append(territory)
    drafts = [draft for program in sorted(by_program) for draft in _drafts(by_program[program])]
    drafts = _gathered(drafts)
    drafts = _cut([_widened(drafts, number) for number in range(len(drafts))])
    bands, place = [], 0
    for draft in drafts:
        names = tuple(draft.piece_names) if draft.is_many else ()
        band = Band(draft.program, draft.name, draft.kind, draft.shown, place, total(draft.written), names)
        bands.append(band)
        place += band.n_pages
    return Axis(tuple(bands))


@dataclass(slots=True)
class _Draft:
    """A band that is being made: ``shown`` are its pieces so far, ``extents`` what was mapped of its mapping."""

    program: Program
    name: str
    kind: str
    written: Runs
    extents: Runs
    shown: Runs = field(default_factory=no_runs)
    piece_names: list[str] = field(default_factory=list)
    is_many: bool = False

    @property
    def high(self) -> int:
        """End of what it shows, or will at least."""
        return int((self.shown if len(self.shown) else self.written)[-1, 1])


def _drafts(territories: Sequence[Territory]) -> list[_Draft]:
    """Bands of one program in the order of addresses; each page in one, of the mapping that was seen last."""
    taken = no_runs()
    parts: list[Runs] = []
    newest_first = sorted(territories, key=lambda one: -one.seen_ns)
    for territory in newest_first:
        parts.append(difference(territory.written, taken))
        taken = union(taken, territory.written)
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    runs = np.concatenate(parts)
    order = np.argsort(runs[:, 0], kind="stable")
    runs, owners = runs[order], owners[order]
    at = np.flatnonzero(np.diff(owners, prepend=-1))
    groups = np.split(runs, at[1:])
    return [_draft(newest_first[owner], group) for owner, group in zip(owners[at], groups, strict=True)]


def _draft(owner: Territory, written: Runs) -> _Draft:
    return _Draft(owner.program, owner.name, owner.kind, normalise(written), owner.extents)


def _gathered(drafts: list[_Draft]) -> list[_Draft]:
    """The same pages in fewer bands: neighbours that were written least become one."""
    if len(drafts) <= _MOST_BANDS:
        return drafts
    sizes = [total(draft.written) for draft in drafts]
    least = sorted(sizes, reverse=True)[_MOST_BANDS // 2]
    found: list[_Draft] = []
    counts: list[int] = []
    for draft, size in zip(drafts, sizes, strict=True):
        is_small = size <= least
        if is_small and found and counts[-1] and found[-1].program == draft.program:
            _absorb(found[-1], draft)
            counts[-1] += 1
        else:
            found.append(draft)
            counts.append(int(is_small))
    for draft, count in zip(found, counts, strict=True):
        if count > 1:
            draft.name = f"{count} small mappings"
    return found


def _absorb(first: _Draft, second: _Draft) -> None:
    # What lies between the two was never written; it is no part of either.
    for draft in (first, second):
        draft.piece_names = draft.piece_names or [draft.name] * len(draft.written)
    first.piece_names = first.piece_names + second.piece_names
    first.written = np.concatenate((first.written, second.written))
    first.kind = first.kind if first.kind == second.kind else ""
    first.is_many = True


def _widened(drafts: Sequence[_Draft], number: int) -> _Draft:
    """A band that shows all of its mapping, as far as its neighbours leave room."""
    draft = drafts[number]
    draft.shown = draft.written
    if draft.is_many:
        return draft
    start, end = 0, 1 << 62
    if number and drafts[number - 1].program == draft.program:
        start = drafts[number - 1].high
    if number + 1 < len(drafts) and drafts[number + 1].program == draft.program:
        end = int(drafts[number + 1].written[0, 0])
    around = draft.extents[np.unique(meet(draft.written, draft.extents).of_b)]
    draft.shown = union(draft.written, clip(around, start, end))
    return draft


def _cut(drafts: list[_Draft]) -> list[_Draft]:
    """Take out the long stretches that were never written, the longest first."""
    gaps = [
        (end - start, number, start, end)
        for number, draft in enumerate(drafts)
        for start, end in difference(draft.shown, draft.written).tolist()
    ]
    gaps.sort(reverse=True)
    left = sum(total(draft.shown) for draft in drafts)
    n_written = sum(total(draft.written) for draft in drafts)
    cuts: dict[int, list[tuple[int, int]]] = {}
    for length, number, start, end in gaps[:_MOST_CUTS]:
        if length <= max(left * _LONG, n_written):
            break
        cuts.setdefault(number, []).append((start, end))
        left -= length
    for number, stretches in cuts.items():
        drafts[number].shown = difference(drafts[number].shown, normalise(np.array(stretches, np.int64)))
    return drafts


def _before(pieces: Runs) -> NDArray[np.int64]:
    """Pages in the pieces before each."""
    lengths = pieces[:, 1] - pieces[:, 0]
    before: NDArray[np.int64] = np.cumsum(lengths) - lengths
    return before

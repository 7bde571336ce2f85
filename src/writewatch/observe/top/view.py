"""``View``: what is on display of the processes that are watched, and what keys do to it. No terminal in here.

Pausing keeps the picture, not the watching: epochs go on being added, and are on display when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from writewatch.observe.top import heat
from writewatch.observe.top.facts import Facts, Member
from writewatch.observe.top.heat import Band, Heat
from writewatch.observe.top.history import History
from writewatch.observe.watch.book import Book
from writewatch.observe.watch.figures import MappingFigures, ProcessFigures, labels
from writewatch.tracker.process.writes import ProcessWrites

#: Column -> what it sorts by. Numbers are sorted largest first, text and addresses in their order.
SORTS: Final[dict[str, Callable[[MappingFigures], Any]]] = {
    "rate": lambda one: -one.counts.rate_latest,
    "10 s": lambda one: -one.counts.working_set[1],
    "60 s": lambda one: -one.counts.working_set[2],
    "distinct": lambda one: -one.counts.n_distinct,
    "pages": lambda one: -one.counts.n_pages,
    "mapping": lambda one: one.mapping.name.casefold(),
    "address": lambda one: one.mapping.start,
}


@dataclass
class View:
    """Everything on display.

    Attributes:
        pid: Of the process on display.
        sort: Key in ``SORTS``.
        reverse: Sorted the other way round.
        filter: Mappings whose name or kind holds this are shown.
        row: Of the cursor among the mappings shown.
        band: Of the cursor in the heatmap.
        zoom: Stretches zoomed into, the innermost last.
        in_heatmap: Whether keys are for the heatmap; else for the table.
        shows_processes: The table lists processes instead of mappings.
        ended: A sentence when the first process has ended.
    """

    pid: int
    facts: Facts = field(default_factory=Facts)
    sort: str = "rate"
    reverse: bool = False
    filter: str = ""
    row: int = 0
    band: int = 0
    zoom: list[Band] = field(default_factory=list)
    in_heatmap: bool = False
    shows_processes: bool = False
    paused: bool = False
    ended: str = ""
    members: tuple[Member, ...] = ()
    _book: Book = field(default_factory=Book)
    _histories: dict[int, History] = field(default_factory=dict)
    _figures: dict[int, ProcessFigures] = field(default_factory=dict)
    _shown_histories: dict[int, History] = field(default_factory=dict)
    _waiting: tuple[tuple[Member, ...], Facts] = ((), Facts())

    # ---- what comes in ---------------------------------------------------------------------------

    def add(self, round_: Sequence[ProcessWrites], members: Sequence[Member], facts: Facts) -> None:
        """One round of collects; nothing on display changes while it is paused."""
        for writes in round_:
            account = self._book.account(writes.pid)
            if account is None or not account.continues(writes):
                self._histories[writes.pid] = History()
            self._histories[writes.pid].add(writes)
        self._book.add(round_)
        self._forget_all_but({self.pid, *(one.pid for one in members)})
        self._waiting = tuple(members), facts
        if not self.paused:
            self._catch_up()

    def end(self, sentence: str) -> None:
        """The first process has ended: the last picture stays."""
        self.ended = sentence
        self.paused = False
        self._catch_up()
        self.members = tuple(Member(one.pid, one.depth, one.command, False) for one in self.members)

    def _catch_up(self) -> None:
        """Put on display what has come in."""
        self.members, self.facts = self._waiting
        self._figures, self._shown_histories = {}, {}
        n_rows = len(self.members) if self.shows_processes else len(self.mappings())
        self.row = min(self.row, max(0, n_rows - 1))

    def _forget_all_but(self, pids: set[int]) -> None:
        self._book.end_all_but(pids)
        for pid in self._histories.keys() - pids:
            del self._histories[pid]

    # ---- what is shown ---------------------------------------------------------------------------

    @property
    def process(self) -> ProcessFigures | None:
        """Figures of the process on display; None before its first epoch."""
        return self.figures_of(self.pid)

    def figures_of(self, pid: int) -> ProcessFigures | None:
        """Figures of one process, as they were when it was paused."""
        account = self._book.account(pid)
        if pid not in self._figures and account is not None and not self.paused:
            self._figures[pid] = account.figures()
        return self._figures.get(pid)

    def mappings(self) -> tuple[MappingFigures, ...]:
        """The mappings in the table, sorted and filtered."""
        process = self.process
        if process is None:
            return ()
        wanted = self.filter.casefold()
        found = [
            one
            for one in process.mappings
            if wanted in one.mapping.name.casefold() or wanted in one.mapping.kind
        ]
        by = SORTS[self.sort]
        found.sort(key=lambda one: (by(one), -one.counts.n_pages, one.mapping.start))
        return tuple(reversed(found)) if self.reverse else tuple(found)

    @property
    def selected(self) -> MappingFigures | None:
        """The mapping under the cursor."""
        found = self.mappings()
        return found[min(self.row, len(found) - 1)] if found else None

    def heat(self, n_rows: int, n_epochs: int) -> Heat:
        """The heatmap with so many rows and columns."""
        process, history = self.process, self._history()
        if process is None or history is None:
            return heat.draw((), History(), 0)
        if self.zoom:
            return heat.draw(heat.parts(self.zoom[-1], n_rows), history, n_epochs)
        everything = not self.filter
        bands = heat.whole(self.mappings(), history, process.page_size, n_rows, between=everything)
        return heat.draw(bands, history, n_epochs)

    def _history(self) -> History | None:
        return (self._shown_histories if self.paused else self._histories).get(self.pid)

    # ---- what the keys do ------------------------------------------------------------------------

    def pause(self) -> None:
        """Keep the picture, or go on. After the end there is nothing to pause."""
        if self.ended:
            return
        if not self.paused:
            self._figures = {one.pid: one for one in self._book.running()}
            self._shown_histories = {pid: one.copy() for pid, one in self._histories.items()}
        self.paused = not self.paused
        if not self.paused:
            self._catch_up()

    def next_sort(self) -> None:
        """Sort by the next column."""
        names = list(SORTS)
        self.sort = names[(names.index(self.sort) + 1) % len(names)]
        self.row = 0

    def move(self, by: int, n_bands: int) -> None:
        """Move the cursor of what the keys are for."""
        if self.in_heatmap:
            self.band = min(max(0, self.band + by), max(0, n_bands - 1))
        else:
            n_rows = len(self.members) if self.shows_processes else len(self.mappings())
            self.row = min(max(0, self.row + by), max(0, n_rows - 1))

    def switch(self) -> None:
        """The keys are for the heatmap, or for the table again."""
        self.in_heatmap = not self.in_heatmap

    def enter(self, n_rows: int) -> None:
        """Zoom into the mapping or band under the cursor; in the list of processes: show that one."""
        if self.in_heatmap:
            self._zoom_into_band(n_rows)
        elif self.shows_processes:
            self._show_process()
        else:
            self._zoom_into_mapping()

    def leave(self) -> None:
        """One step back: out of a zoom, from the heatmap to the table, from the processes to the mappings."""
        if self.zoom:
            self.zoom.pop()
            self.band = 0
            self.in_heatmap = bool(self.zoom)
        elif self.in_heatmap:
            self.in_heatmap = False
        elif self.shows_processes:
            self.toggle_processes()
        else:
            self.filter = ""

    def toggle_processes(self) -> None:
        """List processes, or mappings again."""
        self.shows_processes = not self.shows_processes
        self.in_heatmap = False
        self.row = 0

    def set_filter(self, text: str) -> None:
        """Show mappings with this in their name or kind."""
        self.filter = text
        self.row = 0

    def _zoom_into_mapping(self) -> None:
        one, process, history = self.selected, self.process, self._history()
        if one is None or process is None or history is None:
            return
        size = process.page_size
        extent = history.extent(one.mapping.start // size, one.mapping.end // size)
        if extent is not None:
            self.zoom = [Band(*extent, labels(self.mappings())(one))]
            self.band = 0
            self.in_heatmap = True

    def _zoom_into_band(self, n_rows: int) -> None:
        bands = self.heat(n_rows, 1).bands
        if not bands:
            return
        chosen = bands[min(self.band, len(bands) - 1)]
        if chosen.n_pages > 1 and (not self.zoom or chosen.n_pages < self.zoom[-1].n_pages):
            name = self.zoom[-1].label if self.zoom else self._name_of(bands, chosen)
            self.zoom.append(Band(chosen.start, chosen.end, name))
            self.band = 0

    @staticmethod
    def _name_of(bands: Sequence[Band], chosen: Band) -> str:
        """A band without a label belongs to the last one above that has one."""
        return next(band.label for band in reversed(bands[: bands.index(chosen) + 1]) if band.label)

    def _show_process(self) -> None:
        if self.members:
            self.pid = self.members[min(self.row, len(self.members) - 1)].pid
            self.zoom = []
            self.toggle_processes()

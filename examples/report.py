"""What the demonstration prints: an opening, a progress line, a map of what was written, and the figures."""

from __future__ import annotations

import shutil
import textwrap
from statistics import median
from typing import TYPE_CHECKING, TextIO

import numpy as np
from numpy.typing import NDArray
from skipgram import N_TOPICS
from witness import fastest_digest

if TYPE_CHECKING:
    from training import Epoch, Run

    import writewatch as ww

MAP_CELLS = 64
SHADES = " .:-=+*#%@"  # plain ASCII: a terminal of any encoding shows it


def opening(run: Run, tracker: ww.Tracker, n_words_wanted: int, room_bytes: int) -> str:
    """Say what is trained and what watches it."""
    (n_words, n_dimensions), n_tables = run.model.centre.shape, len(run.tables)
    size = f"{sum(table.nbytes for table in run.tables.values()) >> 20:,} MiB in {run.n_pages:,} pages"
    lines = [
        f"Training {n_tables} tables of {n_words:,} x {n_dimensions} float32, {size}.",
        *_served_by(tracker),
        "",
    ]
    if n_words < n_words_wanted:
        scaled = (
            f"Scaled down from {n_words_wanted:,} words: {room_bytes >> 20:,} MiB of memory are free here."
        )
        lines.insert(1, scaled)
    return "\n".join(lines)


def _served_by(tracker: ww.Tracker) -> list[str]:
    """Which backend, and when it is not the best there is, what is wrong with the better ones."""
    best = tracker.reason.startswith(f"{tracker.backend}: ")
    text = (
        f"Tracked by {tracker.reason}" if best else f"Tracked by {tracker.backend}, because: {tracker.reason}"
    )
    return textwrap.wrap(f"{text}.", 100, subsequent_indent="  ")


class ProgressLine:
    """One line that is rewritten on a terminal; a line for each epoch elsewhere."""

    def __init__(self, n_epochs: int, stream: TextIO) -> None:
        self._n_epochs = n_epochs
        self._stream = stream
        self._live = stream.isatty()

    def show(self, number: int, epoch: Epoch, n_pages: int) -> None:
        """Show one epoch; the number counts from 0."""
        text = (
            f"epoch {number + 1:2}/{self._n_epochs}  loss {epoch.loss:.2f}  topics {epoch.agreement:4.0%}  "
            f"wrote {epoch.n_reported:6,} pages {epoch.n_reported / n_pages:5.1%}  "
            f"collect {epoch.collect_s * 1e3:6.2f} ms  missed {epoch.n_missed}  extra {epoch.n_extra}"
        )
        if self._live:
            # A line that wraps could not be rewritten; blanks wipe what a longer one left.
            width = shutil.get_terminal_size().columns - 1
            text = f"\r{text:{width}.{width}}"
        self._stream.write(text if self._live else f"{text}\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the live line standing."""
        if self._live:
            self._stream.write("\n")


def summary(run: Run, tracker: ww.Tracker, epochs: list[Epoch]) -> str:
    """What was learnt, what was written, whether it was true, and what it cost."""
    return "\n".join([*_learnt(epochs), *_map(run), *_checked(run, epochs), *_costs(run, tracker, epochs)])


def _learnt(epochs: list[Epoch]) -> list[str]:
    first, last = epochs[0], epochs[-1]
    return [
        "",
        f"Learnt: loss {first.loss:.2f} -> {last.loss:.2f}; of the nearest neighbours of frequent words "
        f"{first.agreement:.0%} -> {last.agreement:.0%} are of",
        f"the same topic, where chance gives {1 / N_TOPICS:.0%}.",
    ]


def _map(run: Run) -> list[str]:
    width = max(map(len, run.n_writes))
    return [
        "",
        "Written, from the first row to the last (a darker cell: more of its pages, more often):",
        *(f"  {name:{width}} |{_shades(n_writes)}|" for name, n_writes in run.n_writes.items()),
    ]


def _shades(n_writes: NDArray[np.int64]) -> str:
    cells = np.array([part.mean() for part in np.array_split(n_writes, MAP_CELLS)])
    # The square root keeps rarely written cells apart from cells that nobody wrote.
    levels = np.ceil((cells / max(cells.max(), 1e-9)) ** 0.5 * (len(SHADES) - 1)).astype(int)
    return "".join(SHADES[level] for level in levels)


def _checked(run: Run, epochs: list[Epoch]) -> list[str]:
    n_reported = sum(epoch.n_reported for epoch in epochs)
    n_missed = sum(epoch.n_missed for epoch in epochs)
    n_extra = sum(epoch.n_extra for epoch in epochs)
    n_assumed = sum(epoch.n_assumed for epoch in epochs)
    share = n_reported / len(epochs) / run.n_pages
    verdict = "MISSED" if n_missed else "nothing was missed"
    return [
        "",
        f"Checked against a full comparison after each of {len(epochs)} epochs:",
        f"  pages reported as written    {n_reported:10,}   {share:.1%} of all pages an epoch",
        f"  changed but not reported     {n_missed:10,}   {verdict}",
        f"  reported but not changed     {n_extra:10,}   {_why_extra(n_extra, n_assumed)}",
    ]


def _why_extra(n_extra: int, n_assumed: int) -> str:
    if not n_extra:
        return "exact"
    if not n_assumed:
        return "written with the value they had"
    return f"{n_assumed:,} pages were reported unseen, as written"


def _costs(run: Run, tracker: ww.Tracker, epochs: list[Epoch]) -> list[str]:
    collect = median(epoch.collect_s for epoch in epochs)
    digest, _ = fastest_digest()
    rows = {
        f"collect ({tracker.backend})": collect,
        f"hash every page ({digest})": median(run.hash_s),
        "compare every page with a copy": median(epoch.compare_s for epoch in epochs),
    }
    return [
        "",
        f"{'To find out what an epoch wrote':40} {'median':>10}",
        *(f"  {name:38} {s * 1e3:7.2f} ms {s / collect:8.1f} x" for name, s in rows.items()),
        "",
        *_served_by(tracker),
    ]

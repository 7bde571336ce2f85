"""``Teller``: a stream of text or JSON lines about a program that is watched.

A stream that nobody reads any more is no reason to end the program: what cannot be told is left untold.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from typing import Any, Final, Protocol, TextIO

from writewatch.observe.reporters.run import epoch_line, heading_line
from writewatch.observe.reporters.summary import WIDTH, Ending, outcome_text, summary
from writewatch.observe.reporters.units import plain
from writewatch.observe.reporters.values import epoch_values, start_values, summary_values
from writewatch.observe.watch.book import Book
from writewatch.observe.watch.face import Watched
from writewatch.observe.watch.loop import cost_share
from writewatch.tracker.process.writes import ProcessWrites

#: Lines between two headings, so that one is on the screen.
_LINES_PER_HEADING: Final = 20
_WIDEST: Final = 120


class Teller(Protocol):
    """What can be told."""

    def start(self, tracker: Watched) -> None:
        """What is watched, and how."""
        ...

    def epoch(self, round_: Sequence[ProcessWrites], tracker: Watched) -> None:
        """One round of collects."""
        ...

    def problem(self, sentence: str) -> None:
        """Something went wrong."""
        ...

    def summary(self, book: Book, status: int, blind_s: float) -> None:
        """Everything, at the end; the last look was so many seconds before that."""
        ...


def teller(stream: TextIO, *, as_json: bool, quiet: bool) -> Teller:
    """Tells on a stream; quietly: without epochs."""
    return JsonTeller(stream, quiet) if as_json else TextTeller(stream, quiet)


class _Stream:
    """Writes lines as long as somebody takes them."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        self._stream = stream
        self._quiet = quiet
        self._started_ns: int | None = None  # of the first epoch

    def _write(self, line: str) -> None:
        # ValueError: the stream is closed.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(plain(line, self._stream.encoding) + "\n")
            self._stream.flush()

    def _elapsed_s(self, round_: Sequence[ProcessWrites]) -> float:
        if self._started_ns is None:
            self._started_ns = min(writes.started_ns for writes in round_)
        return (max(writes.ended_ns for writes in round_) - self._started_ns) / 1e9


class TextTeller(_Stream):
    """Tells it to people."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        super().__init__(stream, quiet)
        self._n_lines = 0

    def start(self, tracker: Watched) -> None:
        """Only what is out of the ordinary is worth a line: another backend than the best one."""
        if tracker.backend != "uffd-wp":
            self._write(f"ww  {tracker.command} is watched by {tracker.backend}: {tracker.reason}")

    def epoch(self, round_: Sequence[ProcessWrites], tracker: Watched) -> None:
        """A line."""
        if self._quiet or not round_:
            return
        if self._n_lines % _LINES_PER_HEADING == 0:
            self._write(heading_line())
        self._n_lines += 1
        self._write(epoch_line(round_, self._elapsed_s(round_), cost_share(tracker, round_)))

    def problem(self, sentence: str) -> None:
        """A line."""
        self._write(f"writewatch: {sentence}")

    def summary(self, book: Book, status: int, blind_s: float) -> None:
        """As wide as the terminal, within reason."""
        width = WIDTH
        with contextlib.suppress(OSError, ValueError):
            if self._stream.isatty():
                width = min(max(WIDTH, shutil.get_terminal_size().columns), _WIDEST)
        ending = Ending(outcome_text(status), blind_s, book.n_forgotten, book.n_forgotten_pages)
        for line in summary(book.figures(), ending, width):
            self._write(line)


class JsonTeller(_Stream):
    """Tells it to machines: one object a line."""

    def start(self, tracker: Watched) -> None:
        """``"event": "start"``."""
        self._tell(start_values(tracker.pid, tracker.command, tracker.backend, tracker.reason))

    def epoch(self, round_: Sequence[ProcessWrites], tracker: Watched) -> None:
        """``"event": "epoch"``, for each process."""
        if self._quiet:
            return
        cost = cost_share(tracker, round_)
        for writes in round_:
            self._tell(epoch_values(writes, self._elapsed_s(round_), cost))

    def problem(self, sentence: str) -> None:
        """``"event": "problem"``."""
        self._tell({"event": "problem", "text": sentence})

    def summary(self, book: Book, status: int, blind_s: float) -> None:
        """``"event": "summary"``."""
        self._tell(
            summary_values(book.figures(), status, blind_s, (book.n_forgotten, book.n_forgotten_pages))
        )

    def _tell(self, values: dict[str, Any]) -> None:
        self._write(json.dumps(values))

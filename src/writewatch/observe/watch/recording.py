"""A trace beside what is shown: where ``run`` meets the writer of traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from writewatch.errors import TraceError
from writewatch.tracker.process.writes import ProcessWrites

if TYPE_CHECKING:
    from writewatch.observe.trace.writer import TraceWriter


class Recorder(Protocol):
    """Keeps rounds of collects."""

    def add(self, writes: Sequence[ProcessWrites], /) -> object:
        """One more."""
        ...


class NoRecorder:
    """Keeps nothing."""

    def add(self, writes: Sequence[ProcessWrites], /) -> None:
        """Forget it."""


class UntilItFails:
    """Keeps rounds until one cannot be kept; then says so once, and keeps nothing more."""

    def __init__(self, recorder: Recorder, complain: Callable[[str], object]) -> None:
        self._recorder = recorder
        self._complain = complain

    def add(self, writes: Sequence[ProcessWrites], /) -> None:
        """One more."""
        try:
            self._recorder.add(writes)
        except TraceError as error:
            self._recorder = NoRecorder()
            self._complain(f"recording ended: {error}; watching goes on")


def recording(trace: Path | None, target: str, interval_s: float) -> AbstractContextManager[Recorder]:
    """Record into a trace; None: into nothing.

    Raises:
        TraceError: The trace cannot be made.
    """
    if trace is None:
        return nullcontext(NoRecorder())
    from writewatch.observe.trace.schema import described
    from writewatch.observe.trace.writer import DEFAULT_BYTES, TraceWriter

    return beside_a_program(TraceWriter(trace, described(target, interval_s, DEFAULT_BYTES)))


@contextmanager
def beside_a_program(writer: TraceWriter) -> Iterator[TraceWriter]:
    """Close a trace at the end. One that cannot be finished is said to be so: the program's status is what counts."""
    try:
        yield writer
    finally:
        try:
            writer.close()
        except TraceError as error:
            click.echo(f"writewatch: {error}", err=True)

"""A trace beside what is shown: where ``run`` meets the writer of traces."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from writewatch.tracker.process.writes import ProcessWrites


class Recorder(Protocol):
    """Keeps rounds of collects."""

    def add(self, writes: Sequence[ProcessWrites], /) -> object:
        """One more."""
        ...


class NoRecorder:
    """Keeps nothing."""

    def add(self, writes: Sequence[ProcessWrites], /) -> None:
        """Forget it."""


def recording(trace: Path | None, target: str, interval_s: float) -> AbstractContextManager[Recorder]:
    """Record into a trace; None: into nothing.

    Raises:
        TraceError: The trace cannot be made.
    """
    if trace is None:
        return nullcontext(NoRecorder())
    from writewatch.observe.trace.schema import described
    from writewatch.observe.trace.writer import DEFAULT_BYTES, TraceWriter

    return TraceWriter(trace, described(target, interval_s, DEFAULT_BYTES))

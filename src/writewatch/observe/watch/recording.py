"""A trace beside what is shown: where ``run`` meets the writer of traces."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from mmap import PAGESIZE
from pathlib import Path
from typing import Final, Protocol

from writewatch.tracker.process.writes import ProcessWrites

#: Bound on a trace that nobody gave one.
_MAX_BYTES: Final = 64 << 20


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
    from writewatch.observe.trace.schema import Meta
    from writewatch.observe.trace.writer import TraceWriter

    meta = Meta(
        began=datetime.now(UTC).isoformat(),
        target=target,
        interval_s=interval_s,
        page_size=PAGESIZE,
        kernel=platform.release(),
        recorder=version("writewatch"),
        max_bytes=_MAX_BYTES,
        epoch_ranges=0,
    )
    return TraceWriter(trace, meta)

"""A recording that was cut off becomes a trace of Parquet files alone, which nothing but Parquet is needed to read.

What a writer that was killed leaves beside its finished segments: the stream of the open one, a file that it had not
finished, and for moments a segment whose content is in another (see ``reader.py``, which passes over all of these).
Here the stream becomes a segment and the others are removed, in this order, so that being killed here loses nothing
either.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from writewatch.errors import TraceError
from writewatch.observe.trace import files
from writewatch.observe.trace.blocks import Event, Words
from writewatch.observe.trace.reader import nothing_whole, open_trace
from writewatch.observe.trace.writer import bounded, settled


def finish_trace(path: Path) -> int:
    """Finish what the writer of a trace did not; of a trace that is whole nothing is changed.

    Args:
        path: Its directory.

    Returns:
        Epochs that were in the open segment, and now are in a finished one.

    Raises:
        TraceError: It is not a trace, newer, being recorded, has nothing whole, or cannot be written. What was
            readable before still is.
    """
    trace = open_trace(path)
    if not (trace.n_segments or trace.is_open):
        raise nothing_whole(path)
    try:
        covered = _remove_what_is_covered(path)
        n_epochs = sum(
            _finish(path, number, stream, covered) for number, stream in files.open_segments_in(path)
        )
        for unfinished in files.unfinished_in(path):
            unfinished.unlink()
        files.sync_directory(path)
    except OSError as error:
        raise TraceError(f"the trace {path} cannot be finished: {error.strerror or error}") from error
    return n_epochs


def _remove_what_is_covered(trace: Path) -> int:
    """Remove segments that are part of the one before, if that is whole; the last number that whole segments cover."""
    covered = 0
    with _recorded_by_nobody([stream for _, stream in files.open_segments_in(trace)]):
        for number, segment in files.segments_in(trace):
            if number <= covered:
                segment.unlink()
                continue
            with contextlib.suppress(TraceError):  # damaged: reports go on saying so
                covered = files.read_segment(segment, Words())[1].last
    return covered


def _finish(trace: Path, number: int, stream: Path, covered: int) -> int:
    with _recorded_by_nobody([stream]):
        block, meta = files.read_open(stream, Words()) if number > covered else (None, None)
        if block is not None and meta is not None:
            note = Event("note", 0, block.end_ns, block.end_ns, "the recording was cut off")
            block = replace(block, events=(*block.events, note))
            files.write_segment(trace, bounded(settled(block), meta), meta)
        stream.unlink()
        return 0 if block is None else len(block.epochs)


@contextlib.contextmanager
def _recorded_by_nobody(streams: list[Path]) -> Iterator[None]:
    """Hold the locks that their writer would hold."""
    opened = [stream.open("rb") for stream in streams]
    try:
        for file in opened:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise TraceError("the trace is being recorded; end the recording, which finishes it") from None
    finally:
        for file in opened:
            file.close()

"""``TraceWriter``: a trace that grows round by round, is bounded, and survives its writer.

Rounds go to the open segment, each as one batch. After a minute, or when it is large, the segment is
finished: written as Parquet, and the stream removed. When the whole trace comes near its bound,
neighbouring segments are joined and thinned (``thinning.py``): the pair whose epochs are the shortest for
their age, so that **an epoch's length grows with the square root of its age**. The last resort is to give
up the oldest segment; a row says so.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np

from writewatch.errors import TraceError, UsageError
from writewatch.observe.trace import files
from writewatch.observe.trace.blocks import Block, Event, Words, fewer_mappings, joined
from writewatch.observe.trace.recording import Recording
from writewatch.observe.trace.schema import Meta, arrow
from writewatch.observe.trace.thinning import thinned
from writewatch.tracker.process.writes import ProcessWrites

LEAST_BYTES: Final = 256 << 10
DEFAULT_BYTES: Final = 256 << 20
#: A segment is finished after so long, or when it has so many ranges, whatever its size.
_SEGMENT_NS: Final = 60 * 10**9
_SEGMENT_RANGES: Final = 1 << 17
#: An epoch has at most so many ranges, under the largest bounds.
_MOST_RANGES: Final = 1 << 15
#: Bytes of the bound for each range that an epoch may have: a segment holds sixty epochs, a trace many segments.
_BYTES_PER_RANGE: Final = 1 << 13


@dataclass(frozen=True, slots=True)
class _Segment:
    """A finished segment.

    Attributes:
        meta: With the numbers that it covers.
        bytes: Its size.
        length_ns: Mean length of its epochs.
        end_ns: When the last one ended.
    """

    meta: Meta
    bytes: int
    length_ns: float
    end_ns: int


class TraceWriter:
    """Writes one trace; a context manager.

    Args:
        path: The directory; it must not exist, or be empty.
        meta: What is said once. ``epoch_ranges`` follows from ``max_bytes``.
        began_ns: ``time.monotonic_ns()`` of time 0.

    Raises:
        UsageError: The directory holds something, or the bound is too small.
        TraceError: It cannot be made, or pyarrow is missing.
    """

    def __init__(self, path: Path, meta: Meta, began_ns: int | None = None) -> None:
        if meta.max_bytes < LEAST_BYTES:
            raise UsageError(f"a trace needs at least {LEAST_BYTES >> 10} KiB; give a larger --max-size")
        arrow()  # says so when it is missing, before anything is made
        limit = max(64, min(_MOST_RANGES, meta.max_bytes // _BYTES_PER_RANGE))
        self.path = path
        self._meta = replace(meta, epoch_ranges=limit)
        self._words = Words()
        self._recording = Recording(
            self._words, time.monotonic_ns() if began_ns is None else began_ns, self._meta.epoch_ranges
        )
        self._segments: list[_Segment] = []
        self._blocks: list[Block] = []
        self._number = 1
        self._is_closed = False
        _make_empty(path)
        self._open = files.OpenSegment(path, self._segment_meta())

    @property
    def size(self) -> int:
        """Bytes of all the files."""
        return self._open.size + sum(segment.bytes for segment in self._segments)

    def add(self, writes: Sequence[ProcessWrites], events: Sequence[Event] = ()) -> None:
        """One round: what was collected of each process. It is in the file when this returns.

        A process that was in the round before and is not in this one is noted as ended.

        Raises:
            TraceError: It cannot be written; what was written before stays readable.
        """
        block = self._recording.block(writes)
        block = replace(block, events=(*block.events, *events))
        if not len(block.epochs) and not block.events:
            return
        try:
            self._open.write(block)
            self._blocks.append(block)
            if self._is_full():
                self._finish_segment()
                self._begin_segment()
            self._keep_bound()
        except OSError as error:
            raise TraceError(f"the trace {self.path} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Finish the open segment; a trace of nothing is removed. A second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._finish_segment()
            if not self._segments:
                self.path.rmdir()
        except OSError as error:
            raise TraceError(
                f"the trace {self.path} cannot be finished: {error.strerror or error}; when that is mended: "
                f"writewatch report {shlex.quote(str(self.path))} --finish"
            ) from error

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- segments --------------------------------------------------------------------------------

    def _segment_meta(self) -> Meta:
        return replace(self._meta, first=self._number, last=self._number)

    def _is_full(self) -> bool:
        epochs = [block.epochs for block in self._blocks if len(block.epochs)]
        lasts = epochs[-1]["to_ns"].max() - epochs[0]["from_ns"].min() if epochs else 0
        n_ranges = sum(len(block.ranges) for block in self._blocks)
        return bool(
            lasts >= _SEGMENT_NS
            or n_ranges >= _SEGMENT_RANGES
            or self._open.size >= self._meta.max_bytes // 8
        )

    def _finish_segment(self) -> None:
        """The open segment as Parquet; its stream is removed after that."""
        self._open.end()
        if self._blocks:
            self._segments.append(self._written(settled(joined(self._blocks)), self._segment_meta()))
            self._blocks = []
        self._open.path.unlink()
        self._open.close()

    def _begin_segment(self) -> None:
        self._number += 1
        self._recording.begin_segment()
        self._open = files.OpenSegment(self.path, self._segment_meta())

    def _written(self, block: Block, meta: Meta) -> _Segment:
        block = bounded(block, meta)
        path = files.write_segment(self.path, block, meta)
        lengths = block.epochs["to_ns"] - block.epochs["from_ns"]
        length = float(np.mean(lengths)) if len(lengths) else 0.0
        return _Segment(meta, path.stat().st_size, max(length, 1.0), block.end_ns)

    # ---- the bound -------------------------------------------------------------------------------

    def _keep_bound(self) -> None:
        # A joined segment is written before the two that it replaces are gone: room for it is kept.
        while self.size > self._meta.max_bytes * 3 // 4 and len(self._segments) > 1:
            before = self.size
            self._thin()
            if self.size > self._meta.max_bytes * 7 // 8 and self.size >= before:
                self._give_up_oldest()

    def _thin(self) -> None:
        """Join the two neighbours whose epochs are the shortest for their age."""
        now = self._segments[-1].end_ns
        pairs = list(zip(self._segments, self._segments[1:], strict=False))
        scores = [(now - a.end_ns + 1) / max(a.length_ns, b.length_ns) ** 2 for a, b in pairs]
        at = int(np.argmax(scores))
        first, second = pairs[at]
        blocks = [
            files.read_segment(files.segment_path(self.path, one.meta.first), self._words)[0]
            for one in (first, second)
        ]
        meta = replace(first.meta, last=second.meta.last)
        self._segments[at : at + 2] = [self._written(thinned(joined(blocks)), meta)]
        files.segment_path(self.path, second.meta.first).unlink()

    def _give_up_oldest(self) -> None:
        first, second = self._segments[:2]
        block, _ = files.read_segment(files.segment_path(self.path, second.meta.first), self._words)
        text = "everything until here was given up to keep the size of the trace"
        lost = Event("lost", 0, 0, first.end_ns, text)
        kept = tuple(event for event in block.events if event.what != "lost")
        meta = replace(first.meta, last=second.meta.last)
        self._segments[:2] = [self._written(replace(block, events=(lost, *kept)), meta)]
        files.segment_path(self.path, second.meta.first).unlink()


def settled(block: Block) -> Block:
    """A block whose mappings that are still there are known until its end."""
    mappings = block.mappings.copy()
    mappings["to_ns"] = np.minimum(mappings["to_ns"], block.end_ns)
    return replace(block, mappings=mappings)


def bounded(block: Block, meta: Meta) -> Block:
    """A block with no more mappings than the size of its trace allows."""
    return fewer_mappings(block, max(64, meta.max_bytes >> 10))


def _make_empty(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
        if any(path.iterdir()):
            raise UsageError(f"{path} is there and holds something; name another directory, or remove it")
    except OSError as error:
        raise TraceError(f"the trace {path} cannot be made: {error.strerror}") from error

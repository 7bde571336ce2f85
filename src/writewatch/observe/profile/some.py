"""Watching given buffers of this process: a tracker, and a thread that collects."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

import numpy as np

from writewatch.errors import WriteWatchError
from writewatch.kernel.default import default_calls
from writewatch.observe.profile.kept import Kept
from writewatch.pages import Runs, difference
from writewatch.tracker.api import track
from writewatch.tracker.buffers import resolve
from writewatch.tracker.dirty import DirtySet
from writewatch.tracker.process.procfiles import command_of
from writewatch.tracker.process.writes import Mapping, ProcessWrites


class SomeBuffers:
    """Watches buffers from its construction until ``stop()``.

    Args:
        buffers: As ``track`` takes them.
        interval_s: Seconds of an epoch. A thread collects, so one is longer while other code holds the
            interpreter.

    Raises:
        UsageError: A buffer cannot be tracked.
        KernelUnsupportedError: No backend works here.
    """

    def __init__(self, buffers: Sequence[object], interval_s: float) -> None:
        self._mappings = mappings_of(buffers, default_calls().page_size)
        self._command = command_of(os.getpid())
        self._tracker = track(*buffers)
        self._kept = Kept(interval_s)
        self._error: WriteWatchError | OSError | None = None
        self._started_ns = time.monotonic_ns()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writewatch-profile", daemon=True)
        self._thread.start()

    def stop(self) -> list[ProcessWrites]:
        """The epochs, oldest first; the last one ends now. Call it once."""
        self._stopping.set()
        self._thread.join()
        with self._tracker:
            if self._error is not None:
                raise self._error
            self._collect()
        return self._kept.epochs

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._kept.interval_s):
                self._collect()
        except (WriteWatchError, OSError) as error:
            self._error = error

    def _collect(self) -> None:
        dirty = self._tracker.collect()
        ended_ns = time.monotonic_ns()
        assumed = _assumed(dirty)
        self._kept.add(
            ProcessWrites(
                pid=os.getpid(),
                command=self._command,
                epoch=dirty.epoch,
                started_ns=self._started_ns,
                ended_ns=ended_ns,
                page_size=dirty.page_size,
                written=difference(dirty.page_runs, assumed),
                mappings=self._mappings,
                backend=self._tracker.statistics().backend,
                exact=dirty.exact or bool(len(assumed)),
                assumed=assumed,
            )
        )
        self._started_ns = ended_ns


def mappings_of(buffers: Sequence[object], page_size: int) -> tuple[Mapping, ...]:
    """Buffers in the place of mappings, by address. A page that two of them share belongs to the lower one."""
    spans = []
    for number, one in enumerate(buffers):
        buffer = resolve(one)
        span = buffer.span.rounded(page_size)
        spans.append((span.start, span.end, f"{buffer.label} {number}" if len(buffers) > 1 else buffer.label))
        buffer.release()
    found: list[Mapping] = []
    for start, end, name in sorted(spans):
        free = max(start, found[-1].end) if found else start
        if free < end:
            found.append(Mapping(free, end, name, "anonymous", ()))
    return tuple(found)


def _assumed(dirty: DirtySet) -> Runs:
    regions = dirty.assumed
    runs: Runs = np.stack((regions["start"], regions["end"]), axis=1).astype(np.int64) // dirty.page_size
    return runs

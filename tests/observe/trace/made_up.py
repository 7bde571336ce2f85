"""Processes that never ran: what was collected of them, made from sets of pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from writewatch.abi.calls import Vma
from writewatch.observe.trace.schema import Meta
from writewatch.pages import Runs, normalise
from writewatch.tracker.process.writes import Kind, Mapping, ProcessWrites

PAGE = 4096
SECOND = 10**9
HEAP = 0x5555_5555_0000
LIBRARY = 0x7F00_0000_0000
STACK = 0x7FFF_FFF0_0000


def mapping(start: int, n_pages: int, name: str, kind: Kind = "anonymous", **more: Any) -> Mapping:
    end = start + n_pages * PAGE
    return Mapping(start, end, name, kind, (Vma(start, end, "rw-p", 0, "00:00", 0, ""),), **more)


MAPPINGS = (
    mapping(HEAP, 1000, "[heap]", "heap"),
    mapping(LIBRARY, 64, "libc.so.6 .data", "library"),
    mapping(STACK, 33, "[stack]", "stack"),
)


def runs(pages: Iterable[int]) -> Runs:
    numbers = np.array(sorted(pages), np.int64)
    return normalise(np.stack((numbers, numbers + 1), axis=1)) if len(numbers) else np.empty((0, 2), np.int64)


def writes(epoch: int, written: Iterable[int] | Runs = (), **more: Any) -> ProcessWrites:
    """One epoch of a second; pages are numbers (address divided by the page size)."""
    given = written if isinstance(written, np.ndarray) else runs(written)
    values: dict[str, Any] = {
        "pid": 4711,
        "command": "made-up",
        "started_ns": epoch * SECOND,
        "ended_ns": (epoch + 1) * SECOND,
        "page_size": PAGE,
        "mappings": MAPPINGS,
        "backend": "uffd-wp",
        "exact": True,
    }
    return ProcessWrites(epoch=epoch, written=given, **(values | more))


def heap_page(number: int) -> int:
    return HEAP // PAGE + number


def meta(**more: Any) -> Meta:
    values: dict[str, Any] = {
        "began": "2026-01-02T03:04:05+00:00",
        "target": "made-up (4711)",
        "interval_s": 1.0,
        "page_size": PAGE,
        "kernel": "6.18.0",
        "recorder": "0.1.0",
        "max_bytes": 64 << 20,
        "epoch_ranges": 0,
    }
    return Meta(**(values | more))

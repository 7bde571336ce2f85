"""Epochs and figures as plain values, for JSON. Keys are stable; new ones may come.

Addresses and sizes are bytes; what is counted in pages or seconds says so in its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from writewatch.observe.watch.ages import WINDOWS_S
from writewatch.observe.watch.figures import Counts, MappingFigures, ProcessFigures
from writewatch.pages import total
from writewatch.tracker.process.writes import MappingWrites, ProcessWrites

#: Mappings of one epoch that are told one by one.
_MOST_MAPPINGS: Final = 50


def start_values(pid: int, command: str, backend: str, reason: str) -> dict[str, Any]:
    """What is watched, as plain values."""
    return {"event": "start", "pid": pid, "command": command, "backend": backend, "reason": reason}


def epoch_values(writes: ProcessWrites, elapsed_s: float, cost_share: float) -> dict[str, Any]:
    """One epoch of one process as plain values. Keys are stable; new ones may come."""
    parts = writes.by_mapping()
    return {
        "event": "epoch",
        "pid": writes.pid,
        "command": writes.command,
        "epoch": writes.epoch,
        "time_s": round(elapsed_s, 6),
        "elapsed_s": round(writes.elapsed_s, 6),
        "pages": writes.n_pages,
        "bytes": writes.n_bytes,
        "bytes_per_s": round(writes.n_bytes / max(writes.elapsed_s, 1e-9)),
        "assumed_pages": total(writes.assumed),
        "discarded_pages": total(writes.discarded),
        "exact": writes.exact and not len(writes.assumed),
        "backend": writes.backend,
        "cost_share": round(cost_share, 6),
        "mappings": [_part_values(part) for part in parts[:_MOST_MAPPINGS]],
        "more_mappings": max(0, len(parts) - _MOST_MAPPINGS),
        "notes": list(writes.notes),
    }


def summary_values(
    processes: Sequence[ProcessFigures], status: int, blind_s: float, forgotten: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    """The summary as plain values.

    Args:
        processes: All that were watched.
        status: Exit status of the first one, as ``subprocess`` has it.
        blind_s: From the last look to its end.
        forgotten: Processes whose figures were not kept, and the pages that they wrote.
    """
    return {
        "event": "summary",
        "exit_status": status,
        "unseen_at_the_end_s": round(blind_s, 6),
        "windows_s": list(WINDOWS_S),
        "processes": [process_values(one) for one in processes],
        "more_processes": {"processes": forgotten[0], "pages": forgotten[1]},
    }


def process_values(process: ProcessFigures) -> dict[str, Any]:
    """The figures of one process as plain values."""
    return {
        "pid": process.pid,
        "command": process.command,
        "backend": process.backend,
        "page_size": process.page_size,
        "exact": process.exact,
        "epochs": process.n_epochs,
        "elapsed_s": round(process.elapsed_s, 6),
        "assumed_pages": process.n_assumed,
        **_counts_values(process.counts),
        "mappings": [
            {
                **_mapping_values(one),
                **_counts_values(one.counts),
            }
            for one in process.mappings
        ],
        "notes": list(process.notes),
    }


def _mapping_values(one: MappingFigures) -> dict[str, Any]:
    found = one.mapping
    return {
        "name": found.name,
        "kind": found.kind,
        "start": found.start,
        "end": found.end,
        "mapped": one.mapped,
        "unseen": found.unseen,
    }


def _counts_values(counts: Counts) -> dict[str, Any]:
    return {
        "pages": counts.n_pages,
        "distinct_pages": counts.n_distinct,
        "latest_pages": counts.n_latest,
        "bytes_per_s_mean": round(counts.rate_mean),
        "bytes_per_s_peak": round(counts.rate_peak),
        "working_set_pages": list(counts.working_set),
        "working_set_pages_peak": list(counts.working_set_peak),
    }


def _part_values(part: MappingWrites) -> dict[str, Any]:
    found = part.mapping
    return {
        "name": found.name,
        "kind": found.kind,
        "start": found.start,
        "end": found.end,
        "pages": part.n_pages,
        "bytes": part.n_bytes,
    }

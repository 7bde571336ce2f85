"""What ``writewatch record`` says: a line while it goes on, a sentence or plain values at the end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from writewatch.observe.reporters.units import counted, rate_text, size_text
from writewatch.observe.trace.tally import Tally


def progress_line(target: str, tally: Tally, trace_bytes: int) -> str:
    """How far it is."""
    return (
        f"recording {target}: {tally.seconds:.0f} s, {counted(tally.n_rounds, 'epoch')}, "
        f"{size_text(tally.n_bytes)} written, trace {size_text(trace_bytes)}; Ctrl-C ends it"
    )


def sentence(target: str, trace: Path, tally: Tally, trace_bytes: int) -> str:
    """What was recorded, and what to do with it."""
    if not tally.n_rounds:
        return f"{target} ended before its first epoch, so there is no trace; give a shorter --interval"
    rate = rate_text(tally.n_bytes / tally.seconds if tally.seconds else 0.0)
    processes = f" by {len(tally.pids)} processes" if len(tally.pids) > 1 else ""
    return (
        f"{target}: {size_text(tally.n_bytes)} written{processes} in {tally.seconds:.1f} s "
        f"({rate}, {counted(tally.n_rounds, 'epoch')}); trace {size_text(trace_bytes)}; "
        f"see it with: writewatch report {shlex.quote(str(trace))} -o report.html"
    )


def values(target: str, trace: Path, tally: Tally, trace_bytes: int) -> dict[str, Any]:
    """The same for machines."""
    return {
        "target": target,
        "trace": str(trace),
        "trace_bytes": trace_bytes,
        "seconds": round(tally.seconds, 6),
        "epochs": tally.n_rounds,
        "pages_written": tally.n_pages,
        "bytes_written": tally.n_bytes,
        "exact": tally.exact,
        "processes": [{"pid": pid, "command": command} for pid, command in tally.pids.items()],
    }

"""Which processes a test leaves. The suite has children of its own, resource trackers and the like."""

from __future__ import annotations

import os
from pathlib import Path


def children() -> set[int]:
    """Children of this process, ended or not."""
    found = set()
    for name in os.listdir("/proc"):
        try:
            stat = Path(f"/proc/{name}/stat").read_text(encoding="latin-1") if name.isdigit() else ""
        except OSError:
            continue  # it ended while the list was made
        # The name, in parentheses, may hold anything; state and parent follow it.
        if stat and int(stat.rpartition(")")[2].split()[1]) == os.getpid():
            found.add(int(name))
    return found

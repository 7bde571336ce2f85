"""How many threads Linux holds at a userfaultfd: a fact to assert, where a sleep would only guess."""

from __future__ import annotations

import re
from pathlib import Path

from writewatch.kernel.userfaultfd import Userfaultfd


def waiting(uffd: Userfaultfd) -> int:
    """Threads that wait on a fault, its message read or not."""
    info = Path(f"/proc/self/fdinfo/{uffd.fileno()}").read_text()
    match = re.search(r"^total:\s*(\d+)", info, re.MULTILINE)
    assert match is not None
    return int(match[1])

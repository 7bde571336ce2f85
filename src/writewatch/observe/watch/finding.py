"""Which process a command means: a number, or a name as ``pgrep -x`` matches it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from writewatch.errors import UsageError

#: Candidates that an ambiguous name lists.
_MOST_LISTED: Final = 8


def find_process(word: str, proc: Path = Path("/proc")) -> int:
    """The process id that a word means.

    A name is compared with ``comm``, which Linux cuts after 15 bytes, and with the file name of the first word
    of the command line. This process does not count.

    Raises:
        UsageError: No process has that name, or several have.
    """
    if word.isdecimal():
        return int(word)
    found = [pid for pid in _processes(proc) if word in _names(proc / str(pid)) and pid != os.getpid()]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"no process is named {word or repr(word)}; give its name as in ps -e, or its process id"
        )
    listed = ", ".join(f"{pid} ({_command_line(proc / str(pid))})" for pid in found[:_MOST_LISTED])
    more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
    raise UsageError(f"{len(found)} processes are named {word}: {listed}{more}; give the process id of one")


def _processes(proc: Path) -> list[int]:
    return sorted(int(name) for name in os.listdir(proc) if name.isdecimal())


def _names(folder: Path) -> Iterator[str]:
    try:
        yield (folder / "comm").read_text("utf-8", "replace").rstrip("\n")
        first = (folder / "cmdline").read_bytes().split(b"\0")[0].decode("utf-8", "replace")
    except OSError:
        return  # it has ended
    if first:  # a kernel thread has none
        yield first.rpartition("/")[2]


def _command_line(folder: Path) -> str:
    try:
        text = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return "ended"
    words = " ".join(text.split())
    return words if len(words) <= 40 else f"{words[:39]}…"

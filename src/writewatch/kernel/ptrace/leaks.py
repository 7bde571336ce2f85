"""Children that the target forked between the two injected calls: each inherited the descriptor, and has to close it.

With a copy open somewhere, closing ours would leave the target armed until that child ends. A fork that is under way
copies the table of files long before the child can be seen, so there is a second look a little later; whoever keeps the
descriptor for long may look again. A tracker unregisters before it closes, so what is missed costs something only if
it is killed.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final

from writewatch.kernel.ptrace.asking import HelperGoneError, ask
from writewatch.kernel.ptrace.facts import children_of
from writewatch.kernel.ptrace.holders import Holder, copies_in_children, is_copy
from writewatch.kernel.ptrace.threads import read_threads

#: For a child that has to close a copy.
_CLOSE_S: Final = 0.5
#: How long a fork may take that was under way: copying the page tables of a gigabyte is some milliseconds.
_FORK_S: Final = 0.005


def close_copies(pid: int, fd: int, number: int) -> tuple[str, ...]:
    """Have descendants of a process close their copies of a userfaultfd.

    Args:
        pid: The process it was taken from.
        fd: Ours.
        number: What it was in the process.

    Returns:
        A sentence for each copy that could not be closed.
    """
    notes = _close_those_seen(pid, fd, number)
    if may_be_forking(pid):
        time.sleep(_FORK_S)
        notes = _close_those_seen(pid, fd, number)
    return notes


def may_be_forking(pid: int) -> bool:
    """Whether a thread that runs belongs to a process with children: it may be in the middle of a fork."""
    return any(thread.state in "RD" for thread in read_threads(pid)) and bool(children_of(pid))


def _close_those_seen(pid: int, fd: int, number: int) -> tuple[str, ...]:
    notes = []
    for holder in copies_in_children(fd, pid, number):
        request = {"do": "close", "pid": holder.pid, "tid": holder.pid, "fd": holder.fd}
        with contextlib.suppress(HelperGoneError):
            ask(request, _CLOSE_S, fd)
        if is_copy(fd, holder):
            notes.append(_still_open(holder))
    return tuple(notes)


def _still_open(holder: Holder) -> str:
    return (
        f"child {holder.pid} was forked meanwhile and holds a copy of the userfaultfd (fd {holder.fd}): until it ends "
        "or runs another program, the memory stays armed unless it is unregistered"
    )

"""Children of a watched process that appear while it is watched.

Linux tells the children of each thread (``/proc/PID/task/TID/children``); a child whose parent has ended belongs to
somebody else by then, so one that forks and is orphaned between two looks is not found. A child that shares the
memory of its parent (vfork, CLONE_VM) is no process of its own to us: kcmp(2) tells, and it is looked at again the
next time.

Truth: ``children_seq_show()`` in ``fs/proc/array.c``; kcmp(2).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from writewatch.abi.pidfd import KCMP_VM
from writewatch.kernel import libc
from writewatch.tracker.process.procfiles import has_memory, threads


def children_of(pid: int) -> tuple[int, ...]:
    """Children of all threads of a process, ascending."""
    listed = f"/proc/{pid}/task/{pid}/children"
    found = _listed(pid) if os.path.exists(listed) else _by_parent(pid)
    return tuple(sorted(set(found)))


def _listed(pid: int) -> Iterator[int]:
    for tid in threads(pid):
        with contextlib.suppress(OSError):
            yield from map(int, Path(f"/proc/{pid}/task/{tid}/children").read_text("ascii").split())


def _by_parent(pid: int) -> Iterator[int]:
    """Without CONFIG_PROC_CHILDREN: every process is asked for its parent."""
    for other in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{other}/stat").read_text("latin-1")
            # The name, in parentheses, may hold anything; state and parent follow it.
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                yield other


def shares_memory(pid: int, other: int) -> bool:
    """Whether two processes have one mm; False also where that may not be asked."""
    with contextlib.suppress(OSError):
        return libc.syscall("kcmp", pid, other, KCMP_VM, 0, 0) == 0
    return False


class Brood:
    """Which children of a process are new.

    Args:
        pid: Of the parent.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._known: set[int] = set()

    def fresh(self) -> tuple[int, ...]:
        """Children that have a memory of their own and were not told before."""
        now = children_of(self._pid)
        self._known &= set(now)  # a number may be given again
        found = tuple(pid for pid in now if pid not in self._known and self._is_complete(pid))
        self._known.update(found)
        return found

    def _is_complete(self, pid: int) -> bool:
        return has_memory(pid) and not shares_memory(self._pid, pid)

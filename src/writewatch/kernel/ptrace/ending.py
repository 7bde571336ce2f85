"""Which threads of the traced processes are on their way out, and which processes are held at their very end.

Every thread stops once on its way out (PTRACE_EVENT_EXIT), however its process ends, by SIGKILL too: its own
instructions are over, and it still uses the mm. So a process can write no more when its last thread stops there, and
its mm is whole as long as that one is held. What Linux itself still writes for a thread that leaves comes later: the
word of its id and its robust futexes, which others see only where memory is shared. Core dumps are written before.

Threads that leave earlier are never held: others wait for them, by pthread_join or exec. A process that is held takes
no signal any more, SIGKILL neither; it goes on when it is told to, after a while, or when its tracer dies. One that is
killed in the microseconds in which its tracer lets it go on from another stop may slip through: that stop has become
this one by then, unseen. Its owner sees an end without a last look.

Truth: ``do_exit()`` in ``kernel/exit.c``, ``prepare_signal()`` and ``ptrace_stop()`` in ``kernel/signal.c``.

Runs in the helper process: nothing here may import NumPy.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Held:
    tid: int
    until: float


class Ends:
    """Keeps the threads of processes, and the processes that are held.

    Args:
        patience_s: How long one is held at most.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._process_of: dict[int, int] = {}
        self._staying: dict[int, set[int]] = {}
        self._leaving: set[int] = set()
        self._held: dict[int, _Held] = {}

    def add(self, tid: int, pid: int) -> None:
        """A thread is traced from now on."""
        self._process_of[tid] = pid
        self._staying.setdefault(pid, set()).add(tid)

    def only_one(self, pid: int, before: int) -> None:
        """A thread has run exec: it is the only one, and has the number of its process."""
        for tid in {pid, before}:
            self.remove(tid)
        self._staying[pid] = set()
        self.add(pid, pid)

    def process_of(self, tid: int) -> int:
        """Of a thread that was added; 0 of another."""
        return self._process_of.get(tid, 0)

    def is_last(self, tid: int) -> bool:
        """A thread has stopped on its way out: whether all the others of its process are past that."""
        pid = self._process_of[tid]
        self._leaving.add(tid)
        staying = self._staying.get(pid, set())
        staying.discard(tid)
        if staying:
            return False
        try:  # a thread that was just made may not have stopped here yet
            return self._leaving.issuperset(map(int, os.listdir(f"/proc/{pid}/task")))
        except OSError:
            return False

    def remove(self, tid: int) -> None:
        """A thread is traced no more: it has ended, or was let go."""
        pid = self._process_of.pop(tid, 0)
        self._leaving.discard(tid)
        self._staying.get(pid, set()).discard(tid)
        if pid in self._held and self._held[pid].tid == tid:
            del self._held[pid]
        if tid == pid:  # Linux tells the end of the first thread last
            self._staying.pop(pid, None)

    # ---- who is held -------------------------------------------------------------------------------------

    def hold(self, tid: int) -> int:
        """Remember that the process of its last thread is held; which one it is."""
        pid = self._process_of[tid]
        self._held[pid] = _Held(tid, time.monotonic() + self._patience_s)
        return pid

    def release(self, pid: int) -> int:
        """The thread by which a process is held, which is for the caller to let go; 0 when it is not held."""
        held = self._held.pop(pid, None)
        return held.tid if held else 0

    def overdue(self) -> list[int]:
        """Processes that were held for long enough."""
        now = time.monotonic()
        return [pid for pid, held in self._held.items() if held.until <= now]

    def patience_ms(self) -> int | None:
        """Until the next one was held for long enough; None when none is held."""
        if not self._held:
            return None
        left = min(held.until for held in self._held.values()) - time.monotonic()
        return max(0, math.ceil(left * 1000))

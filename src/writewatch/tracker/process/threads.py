"""Where the threads of a process have their stacks: stack pointers of those that sleep.

``/proc/PID/task/TID/syscall`` tells it without stopping anybody, with the right to ptrace; of a thread that runs it
says only that. So what was read once is kept, and a thread that was running is asked again the next time.

Truth: ``proc_pid_syscall()`` in ``fs/proc/base.c``; proc_pid_syscall(5).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from writewatch.tracker.process.procfiles import threads

#: Threads asked at a time: a look at each is some 10 µs of ours.
_MOST: Final = 256
#: Nanoseconds between two looks.
_EVERY_NS: Final = 1_000_000_000


class StackPointers:
    """Stack pointers of the threads of a process, learnt bit by bit.

    Args:
        pid: Of the process.
        clock: Nanoseconds, monotonic.
    """

    def __init__(self, pid: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._pid = pid
        self._clock = clock
        self._known: dict[int, int] = {}
        self._again = 0

    def look(self) -> tuple[int, ...]:
        """All that are known, ascending; the leader's, whose stack has a name, is not among them."""
        now = self._clock()
        if now >= self._again:
            self._again = now + _EVERY_NS
            alive = [tid for tid in threads(self._pid) if tid != self._pid]
            self._known = {tid: self._known[tid] for tid in alive if tid in self._known}
            for tid in [tid for tid in alive if tid not in self._known][:_MOST]:
                pointer = _stack_pointer(self._pid, tid)
                if pointer:
                    self._known[tid] = pointer
        return tuple(sorted(self._known.values()))


def _stack_pointer(pid: int, tid: int) -> int:
    """Of a thread that sleeps; 0 when it runs, has ended or may not be asked."""
    try:
        with open(f"/proc/{pid}/task/{tid}/syscall", "rb", buffering=0) as file:
            words = file.read(512).split()
    except OSError:
        return 0
    # Number, arguments, stack pointer, instruction pointer; of a thread that runs one word.
    return int(words[-2], 16) if len(words) > 2 else 0

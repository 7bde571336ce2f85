"""One request of the helper, from the thread's number to the descriptor: open, seize, stop, take, detach.

Until a register of the thread is changed, this process may die at any time: its timer then kills it, and Linux lets the
thread go. After, the timer only makes waiting impatient, until the thread is itself again.

Runs in the helper process too: nothing here may import NumPy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

from writewatch.abi.pidfd import KCMP_FILE, KCMP_FILES, PIDFD_THREAD
from writewatch.abi.ptrace import PTRACE_O_TRACEEXEC, PTRACE_O_TRACESYSGOOD
from writewatch.kernel import libc
from writewatch.kernel.ptrace import filters
from writewatch.kernel.ptrace.footing import Footing
from writewatch.kernel.ptrace.ground import rehearse
from writewatch.kernel.ptrace.registers import Machine
from writewatch.kernel.ptrace.taking import RefusedError, Visit, first_stop
from writewatch.kernel.ptrace.tracing import (
    ImpatientError,
    Patience,
    ThreadEndedError,
    Tracee,
    event,
    stop_signal,
)

#: The timer goes off again and again: once it might do so just before the wait that it is to end.
_AGAIN_S: Final = 0.05
_OPTIONS: Final = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC

Answer = dict[str, Any]
Reached = Callable[[str], None]


class Timer(Patience):
    """The deadline of one request. It kills this process, until ``spare()`` says that it must not any more."""

    def __init__(self, deadline_s: float) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, deadline_s, _AGAIN_S)

    def spare(self) -> None:
        """From now on the timer only ends a wait."""
        signal.signal(signal.SIGALRM, self._expire)

    def _expire(self, _: int, __: FrameType | None) -> None:
        self.expired = True

    def stop(self) -> None:
        """The request is done."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def open_pidfd(pid: int, tid: int) -> int:
    """A pidfd whose file table is the thread's.

    Raises:
        RefusedError: ``pidfd``: the kernel is older than 6.9, and the thread has a file table of its own.
    """
    try:
        return libc.syscall("pidfd_open", tid, PIDFD_THREAD)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise ThreadEndedError from error
        if error.errno != errno.EINVAL:
            raise
    # Since Linux kernel commit 64bef697d33b ("pidfd: implement PIDFD_THREAD flag for pidfd_open()") (in v6.9).
    # Before that, a pidfd was always that of the leader.
    if tid != pid and libc.syscall("kcmp", pid, tid, KCMP_FILES, 0, 0):
        raise RefusedError("pidfd", errno.EINVAL)
    return os.pidfd_open(pid)


def visit(request: dict[str, Any], machine: Machine, reached: Reached) -> tuple[Answer, int]:
    """Serve one request; returns what to answer, and a descriptor to send along, -1 for none.

    The answer has ``failed`` when it failed: ``ended``, ``open`` and ``seize`` (with ``errno``), ``frozen``, or the
    ``why`` of a ``RefusedError``. Whatever happened, the thread is not traced any more.
    """
    timer = Timer(request["deadline_s"])
    try:
        return _Attempt(request, machine, timer, reached).run()
    except ThreadEndedError:
        return {"failed": "ended"}, -1
    except ImpatientError:
        return {"failed": "frozen"}, -1
    except RefusedError as error:
        return {"failed": error.why, "errno": error.number}, -1
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.ENOENT):
            return {"failed": "ended"}, -1
        return {"failed": "seize" if "SEIZE" in str(error) else "open", "errno": error.errno}, -1
    finally:
        timer.stop()


@contextlib.contextmanager
def _first_in_the_queue() -> Iterator[None]:
    """A thread that is held waits for this process, so it must not wait for a processor where it has the right to.

    On two processors with four busy processes the thread was held for 0.22 instead of 8 ms (99th percentile).
    """
    before = os.sched_getscheduler(0)
    try:
        if before == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:  # without CAP_SYS_NICE
        before = os.SCHED_FIFO
    try:
        yield
    finally:
        if before == os.SCHED_OTHER:
            os.sched_setscheduler(0, before, os.sched_param(0))


class _Attempt:
    """One thread, opened, seized, stopped, asked and detached."""

    def __init__(self, request: dict[str, Any], machine: Machine, timer: Timer, reached: Reached) -> None:
        self._request, self._machine, self._timer, self._reached = request, machine, timer, reached
        self._tracee = Tracee(request["tid"], timer)
        self._opened = contextlib.ExitStack()

    def run(self) -> tuple[Answer, int]:
        fd = -1
        with self._opened:
            status = self._open_status()
            self._tracee.seize(_OPTIONS)
            self._reached("seized")
            try:
                try:
                    pidfd, footing = self._look_around()
                finally:  # whatever happened: only a stopped thread can be detached
                    reach_ns = self._stop()
                stopped = time.monotonic_ns()
                answer, fd = self._while_stopped(status, pidfd, footing)
                self._tracee.detach()
            except BaseException:
                self._give_up(fd)
                raise
            held_ns = time.monotonic_ns() - stopped
            self._reached("detached")
            return answer | {"reach_ns": reach_ns, "held_ns": held_ns}, fd

    def _give_up(self, fd: int) -> None:
        if fd >= 0:
            os.close(fd)
        try:
            self._tracee.detach()
        except ThreadEndedError:
            self._let_go_after_exec()

    def _let_go_after_exec(self) -> None:
        """A thread that seems to have ended may have run exec: it has the number of its process, and stops for us."""
        pid = self._request["pid"]
        if pid != self._tracee.tid:
            successor = Tracee(pid, self._timer)
            with contextlib.suppress(ThreadEndedError):
                status = successor.wait()
                successor.detach(0 if event(status) else stop_signal(status))

    def _open_status(self) -> int:
        pid, tid = self._request["pid"], self._request["tid"]
        status = os.open(f"/proc/{pid}/task/{tid}/status", os.O_RDONLY | os.O_CLOEXEC)
        self._opened.callback(os.close, status)
        return status

    def _look_around(self) -> tuple[int, Footing]:
        """After the seize and not before: exec is an event from then on, so this is the mm that the stop will find."""
        pid = self._request["pid"]
        pidfd = open_pidfd(pid, self._request["tid"])
        self._opened.callback(os.close, pidfd)
        self._tracee.open_memory(pid)
        self._opened.callback(self._tracee.close)
        footing = Footing(self._tracee, pid, self._machine)
        self._opened.enter_context(_first_in_the_queue())
        rehearse(footing)
        return pidfd, footing

    def _stop(self) -> int:
        """Interrupt, and wait for the stop; how long it took."""
        began = time.monotonic_ns()
        self._tracee.interrupt()
        self._reached("interrupted")
        first_stop(self._tracee)
        reach_ns = time.monotonic_ns() - began
        self._reached("stopped")
        return reach_ns

    def _while_stopped(self, status: int, pidfd: int, footing: Footing) -> tuple[Answer, int]:
        request = self._request
        if request["do"] == "touch":  # what a stop costs that does nothing
            return {}, -1
        self._lift_filters(status)
        self._timer.spare()
        visit_ = Visit(self._tracee, self._machine, footing, self._reached)
        if request["do"] == "close":
            return {"result": _close_copy(visit_, pidfd, request["fd"], request["mine"])}, -1
        fd = visit_.take(pidfd)
        return {"restores_itself": visit_.restores_itself, "notes": visit_.notes, "number": visit_.number}, fd

    def _lift_filters(self, status: int) -> None:
        """A filter may kill whoever makes our calls. Not before the stop: the thread must not run without its own.

        Lifting is tried before looking whether there is any: it takes less time, and a thread is held.
        """
        try:
            filters.suspend(self._tracee, _OPTIONS)
        except RefusedError:
            if filters.is_filtered(status):
                raise


def _close_copy(visit_: Visit, pidfd: int, number: int, mine: int) -> int:
    """Close a descriptor of the thread if it is the file that we have under ``mine``; 0 or the negative errno."""
    copy = libc.syscall("pidfd_getfd", pidfd, number, 0)
    try:
        own = os.getpid()
        differs = libc.syscall("kcmp", own, own, KCMP_FILE, copy, mine)
    finally:
        os.close(copy)
    return -errno.EBADF if differs else visit_.close_descriptor(number)

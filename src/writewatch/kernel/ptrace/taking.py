"""Have one thread of another process make a userfaultfd, take a copy of the descriptor, and close the thread's own.

One stop for both system calls, in this order:

1. seize, interrupt, wait for the trap. The first stop may be about a signal and swallow the interrupt: the signal is
   passed on and the interrupt asked for again.
2. look at what stands in the way; write the signal frame that undoes everything (``frame.py``); set the registers;
   block all signals. In this order: blocked signals with the thread's own registers would stay blocked for ever if
   we died.
3. run userfaultfd(2) between two stops (PTRACE_SYSCALL, never single steps: these force SIGTRAP on the thread);
   pidfd_getfd(2); run close(2).
4. signals first, then the registers; detach.

Whoever kills this process at any point leaves a thread that finishes the call it is in and returns into rt_sigreturn.
Where there is no room for a frame the same is done without, and a note says so.

Runs in the helper process too: nothing here may import NumPy.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Final

from writewatch.abi.ptrace import (
    PTRACE_CONT,
    PTRACE_EVENT_EXEC,
    PTRACE_SYSCALL,
    PtraceSudConfig,
)
from writewatch.kernel import libc
from writewatch.kernel.ptrace import obstacles
from writewatch.kernel.ptrace.footing import Footing
from writewatch.kernel.ptrace.ground import Ground, NoGroundError, Stopped, prepare
from writewatch.kernel.ptrace.registers import Machine, Registers
from writewatch.kernel.ptrace.tracing import (
    ImpatientError,
    Tracee,
    event,
    is_call,
    is_trap,
    stop_signal,
)

#: O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY: without the last the target would need a privilege.
USERFAULTFD_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK | 1
_ALL_SIGNALS: Final = b"\xff" * 8
_LAST_ERRNO: Final = 4095
#: SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS: the thread's own fault, while it runs for us.
_FAULTS: Final = frozenset({4, 5, 7, 8, 11, 31})

#: Every point at which a test may kill this process, in order.
POINTS: Final = (
    "seized", "interrupted", "stopped", "frame written", "registers set", "signals blocked", "at the entry",
    "at the exit", "taken", "at the entry of close", "closed", "signals unblocked", "registers restored", "detached",
)  # fmt: skip
Reached = Callable[[str], None]


class RefusedError(Exception):
    """The thread cannot be used; it goes on as before.

    Attributes:
        why: ``call``, ``foreign``, ``no instruction``, ``unexpected signal``, ``pidfd``, ``seccomp``, ``replaced``.
        number: Errno or signal, 0 where there is none.
    """

    def __init__(self, why: str, number: int = 0) -> None:
        super().__init__(why, number)
        self.why, self.number = why, number


def first_stop(tracee: Tracee) -> None:
    """Wait for the trap that was asked for; a signal that arrives before it is passed on.

    Raises:
        RefusedError: ``replaced``: it is stopped in exec, with an mm that nothing is known of.
    """
    while not is_trap(status := tracee.wait()):
        if event(status) == PTRACE_EVENT_EXEC:
            raise RefusedError("replaced")
        tracee.interrupt()
        is_signal = event(status) == 0 and not is_call(status)
        tracee.ask(PTRACE_CONT, 0, stop_signal(status) if is_signal else 0)


class Visit:
    """One stop of one thread, from the trap to the moment before it is detached.

    Attributes:
        restores_itself: Whether a frame was written.
        notes: What else was done or given up, in sentences.
        number: Of the descriptor in the target, while it was there.
        was_stopped: Whether its whole group was stopped (SIGSTOP) while it ran for us. Who detaches it need not mind.
    """

    def __init__(self, tracee: Tracee, machine: Machine, footing: Footing, reached: Reached) -> None:
        self._tracee, self._machine, self._reached = tracee, machine, reached
        self.notes: list[str] = []
        self.restores_itself = False
        self.number = -1
        self.was_stopped = False
        found = machine.read(tracee)
        if machine.runs_foreign_code(found):
            raise RefusedError("foreign")
        self._stopped = Stopped(
            found,
            obstacles.abort_ip(tracee, machine.ip(found)),
            tracee.signal_mask(),
            obstacles.dispatch_in_the_way(tracee),
        )
        self._ground = self._prepare(footing)

    def _prepare(self, footing: Footing) -> Ground:
        try:
            ground = prepare(self._tracee, self._machine, footing, self._stopped)
        except NoGroundError:
            raise RefusedError("no instruction") from None
        if ground.why_plain:
            self.notes.append(
                f"thread {self._tracee.tid} was held without a way back of its own: {ground.why_plain}"
            )
        else:
            self.restores_itself = True
            self._reached("frame written")
        return ground

    # ---- running -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changed(self, first: Registers) -> Iterator[None]:
        """Registers and signals of the thread are ours inside, and its own again after, whatever happens."""
        tracee, stopped = self._tracee, self._stopped
        try:
            if stopped.dispatch is not None:
                obstacles.set_dispatch(tracee, PtraceSudConfig())
            self._machine.write(tracee, first)
            self._reached("registers set")
            tracee.set_signal_mask(_ALL_SIGNALS)
            self._reached("signals blocked")
            yield
        finally:
            tracee.set_signal_mask(stopped.mask)
            self._reached("signals unblocked")
            self._machine.write(tracee, self._machine.as_found(stopped.registers, stopped.abort_ip))
            self._reached("registers restored")
            self._ground.leave(tracee)
            if stopped.dispatch is not None:
                obstacles.set_dispatch(tracee, stopped.dispatch)

    def take(self, pidfd: int) -> int:
        """Both calls; the descriptor that is ours.

        Raises:
            RefusedError: ``call``: the target may not, with the errno.
            ImpatientError: The thread did not run the call: it was frozen. It is stopped again, and itself.
            ThreadEndedError: It was killed meanwhile.
        """
        with self._changed(self._call(self._machine.userfaultfd, USERFAULTFD_FLAGS)):
            number = self.number = self._run("at the entry", "at the exit")
            if number < 0:
                raise RefusedError("call", -number)
            try:
                mine = libc.syscall("pidfd_getfd", pidfd, number, 0)
            except OSError as error:
                self._close(number)
                raise RefusedError("pidfd", error.errno or 0) from error
            self._reached("taken")
            try:
                self._close(number)
            except BaseException:
                os.close(mine)
                raise
            return mine

    def close_descriptor(self, number: int) -> int:
        """Have the thread close one descriptor; returns 0 or the negative errno."""
        with self._changed(self._call(self._machine.close, number)):
            return self._run("at the entry of close", "closed")

    def _call(self, number: int, argument: int) -> Registers:
        """Registers with which the thread makes a system call."""
        return self._machine.call(self._ground.registers, self._ground.site, number, argument)

    def _close(self, number: int) -> None:
        self._machine.write(self._tracee, self._call(self._machine.close, number))
        self._run("at the entry of close", "closed")

    def _run(self, at_entry: str, at_exit: str) -> int:
        """Let the thread make the call that its registers name; what it returned, negative for an errno."""
        self._to_next_call_stop()
        self._reached(at_entry)
        self._to_next_call_stop()
        self._reached(at_exit)
        result = self._machine.result(self._machine.read(self._tracee))
        return result if result >= -_LAST_ERRNO else -errno.EIO

    def _to_next_call_stop(self) -> None:
        """Run to the entry or the exit of a system call. Its group may be stopped or frozen in between."""
        tracee, passed_on = self._tracee, 0
        while True:
            tracee.ask(PTRACE_SYSCALL, 0, passed_on)
            status = self._wait_or_take_back()
            if is_call(status):
                return
            passed_on = self._signal_to_pass(status)

    def _signal_to_pass(self, status: int) -> int:
        """A trap (group stop) is left at once; of the signals only SIGSTOP gets past the mask, and SIGKILL kills."""
        if event(status):
            self.was_stopped |= is_trap(status)
            return 0
        if stop_signal(status) in _FAULTS:
            raise RefusedError("unexpected signal", stop_signal(status))
        return stop_signal(status)

    def _wait_or_take_back(self) -> int:
        try:
            return self._tracee.wait()
        except ImpatientError:  # frozen: a trap still gets through, and then the registers can be restored
            self._tracee.interrupt()
            while not is_trap(self._wait_for_ever()):
                self._tracee.ask(PTRACE_SYSCALL)
            raise

    def _wait_for_ever(self) -> int:
        """A thread with registers of ours must not be left: it would stop some day, with nobody to let it go.

        With a frame this process may end instead: Linux detaches the thread, and the frame does the rest.
        """
        while True:
            self._tracee.patience.expired = False
            try:
                return self._tracee.wait()
            except ImpatientError:  # frozen by a cgroup of version 1, which lets no trap through
                if self.restores_itself:
                    os._exit(1)

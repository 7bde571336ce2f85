"""The helper as the parent of a program: every new mm of it is held until its owner has armed it.

A new mm comes from exec or from fork. At PTRACE_EVENT_EXEC the mm is there, but the return value of execve is still to
be written; so the thread goes on to the exit of that call, where no instruction of the program has run. A forked child
stops by itself before its first (PTRACE_EVENT_STOP of a number not seen yet, which may come before the parent's
PTRACE_EVENT_FORK). A child by vfork shares the mm of its parent and is left alone until its exec.

Every signal passes through here: it is given back with PTRACE_CONT, and a stop of the whole group is let be with
PTRACE_LISTEN, so that SIGCONT works. Nor does a child run that was stopped before it did. Where it was asked for, a
process is held once more, when its last thread is on its way out (``ending.py``): for a moment, in which its owner
looks at what it wrote. When this process ends, for whatever reason, Linux detaches what it traced.

Runs in the helper process: nothing here may import NumPy.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import time
from typing import Any, Final

from writewatch.abi.pidfd import KCMP_VM
from writewatch.abi.ptrace import (
    PTRACE_CONT,
    PTRACE_DETACH,
    PTRACE_EVENT_EXEC,
    PTRACE_EVENT_EXIT,
    PTRACE_GETEVENTMSG,
    PTRACE_INTERRUPT,
    PTRACE_LISTEN,
    PTRACE_O_TRACECLONE,
    PTRACE_O_TRACEEXEC,
    PTRACE_O_TRACEEXIT,
    PTRACE_O_TRACEFORK,
    PTRACE_O_TRACESYSGOOD,
    PTRACE_O_TRACEVFORK,
    PTRACE_SETOPTIONS,
    PTRACE_SYSCALL,
)
from writewatch.kernel import libc
from writewatch.kernel.ptrace import filters, packets, starting
from writewatch.kernel.ptrace.ending import Ends
from writewatch.kernel.ptrace.footing import Footing
from writewatch.kernel.ptrace.registers import Machine
from writewatch.kernel.ptrace.taking import RefusedError, Visit
from writewatch.kernel.ptrace.tracing import (
    WALL,
    ImpatientError,
    ThreadEndedError,
    Tracee,
    ended,
    event,
    is_call,
    is_trap,
    stop_signal,
)
from writewatch.kernel.ptrace.visiting import Timer, open_pidfd

_GROUP_STOPS: Final = frozenset({signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
_FORKS: Final = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE
_DEADLINE_S: Final = 5.0
_WAKEUPS: Final = 1 << 16


class Program:
    """One program, its descendants where they are followed, and the socket to who wants to know.

    Args:
        owner: Events go there, releases come from there; when it is closed this ends.
        specification: ``argv``, ``env``, ``cwd``, ``forks``, ``execs``, ``pass_fds``; ``end_patience_s``: how long a
            process is held at its end, 0 for not at all; and ``owner``: its pid.
        machine: The architecture.
    """

    def __init__(self, owner: socket.socket, specification: dict[str, Any], machine: Machine) -> None:
        self._owner, self._specification, self._machine = owner, specification, machine
        self._forks, self._execs = specification["forks"], specification["execs"]
        self._options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC
        if self._forks:
            self._options |= _FORKS
        elif self._execs:  # by any thread; one that is not traced takes the number of the leader, and is lost
            self._options |= PTRACE_O_TRACECLONE
        if specification["end_patience_s"] and (self._forks or self._execs):
            self._options |= PTRACE_O_TRACEEXIT
        self._processes: set[int] = set()
        self._threads: set[int] = set()
        self._leaving_exec: set[int] = set()
        self._held: set[int] = set()
        self._announced: set[int] = set()  # processes whose mm of now the owner knows
        self._ends = Ends(specification["end_patience_s"])
        self._root = 0
        self._started = False
        self._early_end: int | None = None

    # ---- its life ----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start the program and serve until it has ended, or its owner is gone."""
        found = starting.ignore_what_the_group_is_sent()
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            owner_process = os.pidfd_open(self._specification["owner"])
        except OSError:
            return
        if not self._start(found):
            return
        starting.leave_its_files(self._specification["pass_fds"])
        poller = select.poll()
        for fd in (reader, self._owner.fileno(), owner_process):
            poller.register(fd, select.POLLIN)
        while self._serve_waits():
            ready = dict(poller.poll(self._ends.patience_ms()))
            for pid in self._ends.overdue():
                self._let_end(pid)
            if reader in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(reader, _WAKEUPS)
            if owner_process in ready or (self._owner.fileno() in ready and not self._hear()):
                return

    def _start(self, found: starting.Dispositions) -> bool:
        """Until the program is held at its first instruction; False where it cannot be, which the owner is told."""
        try:
            self._root, told = starting.start(self._specification, self._options, found)
        except OSError as error:
            self._tell({"event": "failed", "what": "seize", "errno": error.errno})
            return False
        self._processes.add(self._root)
        self._threads.add(self._root)
        self._ends.add(self._root, self._root)
        poller = select.poll()
        poller.register(told, select.POLLIN)
        while self._serve_waits() and not self._held and not poller.poll(1):
            pass  # until it stops at the exit of execve, says why there is none, or dies
        self._started = True
        number = 0 if self._held else starting.errno_of_exec(told)
        os.close(told)
        if number:
            self._tell({"event": "failed", "what": "exec", "errno": number})
        elif self._early_end is not None:
            self._ended(self._root, self._early_end)
        return not number

    # ---- the owner ---------------------------------------------------------------------------------------

    def _tell(self, message: dict[str, Any], fd: int = -1) -> None:
        with contextlib.suppress(OSError):  # an owner that is gone is seen by its end of the socket
            packets.send(self._owner, message, fd)
        if fd >= 0:
            os.close(fd)

    def _hear(self) -> bool:
        """A held process may go on, or end; False when there will be no more such words."""
        try:
            message, _ = packets.receive(self._owner)
        except OSError:  # the owner died with an event unread
            return False
        if not message:
            return False
        if "end" in message:
            self._let_end(message["end"])
            return True
        tid = message["release"]
        if tid in self._held:
            self._held.discard(tid)
            follows = self._forks or (self._execs and tid == self._root)
            self._go_on(tid) if follows else self._let_go(tid)
        return True

    # ---- stops -------------------------------------------------------------------------------------------

    def _serve_waits(self) -> bool:
        """Everything that has stopped or ended; False when nothing is left to wait for."""
        while True:
            try:
                tid, status = os.waitpid(-1, os.WNOHANG | WALL)
            except ChildProcessError:
                return False
            if not tid:
                return True
            try:
                self._serve(tid, status)
            except ThreadEndedError:
                continue

    def _serve(self, tid: int, status: int) -> None:
        if ended(status):
            self._ended(tid, status)
        elif event(status) == PTRACE_EVENT_EXEC:
            before = self._number_before(tid)
            self._threads.discard(before)
            self._ends.only_one(tid, before)
            self._announced.discard(tid)
            self._processes.add(tid)
            self._leaving_exec.add(tid)
            self._go_on(tid)
        elif event(status) == PTRACE_EVENT_EXIT:
            self._on_its_way_out(tid)
        elif is_call(status):
            self._left_a_call(tid)
        elif is_trap(status) and tid not in self._threads:
            self._new(tid)
        elif is_trap(status) and stop_signal(status) in _GROUP_STOPS:
            self._ask(PTRACE_LISTEN, tid)
        else:
            self._go_on(tid, 0 if event(status) else stop_signal(status))

    def _number_before(self, tid: int) -> int:
        """What the thread was called that ran exec: it has the number of its process now."""
        number = ctypes.c_ulong()
        self._ask(PTRACE_GETEVENTMSG, tid, ctypes.addressof(number))
        return number.value

    def _on_its_way_out(self, tid: int) -> None:
        """Hold it if it is the last thread of a process that the owner watches."""
        self._held.discard(tid)  # killed before it was released
        self._leaving_exec.discard(tid)
        if not self._ends.process_of(tid):  # killed before it ever stopped
            self._ends.add(tid, _relatives(tid)[0])
        if self._ends.is_last(tid) and self._ends.process_of(tid) in self._announced:
            self._tell({"event": "ending", "pid": self._ends.hold(tid)})
        else:
            self._go_on(tid)

    def _let_end(self, pid: int) -> None:
        tid = self._ends.release(pid)
        if tid:
            self._go_on(tid)

    def _ended(self, tid: int, status: int) -> None:
        if tid == self._root and not self._started:  # why it could not exec is said first
            self._early_end = status
            return
        for group in (self._threads, self._leaving_exec, self._held, self._announced):
            group.discard(tid)
        self._ends.remove(tid)
        if tid in self._processes or tid == self._root:
            self._processes.discard(tid)
            self._tell({"event": "ended", "pid": tid, "status": os.waitstatus_to_exitcode(status)})

    def _left_a_call(self, tid: int) -> None:
        if tid not in self._leaving_exec:
            self._go_on(tid)
            return
        self._leaving_exec.discard(tid)
        self._threads.add(tid)
        self._hold(tid, "exec")

    def _new(self, tid: int) -> None:
        """A thread, a process that shares its parent's mm, or one with an mm of its own."""
        self._threads.add(tid)
        tgid, parent = _relatives(tid)
        self._ends.add(tid, tgid)
        if tgid == tid:
            self._processes.add(tid)
        if tgid == tid and not self._forks:
            self._processes.discard(tid)
            self._let_go(tid)
        elif tgid == tid and not self._shares_memory(tid, parent):
            self._hold(tid, "fork")
        else:
            self._go_on(tid)

    def _shares_memory(self, tid: int, parent: int) -> bool:
        """Whether its mm is one that is known already: its parent's, or with CLONE_PARENT another's."""
        others = [parent] if parent in self._processes else []
        others += [pid for pid in self._processes if pid not in (tid, parent)]
        for pid in others:
            with contextlib.suppress(OSError):
                if libc.syscall("kcmp", pid, tid, KCMP_VM, 0, 0) == 0:
                    return True
        return False

    def _hold(self, tid: int, cause: str) -> None:
        """Take the descriptor of a new mm and keep the process stopped until it is released."""
        message, fd = self._take(tid)
        _, parent = _relatives(tid)
        self._held.add(tid)
        self._announced.add(tid)
        self._tell({"event": "memory", "pid": tid, "parent": parent, "cause": cause, **message}, fd)

    def _take(self, tid: int) -> tuple[dict[str, Any], int]:
        timer = Timer(_DEADLINE_S)
        timer.spare()
        began = time.monotonic_ns()
        tracee, visit = Tracee(tid, timer), None
        try:
            tracee.open_memory(tid)
            visit = self._visit(tracee)
            pidfd = open_pidfd(tid, tid)
            try:
                fd = visit.take(pidfd)
            finally:
                os.close(pidfd)
        except ThreadEndedError:
            self._ended(tid, tracee.last_status)
            raise
        except RefusedError as error:
            return {"failed": error.why, "errno": error.number}, -1
        except ImpatientError:
            return {"failed": "frozen"}, -1
        except OSError as error:
            return {"failed": "open", "errno": error.errno}, -1
        finally:
            timer.stop()
            tracee.close()
            self._ask(PTRACE_SETOPTIONS, tid, self._options)  # filters stand again
            if visit is not None and visit.was_stopped:  # so that it stops again before its first instruction
                self._ask(PTRACE_INTERRUPT, tid)
        held = time.monotonic_ns() - began
        return {"held_ns": held, "restores_itself": visit.restores_itself, "notes": visit.notes}, fd

    def _visit(self, tracee: Tracee) -> Visit:
        if not filters.has_ours(tracee.tid):
            filters.suspend(tracee, self._options)
        else:
            filters.try_here()
        return Visit(tracee, self._machine, Footing(tracee, tracee.tid, self._machine), lambda _: None)

    # ---- requests ----------------------------------------------------------------------------------------

    def _go_on(self, tid: int, passed_on: int = 0) -> None:
        self._ask(PTRACE_SYSCALL if tid in self._leaving_exec else PTRACE_CONT, tid, passed_on)

    def _let_go(self, tid: int) -> None:
        self._threads.discard(tid)
        self._announced.discard(tid)
        self._ends.remove(tid)
        self._ask(PTRACE_DETACH, tid)

    def _ask(self, request: int, tid: int, data: int = 0) -> None:
        """A request to a stopped thread. One that was killed meanwhile says so at the next wait."""
        libc.ptrace(request, tid, 0, data)


def _relatives(tid: int) -> tuple[int, int]:
    """Process of a thread, and parent of that; (0, 0) when it has ended."""
    try:
        with open(f"/proc/{tid}/status", "rb", buffering=0) as file:
            lines = dict(line.split(b":", 1) for line in file.readall().split(b"\n") if b":" in line)
    except OSError:
        return 0, 0
    return int(lines[b"Tgid"]), int(lines[b"PPid"])


def serve_program(owner: socket.socket, specification_fd: int, machine: Machine) -> None:
    """Run the program that an open file of JSON describes."""
    with open(specification_fd, "rb") as file:
        specification = json.load(file)
    Program(owner, specification, machine).run()

"""``take_userfaultfd()``: a userfaultfd that acts on another process's memory.

The process makes it for us, in one stop of one of its threads (``taking.py``), and never knows. It is bound to the mm
for good: what follows, UFFDIO_API and all, needs no stop, and another debugger may come and go.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Any, Final

from writewatch.errors import AttachError, KernelUnsupportedError
from writewatch.kernel.ptrace.asking import HelperGoneError, ask
from writewatch.kernel.ptrace.facts import Facts, read_facts
from writewatch.kernel.ptrace.holders import copies_in_children, is_copy
from writewatch.kernel.ptrace.preflight import call_refused, cannot_be_stopped, judge, no_right, refusal
from writewatch.kernel.ptrace.registers import machine_of
from writewatch.kernel.ptrace.threads import Thread

#: Of the time that is left, what one thread gets that does not stop, while there are others.
_SHARE: Final = 0.5
_LEAST_S: Final = 0.001
#: A process that runs another program is refused in between, and looks as if it might not be traced.
_TRIES: Final = 8
_PASSING: Final = frozenset({"ended", "replaced", "no instruction", "seize", "open"})
_DID_NOT_STOP: Final[dict[str, Any]] = {"failed": "deadline"}
_PAUSE_S: Final = 0.001
#: For a child that has to close a copy.
_CLOSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Taken:
    """A userfaultfd of another process.

    Attributes:
        fd: The descriptor, close-on-exec and non-blocking, before its UFFDIO_API. The receiver owns it.
        tid: The thread that made it.
        reach_ns: From the request to stop to the stop.
        held_ns: From the stop until the thread ran again.
        restores_itself: Whether the thread would have got away unharmed had the helper been killed.
        notes: What was given up, in sentences.
    """

    fd: int
    tid: int
    reach_ns: int
    held_ns: int
    restores_itself: bool
    notes: tuple[str, ...]


def take_userfaultfd(pid: int, *, deadline_s: float = 1.0) -> Taken:
    """Have a process make a userfaultfd and take it; the process has no descriptor of it afterwards.

    Args:
        pid: A process, in our pid namespace.
        deadline_s: How long a thread may take to stop. Then it is left alone, unchanged.

    Raises:
        UsageError: It is this process.
        AttachError: It cannot be attached to, and why. It runs on as if nobody had tried.
        KernelUnsupportedError: Attaching is not written for this architecture.
    """
    if machine_of() is None:
        raise KernelUnsupportedError("attaching is written for x86-64 and aarch64 alone", ("ptrace",))
    ends, failures = time.monotonic() + deadline_s, 0
    unwilling: set[int] = set()
    while True:
        facts = read_facts(pid)
        threads = [thread for thread in judge(facts) if thread.tid not in unwilling]
        left = ends - time.monotonic()
        if left <= 0:
            raise AttachError(cannot_be_stopped(facts), pid)
        if not threads:  # asleep in the kernel, or waiting for a vfork child: often for a moment only
            time.sleep(min(_PAUSE_S, left))
            continue
        outcome = _try(facts, threads[0], left * _SHARE if len(threads) > 1 else left)
        if isinstance(outcome, Taken):
            return outcome
        failures += 1
        if outcome == _DID_NOT_STOP:
            unwilling.add(threads[0].tid)
        elif failures == _TRIES:
            raise AttachError(sentence(outcome, pid), pid)


def _try(facts: Facts, thread: Thread, deadline_s: float) -> Taken | dict[str, Any]:
    """One thread; the helper's answer when it may go better the next time."""
    request = {"do": "take", "pid": facts.pid, "tid": thread.tid}
    try:
        answer, fd = ask(request, max(deadline_s, _LEAST_S))
    except HelperGoneError:
        return _DID_NOT_STOP
    if "failed" not in answer:
        try:
            notes = (*answer["notes"], *_close_copies(fd, facts.pid, answer["number"]))
        except BaseException:
            os.close(fd)
            raise
        times = answer["reach_ns"], answer["held_ns"]
        return Taken(fd, thread.tid, *times, answer["restores_itself"], notes)
    if answer["failed"] in _PASSING:
        return answer
    raise AttachError(sentence(answer, facts.pid), facts.pid)


def _close_copies(fd: int, pid: int, number: int) -> tuple[str, ...]:
    """Have children close what they inherited in between; what cannot be closed is told."""
    notes = []
    for holder in copies_in_children(fd, pid, number):
        request = {"do": "close", "pid": holder.pid, "tid": holder.pid, "fd": holder.fd}
        with contextlib.suppress(HelperGoneError):
            ask(request, _CLOSE_S, fd)
        if is_copy(fd, holder):
            notes.append(
                f"child {holder.pid} was forked meanwhile and holds a copy of the userfaultfd (fd {holder.fd}): "
                "until it ends or runs another program, the memory stays armed unless it is unregistered"
            )
    return tuple(notes)


def sentence(answer: dict[str, Any], pid: int) -> str:
    """Why the helper failed. What has changed in the process since it was judged says more than an errno."""
    facts = read_facts(pid)
    number = answer.get("errno", 0)
    sentences = {
        "call": call_refused(pid, number),
        "ended": f"the threads of {pid} end too fast to stop one; try again",
        "replaced": f"{pid} runs one program after another; try again",
        "foreign": f"{pid} runs 32-bit code: not supported",
        "frozen": f"{pid} did not run when it was let go; it seems to be frozen, thaw it first",
        "no instruction": f"{pid} has no system call instruction in its memory that could be used",
        "seccomp": f"{pid} filters system calls and a filter may kill it; run as root",
        "pidfd": f"the descriptor of {pid} could not be taken (errno {number}); Linux 6.9 or newer may help",
        "unexpected signal": f"{pid} was disturbed by signal {number} while it was held; it runs on",
    }
    return sentences.get(answer["failed"]) or refusal(facts) or no_right(facts)

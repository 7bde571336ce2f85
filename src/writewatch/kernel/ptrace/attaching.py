"""``take_userfaultfd()``: a userfaultfd that acts on another process's memory.

The process makes it for us, in one stop of one of its threads (``taking.py``), and never knows. It is bound to the mm
for good: what follows, UFFDIO_API and all, needs no stop, and another debugger may come and go.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from writewatch.errors import AttachError, KernelUnsupportedError
from writewatch.kernel.ptrace.asking import HelperGoneError, ask
from writewatch.kernel.ptrace.facts import Facts, read_facts
from writewatch.kernel.ptrace.leaks import close_copies
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
#: Another tracker that attaches at the same time is gone by then; a debugger is not.
_PASSER_BY_S: Final = 0.1

_one_at_a_time = threading.Lock()


def _forget() -> None:
    """In a forked child the lock may be held by a thread that is not there."""
    global _one_at_a_time  # noqa: PLW0603
    _one_at_a_time = threading.Lock()


os.register_at_fork(after_in_child=_forget)


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
        number: What the descriptor was in the process, before it was closed there: see ``leaks.close_copies()``.
    """

    fd: int
    tid: int
    reach_ns: int
    held_ns: int
    restores_itself: bool
    notes: tuple[str, ...]
    number: int = -1


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
    with _one_at_a_time:
        return _take(pid, deadline_s)


def _take(pid: int, deadline_s: float) -> Taken:
    ends, failures = time.monotonic() + deadline_s, 0
    unwilling: set[int] = set()
    while True:
        facts = _facts_without_a_passer_by(pid)
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


def _facts_without_a_passer_by(pid: int) -> Facts:
    """Facts; a tracer that stays is in them, one that only takes a descriptor, as we do, is waited for."""
    ends = time.monotonic() + _PASSER_BY_S
    while (facts := read_facts(pid)).tracer is not None and time.monotonic() < ends:
        time.sleep(_PAUSE_S)
    return facts


def _try(facts: Facts, thread: Thread, deadline_s: float) -> Taken | dict[str, Any]:
    """One thread; the helper's answer when it may go better the next time."""
    request = {"do": "take", "pid": facts.pid, "tid": thread.tid}
    try:
        answer, fd = ask(request, max(deadline_s, _LEAST_S))
    except HelperGoneError:
        return _DID_NOT_STOP
    if "failed" not in answer:
        try:
            notes = (*answer["notes"], *close_copies(facts.pid, fd, answer["number"]))
        except BaseException:
            os.close(fd)
            raise
        times = answer["reach_ns"], answer["held_ns"]
        return Taken(fd, thread.tid, *times, answer["restores_itself"], notes, answer["number"])
    if answer["failed"] in _PASSING:
        return answer
    raise AttachError(sentence(answer, facts.pid), facts.pid)


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

"""Whether a process can be attached to, judged from its facts; each refusal is a sentence that names the mend.

Pure: no process is needed to test a word of it. Linux has the last word all the same, and ``no_right()`` then says what
it most probably meant by EPERM.
"""

from __future__ import annotations

import errno
import os

from writewatch.errors import AttachError, UsageError
from writewatch.kernel.ptrace.facts import OURSELVES, Facts, read_facts
from writewatch.kernel.ptrace.threads import Thread, best_first

_MEND = "run as root or with CAP_SYS_PTRACE"


def check(pid: int) -> None:
    """Refuse what cannot be attached to, without touching it.

    Raises:
        UsageError: It is this process.
        AttachError: It cannot be, and why.
    """
    facts = read_facts(pid)
    if not judge(facts):
        raise AttachError(cannot_be_stopped(facts), pid)


def judge(facts: Facts) -> tuple[Thread, ...]:
    """The threads to try, best first; none while all are where a stop does not reach them.

    Raises:
        UsageError: It is this process.
        AttachError: It cannot be attached to, and why.
    """
    if facts.pid == facts.by.pid:
        raise UsageError("use Tracker() for the own process")
    reason = refusal(facts)
    if reason is not None:
        raise AttachError(reason, facts.pid)
    return tuple(best_first(thread for thread in facts.threads if not thread.tracer))


def refusal(facts: Facts) -> str | None:
    """Why not, in a sentence; None when nothing speaks against trying."""
    pid = facts.pid
    if not facts.exists:
        return f"no process {pid}"
    if facts.leader != pid:
        return f"{pid} is a thread of process {facts.leader}; give that number"
    if all(thread.state in "ZX" for thread in facts.threads):
        return f"process {pid} has already exited (zombie)"
    if facts.is_kernel_thread:
        return f"{pid} ({facts.name}) is a kernel thread: it has no memory to track"
    if facts.tracer is not None and all(thread.tracer or thread.state in "ZX" for thread in facts.threads):
        number, name = facts.tracer
        if name == OURSELVES:
            return f"{pid} is followed by another writewatch (pid {number}); end that first"
        return f"{pid} is being traced by {name} (pid {number}); detach it for a moment (it may return after attaching)"
    if facts.is_32_bit:
        return f"{pid} is a 32-bit process: not supported"
    if facts.frozen_by is not None:
        return f"{pid} is frozen by cgroup {facts.frozen_by}; thaw it first"
    return _by_policy(facts)


def _by_policy(facts: Facts) -> str | None:
    pid, by = facts.pid, facts.by
    if by.yama == 3:
        return f"nobody may attach to {pid} (kernel.yama.ptrace_scope is 3): use writewatch run -- CMD"
    if by.yama == 2 and not by.traces_any:
        return f"attaching to {pid} takes CAP_SYS_PTRACE (kernel.yama.ptrace_scope is 2): {_MEND}"
    if by.yama == 1 and not by.traces_any:
        return "only children may be attached (kernel.yama.ptrace_scope is 1): use writewatch run -- CMD, or root"
    if facts.threads and all(thread.seccomp for thread in facts.threads) and not by.suspends_filters:
        if not by.traces_any and by.uid not in facts.uids:
            return no_right(facts)
        return f"{pid} filters system calls and a filter may kill it; {_who_suspends(facts)}"
    return None


def _who_suspends(facts: Facts) -> str:
    if facts.by.traces_any and facts.by.uid == 0:
        return "give this process CAP_SYS_ADMIN and start it without a filter of its own (outside of the container)"
    return "run as root"


def cannot_be_stopped(facts: Facts) -> str:
    """All its threads are where a stop does not reach them."""
    if facts.vfork_child is not None:
        why = f"waiting for vfork child {facts.vfork_child}"
    else:
        states = "".join(sorted({thread.state for thread in facts.threads}))
        why = f"its threads are in state {states}; try again"
    return f"no thread of {facts.pid} can be stopped now ({why})"


def no_right(facts: Facts) -> str:
    """What Linux meant by EPERM or EACCES, as far as ``/proc`` tells."""
    pid, by = facts.pid, facts.by
    if by.traces_any:
        return (
            f"{pid} ({facts.name}) may not be traced although CAP_SYS_PTRACE is there: it is outside of this "
            "user namespace, or a security module forbids it; attach from outside of the container"
        )
    if by.uid not in facts.uids:
        return f"{pid} ({facts.name}) belongs to user {facts.uids[0]}; {_MEND}"
    if facts.gains_rights or len(set(facts.uids)) > 1:
        return f"{pid} ({facts.name}) gained rights from its file (set-uid or capabilities); {_MEND}"
    if not facts.is_dumpable:
        return f"{pid} ({facts.name}) keeps others from its memory (PR_SET_DUMPABLE is 0); {_MEND}"
    return f"{pid} ({facts.name}) may not be traced by this process; {_MEND}"


def call_refused(pid: int, number: int) -> str:
    """The target's own userfaultfd(2) said no."""
    mends = {
        errno.EMFILE: "its limit of open files is reached; raise it with prlimit --nofile",
        errno.ENFILE: "the system has no more open files",
        errno.ENOMEM: "there is no memory left for it",
        errno.ENOSYS: "this kernel has no userfaultfd",
        errno.EPERM: "a security module or its container forbids it",
    }
    name = errno.errorcode.get(number, str(number))
    return f"the target {pid} may not open a userfaultfd: {name}, {mends.get(number, os.strerror(number))}"

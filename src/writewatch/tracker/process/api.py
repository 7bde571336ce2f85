"""``attach``: watch a process that runs already; ``launching.py`` starts one."""

from __future__ import annotations

import os

from writewatch.errors import UsageError
from writewatch.kernel.default import default_calls
from writewatch.tracker.process.records import Options
from writewatch.tracker.process.select import Take, take_by_ptrace
from writewatch.tracker.process.tracking import ProcessTracker

__all__ = ["ProcessTracker", "attach"]


def attach(
    pid: int,
    *,
    backend: str = "auto",
    follow_forks: bool = False,
    follow_exec: bool = False,
    budget: float | None = 0.05,
    take: Take = take_by_ptrace,
) -> ProcessTracker:
    """Watch a running process.

    One of its threads is stopped for about half a millisecond; after that nothing stops it. While it is watched, a
    program that registers memory with a userfaultfd of its own for the first time is refused (EBUSY).

    Args: pid: Of the process. backend: ``auto``, or a name: ``uffd-wp``, ``soft-dirty``, ``content-hash``.
        follow_forks: Watch its children too, those that are there and those that come. follow_exec: Go on with the
        program that exec brings. budget: Share of one core that watching may cost; ``tracker.budget`` says what
        period that allows. None: no limit. take: How to get a userfaultfd of a process, for targets that hand one
        over by themselves.

    Raises:
        AttachError: It cannot be watched, and why. It runs on as if nobody had tried.
        KernelUnsupportedError: The named backend does not work here.
        UsageError: It is this process, or no backend has this name.
    """
    if pid == os.getpid():
        raise UsageError("use Tracker() for the own process")
    return ProcessTracker(pid, Options(backend, follow_forks, follow_exec, budget, take, default_calls()))

"""Small values around a ``ProcessTracker``: how it was asked to watch, and what it has seen so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from writewatch.abi.calls import KernelCalls
from writewatch.tracker.process.select import Take

#: ``replaced``: exec brought another program, which is not followed.
State: TypeAlias = Literal["running", "exited", "replaced"]


@dataclass(frozen=True, slots=True)
class Options:
    """How a process is watched, and those that come of it.

    Attributes:
        backend: A name, or ``auto``.
        follow_forks: Children are watched too.
        follow_exec: The program that exec brings is watched too.
        budget: Share of one core; None for no limit.
        take: How to get a userfaultfd of a process.
        calls: What to ask.
    """

    backend: str
    follow_forks: bool
    follow_exec: bool
    budget: float | None
    take: Take
    calls: KernelCalls


@dataclass(frozen=True, slots=True)
class ProcessStatistics:
    """What a ``ProcessTracker`` has seen so far, for showing.

    Attributes:
        pid, command, backend, reason, state: As of the tracker.
        n_epochs: Reports of the present program.
        n_pages: Pages reported, each as often as it was.
        n_mappings: At the last look; 0 before the first.
        n_children: Followed now.
        cost_share: Estimated share of one core that watching costs.
        scan_s: What the last look took.
    """

    pid: int
    command: str
    backend: str
    reason: str
    state: State
    n_epochs: int
    n_pages: int
    n_mappings: int
    n_children: int
    cost_share: float
    scan_s: float

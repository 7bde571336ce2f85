"""What is known of the watching itself: who is watched, how often, and at what cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """A process in the tree: how deep it lies below the first one, and whether it still runs."""

    pid: int
    depth: int
    command: str
    runs: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the watching itself.

    Attributes:
        interval_s: Wanted seconds between collects.
        period_s: What the budget makes of it.
        cost_share: Share of one core, estimated.
        reason: Why this backend.
    """

    interval_s: float = 1.0
    period_s: float = 1.0
    cost_share: float = 0.0
    reason: str = ""

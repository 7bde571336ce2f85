"""``Book``: the accounts of a process and of all that it started.

A process is one account for each program that ran in it. Ended ones keep their figures and give up their
memory; a build that starts thousands of processes keeps the ``MOST_ENDED`` that wrote most and the sum of the
others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from writewatch.observe.watch.account import Account
from writewatch.observe.watch.ages import WINDOWS_S
from writewatch.observe.watch.figures import ProcessFigures
from writewatch.tracker.process.writes import ProcessWrites

MOST_ENDED: Final = 200


class Book:
    """Accounts by process.

    Args:
        windows_s: Of the written working sets, in seconds.
    """

    def __init__(self, windows_s: tuple[int, ...] = WINDOWS_S) -> None:
        self._windows_s = windows_s
        self._running: dict[int, Account] = {}
        self._ended: list[ProcessFigures] = []
        self.n_forgotten = 0
        self.n_forgotten_pages = 0

    def add(self, round_: Iterable[ProcessWrites]) -> None:
        """One round of collects. Who is not in it is not over: a process may have had nothing to tell."""
        for writes in round_:
            account = self._running.get(writes.pid)
            if account is not None and not account.continues(writes):
                self.end(writes.pid)
                account = None
            if account is None:
                account = self._running[writes.pid] = Account(self._windows_s)
            account.add(writes)
            if writes.is_last:  # there may be thousands of short processes
                self.end(writes.pid)

    def end(self, pid: int) -> None:
        """This process, or the program in it, is over; nothing when it is not known."""
        account = self._running.pop(pid, None)
        if account is None:
            return
        self._ended.append(account.figures())
        if len(self._ended) > MOST_ENDED:
            least = min(self._ended, key=lambda figures: figures.counts.n_pages)
            self._ended.remove(least)
            self.n_forgotten += 1
            self.n_forgotten_pages += least.counts.n_pages

    def end_all_but(self, pids: Iterable[int]) -> None:
        """Every process is over that is not one of these."""
        for pid in set(self._running) - set(pids):
            self.end(pid)

    def account(self, pid: int) -> Account | None:
        """Of the program that runs in a process now."""
        return self._running.get(pid)

    def unseen_since_ns(self, pid: int) -> int:
        """When the latest epoch of the program that runs in a process ended; 0 when there is nothing after it."""
        account = self._running.get(pid)
        return account.latest.ended_ns if account is not None and account.latest is not None else 0

    def running(self) -> tuple[ProcessFigures, ...]:
        """Figures of the processes that are not over, in the order of their appearance."""
        return tuple(account.figures() for account in self._running.values())

    def figures(self) -> tuple[ProcessFigures, ...]:
        """All that are kept: those that are over first."""
        return (*self._ended, *self.running())

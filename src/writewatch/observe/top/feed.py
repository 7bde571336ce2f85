"""``Feed``: the loop in a thread of its own, so that the screen answers while a process is looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from writewatch.errors import WriteWatchError
from writewatch.observe.top.facts import Facts, Member
from writewatch.observe.watch.face import Watched
from writewatch.observe.watch.loop import cost_share, period_s, watch
from writewatch.tracker.process.writes import ProcessWrites

_ENDINGS: Final = {
    "exited": "{} has ended.",
    "replaced": "{} has become another program by exec.",
    "running": "{} runs on, but is not watched any more.",
}


@dataclass(frozen=True, slots=True)
class News:
    """One round of collects, and what was known then.

    Attributes:
        round: Of all processes.
        members: The processes, parents before their children.
        facts: Of the watching.
    """

    round: tuple[ProcessWrites, ...]
    members: tuple[Member, ...]
    facts: Facts


class Source(Protocol):
    """Where a screen gets its news from."""

    def start(self, tell: Callable[[News], object], end: Callable[[str], object]) -> None:
        """Begin; both functions are called from another thread."""
        ...

    def stop(self) -> None:
        """No more news; returns soon."""
        ...


class Feed:
    """Watches a tracker until it is stopped or the process has ended.

    Args:
        tracker: Stays the caller's.
        interval_s: Wanted seconds between two collects.

    Attributes:
        error: An error of our own making that ended it, for whoever closes the screen to raise; None otherwise.
    """

    def __init__(self, tracker: Watched, interval_s: float) -> None:
        self._tracker = tracker
        self._interval_s = interval_s
        self.error: Exception | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, tell: Callable[[News], object], end: Callable[[str], object]) -> None:
        """Begin; both functions are called from another thread."""
        self._thread = threading.Thread(
            target=self._run, args=(tell, end), name="writewatch-top", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """No more news; returns soon."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, tell: Callable[[News], object], end: Callable[[str], object]) -> None:
        who = f"{self._tracker.command} ({self._tracker.pid})"
        try:
            for round_ in watch(self._tracker, self._interval_s, stopped=self._stopped.is_set):
                tell(News(round_, tuple(members(self._tracker)), self._facts(round_)))
        except (WriteWatchError, OSError) as error:
            end(f"Watching {who} failed: {error}.")
            return
        except Exception as error:
            # In a thread below a screen nobody would see it, and the picture would seem to be alive.
            self.error = error
            end(f"Watching {who} failed: {error!r}.")
            return
        if not self._stopped.is_set():
            end(_ENDINGS[self._tracker.state].format(who))

    def _facts(self, round_: tuple[ProcessWrites, ...]) -> Facts:
        period = period_s(self._tracker, self._interval_s)
        return Facts(self._interval_s, period, cost_share(self._tracker, round_), self._tracker.reason)


def members(tracker: Watched, depth: int = 0) -> Iterator[Member]:
    """The tree of processes, parents before their children."""
    yield Member(tracker.pid, depth, tracker.command, tracker.state == "running")
    for child in tracker.children:
        yield from members(child, depth + 1)

"""The loop over a tracker and the processes that it follows: wait, collect all, hand on.

The first process decides how long: when it has ended, or another program runs in it that is not followed,
there is one last round and the loop is over; what is left of ended processes, whose programs report one after the
other, comes in more rounds after that. A child that ended is left out from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from writewatch.errors import TrackingLostError
from writewatch.observe.watch.face import Watched
from writewatch.observe.watch.figures import span_s
from writewatch.tracker.process.writes import ProcessWrites

#: How soon a loop that can be stopped notices it.
_PATIENCE_S: Final = 0.1
#: A round is not put off by less.
_LEAST_S: Final = 0.05


def watch(
    tracker: Watched,
    interval_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    stopped: Callable[[], bool] | None = None,
) -> Iterator[tuple[ProcessWrites, ...]]:
    """What a process and those it is followed into wrote, again and again until it ends.

    Args:
        tracker: Of the first process. It stays open: closing it is the caller's.
        interval_s: Wanted seconds between two collects; a budget may make it longer.
        clock: Monotonic seconds. The time that a round and its reader take is part of the interval.
        stopped: Asked several times a second; True ends the loop without another round.

    Yields:
        One value for each process that had something to tell, the first process first. Empty when none had:
        the last round of a process that was gone already.
    """
    ended = False
    due = clock()
    while not ended:
        period = period_s(tracker, interval_s)
        # Late, by a reader that was slow or because everybody was stopped: no epoch of a moment, whose rate
        # would mean nothing.
        due = max(due + period, clock() + period / 2)
        ended = _wait(tracker, due, clock, stopped)
        while not ended and (late := put_off_s(tracker)) > 0:
            due = clock() + max(late, _LEAST_S)
            ended = _wait(tracker, due, clock, stopped)
            if stopped is not None and stopped():
                break
        if stopped is not None and stopped():
            return
        yield collect_all(tracker)
        ended = ended or tracker.state != "running"
    while left := _collected_of_the_ended(tracker):
        yield left


def collect_all(tracker: Watched) -> tuple[ProcessWrites, ...]:
    """One collect of a tracker and of all below it; who has nothing more to tell is left out."""
    return tuple(writes for one in family(tracker) if (writes := _collected(one)) is not None)


def _collected_of_the_ended(tracker: Watched) -> tuple[ProcessWrites, ...]:
    """One more collect of those that have ended and may have something left: exec makes a report for each program."""
    ended = [one for one in family(tracker) if one.state != "exited" and one.wait(0)]
    return tuple(writes for one in ended if (writes := _collected(one)) is not None)


def family(tracker: Watched) -> Iterator[Watched]:
    """A tracker and all below it, parents before their children."""
    yield tracker
    for child in tracker.children:
        yield from family(child)


def period_s(tracker: Watched, interval_s: float) -> float:
    """The longest interval that the budget of one of the processes asks for."""
    return max(one.budget.period_s(interval_s) for one in family(tracker))


def put_off_s(tracker: Watched) -> float:
    """Seconds by which the budget of one of the processes wants a round that is due put off."""
    return max(one.put_off_s() for one in family(tracker))


def cost_share(tracker: Watched, round_: Sequence[ProcessWrites]) -> float:
    """What watching cost all the processes of a round together, as a share of one core.

    A process that was there for a part of the round counts for that part: of a thousand that lived for a moment each,
    the shares of their moments do not add up. Of a round in which nobody had anything to tell it is the first one's.
    """
    if not round_:
        return tracker.budget.cost_share
    shares = {one.pid: one.budget.cost_share for one in family(tracker)}
    costs_s = (shares.get(writes.pid, 0.0) * writes.elapsed_s for writes in round_)
    return sum(costs_s) / span_s(round_)


def _wait(
    tracker: Watched, due: float, clock: Callable[[], float], stopped: Callable[[], bool] | None
) -> bool:
    """Until it is due, or the process has ended, which is True, or it shall stop."""
    if stopped is None:
        return tracker.wait(max(0.0, due - clock()))
    ended = False
    while not ended and not stopped() and (left := due - clock()) > 0:
        ended = tracker.wait(min(left, _PATIENCE_S))
    return ended


def _collected(tracker: Watched) -> ProcessWrites | None:
    try:
        return tracker.collect()
    except TrackingLostError:
        return None

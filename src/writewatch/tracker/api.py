"""``track``, ``Tracker`` and ``Consumer``: what a program holds in its hand.

A tracker is about some buffers. It has one consumer of its own, behind ``collect()``, and any number of named ones,
each with its own position: what one has collected is still news to the others.
"""

from __future__ import annotations

import functools
import os
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import numpy as np

from writewatch.abi.calls import KernelCalls
from writewatch.errors import TrackerClosedError, UsageError
from writewatch.kernel.default import default_calls
from writewatch.pages import AddrRange, Runs, as_runs, difference, normalise, total, union
from writewatch.tracker import ledger as ledgers
from writewatch.tracker.backend import Harvest
from writewatch.tracker.blindness import BlindSpots
from writewatch.tracker.buffers import TrackedBuffer, resolve
from writewatch.tracker.dirty import DirtySet
from writewatch.tracker.gate import GATE
from writewatch.tracker.select import Chosen, open_best
from writewatch.tracker.translate import translate


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a tracker has done so far.

    Attributes:
        backend: Its name.
        reason: Why this backend and no better one.
        n_buffers: Buffers tracked.
        tracked_bytes: Bytes of the pages that hold them, each page once.
        n_collects: Collects of all consumers.
        last_collect_ns: Duration of the latest collect.
        total_collect_ns: Duration of all.
        pending_bytes: Memory held for what consumers have not collected yet.
        pinned_bytes: Bytes of the pages that were named as pinned.
    """

    backend: str
    reason: str
    n_buffers: int
    tracked_bytes: int
    n_collects: int
    last_collect_ns: int
    total_collect_ns: int
    pending_bytes: int
    pinned_bytes: int


class Position:
    """How far one consumer has read: what it is still owed, and how often it has collected."""

    def __init__(self, account: ledgers.Account) -> None:
        self.account = account
        self.epoch = 0


class Consumer:
    """One reader of a tracker, with its own position. Made by ``Tracker.consumer``; keeps the tracker alive."""

    def __init__(self, tracker: Tracker, name: str, position: Position) -> None:
        self._tracker = tracker
        self._position = position
        self.name = name

    @property
    def epoch(self) -> int:
        """How often it has collected: the number that its next set will have."""
        return self._position.epoch

    def collect(self) -> DirtySet:
        """Pages written since this consumer's last collect, or since it was made.

        In a ``with`` statement the set is a transaction: left by an exception, its pages go back to this consumer
        and are in its next collect. Writers may run on meanwhile: a write is in this set or in the
        next. To copy consistently, collect first and copy what was reported afterwards.

        Raises:
            TrackerClosedError: The tracker or this consumer is closed.
            TrackingLostError: This is a forked child of the process that made the tracker.
            OSError: The kernel refused; the next collect reports what this one would have.
        """
        handed, receipt = self._position.account.handed, object()
        dirty = GATE.run(self._tracker._collect, self._position, receipt)
        # Last, and no call follows it: an exception of a signal handler before this leaves the pages with us.
        handed[receipt] = None
        return dirty

    def is_clean(self) -> bool:
        """Whether ``collect()`` would report nothing. Stops at the first written page, changes nothing."""
        return GATE.run(self._tracker._is_clean, self._position)

    def close(self) -> None:
        """Stop consuming; a later ``consumer()`` of the same name starts anew. A second call does nothing."""
        close = functools.partial(self._tracker._close_consumer, self.name, self._position)
        GATE.run_or_put_off(close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Consumer {self.name!r} at epoch {self.epoch} of {self._tracker!r}>"


class Holdings:
    """What a tracker has to give back: accounts, a descriptor, exported buffers. Nothing here holds the tracker."""

    def __init__(self, chosen: Chosen, buffers: Sequence[TrackedBuffer], blind: BlindSpots) -> None:
        self.is_open = True
        self.chosen = chosen
        self.main = Position(chosen.account)
        self.named: dict[str, Position] = {}
        self.blind = blind
        self._buffers = buffers

    def positions(self) -> list[Position]:
        """Of all consumers, the tracker's own first."""
        return [self.main, *self.named.values()]

    def shut(self) -> None:
        """Give everything back. Interrupted, it goes on where it stopped when it is called again."""
        self.is_open = False
        for position in self.positions():
            self.chosen.close(position.account)
        self.blind.close()
        for buffer in self._buffers:
            buffer.release()


class Tracker:
    """Tells which pages of its buffers were written. Made by ``track``; any thread may use it.

    It keeps the buffers alive, and those that export their memory (``bytearray``, ``mmap``) from being resized
    or closed, until it is closed. Close it, or use it in a ``with`` statement; a tracker that is dropped
    is closed as well. Making and closing trackers does not disturb others over the same memory.
    """

    def __init__(
        self,
        buffers: Sequence[TrackedBuffer],
        pinned: Sequence[TrackedBuffer],
        backend: str,
        calls: KernelCalls,
    ) -> None:
        self._n_buffers = len(buffers)
        self._page_size = calls.page_size
        self._bytes = as_runs(buffer.span for buffer in buffers)
        self._pages = _pages_of(buffers, calls.page_size)
        self._pinned = _pages_of(pinned, calls.page_size)
        self._handles: weakref.WeakValueDictionary[str, Consumer] = weakref.WeakValueDictionary()
        self._collects = 0, 0, 0  # how many, ns of the last, ns of all
        self._blind = BlindSpots(calls, [b.span for b in buffers], total(self._pinned) * calls.page_size)
        account = ledgers.Account(self._pages)
        try:
            self._blind.warn_of_others(stacklevel=4)
            self._blind.check(stacklevel=4)
            self._chosen = open_best(backend, calls, account)
            self._holdings = Holdings(self._chosen, buffers, self._blind)
            self._main, self._named = self._holdings.main, self._holdings.named
            shut = functools.partial(GATE.run_or_put_off, self._holdings.shut, waits=False)
            self._finalizer = weakref.finalize(self, shut)
        except BaseException:
            ledgers.forget(account)
            self._blind.close()
            raise
        _trackers.add(self)

    # ---- collecting ------------------------------------------------------------------------------

    def collect(self) -> DirtySet:
        """Pages written since the last collect, or since ``track``: ``Consumer.collect`` of the tracker's own."""
        handed, receipt = self._main.account.handed, object()
        dirty = GATE.run(self._collect, self._main, receipt)
        # Last, and no call follows it: an exception of a signal handler before this leaves the pages with us.
        handed[receipt] = None
        return dirty

    def is_clean(self) -> bool:
        """Whether ``collect()`` would report nothing. Stops at the first written page, changes nothing."""
        return GATE.run(self._is_clean, self._main)

    def consumer(self, name: str) -> Consumer:
        """The consumer of this name; made now, with nothing to report yet, when there is none.

        Raises:
            TrackerClosedError: The tracker is closed.
        """
        return GATE.run(self._consumer, name)

    def _consumer(self, name: str) -> Consumer:
        self._check_open()
        if name not in self._named:
            account = ledgers.Account(self._pages)
            try:
                self._named[name] = Position(self._chosen.ledger.open_account(self._pages, account))
            except OSError as error:
                raise translate(error, self.backend) from error
            except BaseException:
                ledgers.forget(account)
                raise
        handle = self._handles.get(name)
        if handle is None or handle._position is not self._named[name]:
            handle = self._handles[name] = Consumer(self, name, self._named[name])
        return handle

    def _collect(self, position: Position, receipt: object) -> DirtySet:
        """A set whose pages still stand in ``position.account.handed``, for the caller to mark as received there."""
        self._check_open()
        started = time.perf_counter_ns()
        if started >= self._blind.look_again:
            self._blind.check(stacklevel=4)
        try:
            owed = self._chosen.ledger.collect(position.account, receipt)
        except OSError as error:
            raise translate(error, self.backend) from error
        dirty = DirtySet(
            functools.partial(getattr, owed, "written"),
            union(owed.assumed, self._pinned),
            page_size=self._page_size,
            tracked=self._bytes,
            epoch=position.epoch,
            exact=owed.exact or not len(owed.written),
            # Without the tracker: a set that is kept does not keep the tracker and its buffers.
            give_back=functools.partial(_give_back, position.account, owed),
            regions=owed.regions,
        )
        elapsed = time.perf_counter_ns() - started
        n_collects, _, total_ns = self._collects
        self._collects = n_collects + 1, elapsed, total_ns + elapsed
        position.epoch += 1
        return dirty

    def _is_clean(self, position: Position) -> bool:
        self._check_open()
        self._blind.check(stacklevel=4)
        if len(self._pinned):
            return False
        try:
            return not self._chosen.ledger.has_written(position.account)
        except OSError as error:
            raise translate(error, self.backend) from error

    # ---- what it is ------------------------------------------------------------------------------

    @property
    def backend(self) -> str:
        """Name of the backend that serves."""
        return self._chosen.name

    @property
    def reason(self) -> str:
        """Why this backend, and no better one, in a sentence."""
        return self._chosen.reason

    @property
    def epoch(self) -> int:
        """How often ``collect()`` was called: the number that the next set will have."""
        return self._main.epoch

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self._page_size

    @property
    def closed(self) -> bool:
        """Whether the tracker was closed."""
        return not self._holdings.is_open

    def statistics(self) -> Statistics:
        """What it has done so far; also of a tracker that is closed."""
        n_collects, last_ns, total_ns = self._collects
        return Statistics(
            backend=self.backend,
            reason=self.reason,
            n_buffers=self._n_buffers,
            tracked_bytes=total(self._pages) * self._page_size,
            n_collects=n_collects,
            last_collect_ns=last_ns,
            total_collect_ns=total_ns,
            pending_bytes=sum(position.account.nbytes for position in self._holdings.positions()),
            pinned_bytes=total(self._pinned) * self._page_size,
        )

    def __repr__(self) -> str:
        size = total(self._pages) * self._page_size
        what = f"{self._n_buffers} buffer{'s' * (self._n_buffers != 1)}, {size} bytes in pages"
        state = "closed" if self.closed else f"by {self.backend}, at epoch {self.epoch}"
        return f"<Tracker of {what}, {state}>"

    # ---- end -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop tracking and let go of the buffers. A second call does nothing."""
        GATE.run_or_put_off(self._holdings.shut)
        if self.closed:
            self._finalizer.detach()

    def __reduce__(self) -> NoReturn:
        raise UsageError("a tracker belongs to its process; send the DirtySet, or make a tracker over there")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close_consumer(self, name: str, position: Position) -> None:
        if self._named.get(name) is position and not self.closed:
            self._chosen.close(position.account)
            del self._named[name]

    def _check_open(self) -> None:
        if not self._holdings.is_open:
            raise TrackerClosedError("this tracker is closed; make a new one with track()")


_trackers: Final[weakref.WeakSet[Tracker]] = weakref.WeakSet()


def _tell_parents() -> None:
    for tracker in list(_trackers):
        tracker._blind.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_tell_parents)


def _give_back(account: ledgers.Account, owed: Harvest) -> None:
    GATE.run_or_put_off(functools.partial(account.enter, owed), must_succeed=True)


def _pages_of(buffers: Iterable[TrackedBuffer], page_size: int) -> Runs:
    return normalise(as_runs(buffer.span.rounded(page_size) for buffer in buffers) // page_size)


def track(
    *buffers: Any,
    backend: str = "auto",
    pinned: Iterable[Any] = (),
    calls: KernelCalls | None = None,
) -> Tracker:
    """Track which pages of some buffers are written, from now on.

    Args:
        buffers: Anything with writable memory of this process: arrays (any order; of a view with gaps the whole
            span), ``bytearray``, ``mmap``, ``memoryview``, ``SharedMemory``, ``np.memmap``, CPU tensors. They may
            overlap, share pages, and be empty.
        backend: "auto" for the best that works here, or one by name: "uffd-wp", "soft-dirty", "content-hash",
            "uffd-wp-sync", "every-page".
        pinned: Parts of the buffers that a device or io_uring writes to: always reported, as assumed.
        calls: The kernel to ask; by default the running one.

    Returns:
        A tracker, armed: what was written before is not reported, what is written after is.

    Costs:
        With uffd-wp a page-table entry for every page, also of memory that was reserved and never touched: 2 KiB for
        each MiB, 2 GiB for a reserve of 1 TiB. Shared memory that has content takes as much once more. With
        content-hash each collect reads everything by process_vm_readv(2), which gives this process copies
        of its own of pages that it shares with a forked child.

    Raises:
        UsageError: A buffer cannot be tracked (read-only, holds references, not memory), a pinned one is not
            inside them, or there is no backend of that name.
        KernelUnsupportedError: The named backend does not work here or cannot track this memory.

    Warns:
        UnseenWritesWarning: Part of the memory can be written in ways that nobody here can see.
    """
    calls = default_calls() if calls is None else calls
    resolved: list[TrackedBuffer] = []
    try:
        resolved += (resolve(buffer) for buffer in buffers)
        named = [resolve(buffer, writable=False) for buffer in pinned]
        _check_named(named, resolved, calls.page_size)
        return GATE.run(Tracker, resolved, named, backend, calls)
    except BaseException:
        for buffer in resolved:
            buffer.release()
        raise


def _check_named(named: Sequence[TrackedBuffer], tracked: Sequence[TrackedBuffer], page_size: int) -> None:
    pages = _pages_of(tracked, page_size)
    for buffer in named:
        span = buffer.span.rounded(page_size)
        buffer.release()
        if not _is_inside(span, pages, page_size):
            raise UsageError(
                f"pinned: {buffer.label} is not part of a tracked buffer; name the buffer that it lies in"
            )


def _is_inside(span: AddrRange, pages: Runs, page_size: int) -> bool:
    run = np.array([[span.start, span.end]], np.int64) // page_size
    return not len(difference(run, pages))

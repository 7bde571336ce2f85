"""Who is owed which written pages: one ledger per backend and process, shared by every tracker.

The kernel has one bit a page and allows one userfaultfd a mapping, but there may be many trackers, each with many
consumers, over the same memory. So a harvest belongs to everybody: each consumer has an **account**, and
what the backend reports is entered into every account whose spans it meets. A collect harvests what its
own account covers and then empties that account. Each write is thus reported to each consumer exactly once,
in whatever order threads collect.

**Nothing is lost on the way.** Between the call that makes the kernel forget and the entry into the accounts, the unit
stands in ``_in_flight``. Whatever happens in between, an error of the kernel, Ctrl-C, a fault injected by a test,
leaves it there, and the next use of the ledger enters all of it as assumed written.

**Fork.** Descriptors of the parent act on the parent's memory. In a forked child every ledger is dead: its
descriptors are closed at once, nothing is unregistered, and its trackers say that they track nothing.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Final

from writewatch.errors import TrackerClosedError, TrackingLostError, TrackingLostWarning
from writewatch.pages import Runs, intersection, no_runs, union
from writewatch.tracker.backend import Backend, Harvest, RangeRefusedError
from writewatch.tracker.pageset import PageSet


class Account:
    """What one consumer has not collected yet. Guarded by the ledger's lock.

    Attributes:
        spans: Page runs that it is about.
    """

    def __init__(self, spans: Runs) -> None:
        self.spans = spans
        self.written = PageSet(spans)
        self.assumed = PageSet(spans)
        self.exact = True

    @property
    def is_empty(self) -> bool:
        """Whether nothing is owed."""
        return self.written.is_empty and self.assumed.is_empty

    def enter(self, harvest: Harvest) -> None:
        """Add what of a harvest lies in the spans."""
        written = intersection(harvest.written, self.spans)
        self.written.add(written)
        self.assumed.add(intersection(harvest.assumed, self.spans))
        if len(written) and not harvest.exact:
            self.exact = False

    def take(self) -> Harvest:
        """All that is owed; the account is empty afterwards."""
        owed = Harvest(self.written.runs(), self.assumed.runs(), self.exact)
        self.written.clear()
        self.assumed.clear()
        self.exact = True
        return owed


class Ledger:
    """A backend and the accounts that it serves. Every method may be called from any thread."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._accounts: list[Account] = []
        self._wanted = no_runs()
        self._in_flight: Runs | None = None
        self._notices: list[str] = []
        _ledgers.add(self)

    # ---- accounts --------------------------------------------------------------------------------

    def open_account(self, spans: Runs) -> Account:
        """Start to owe a consumer what is written in these page runs from now on.

        Raises:
            RangeRefusedError: The backend cannot track them; nothing has changed.
            OSError: A call failed; nothing has changed.
        """
        with self._lock:
            self._check_process()
            self._harvest(intersection(spans, self._wanted))
            self._adjust(union(self._wanted, spans))
            account = Account(spans)
            self._accounts.append(account)
            return account

    @property
    def is_idle(self) -> bool:
        """Whether nobody is owed anything any more."""
        return not self._accounts

    def close_account(self, account: Account) -> None:
        """Owe nothing any more. With the last account the backend is closed."""
        with self._lock:
            if account in self._accounts:
                self._accounts.remove(account)
            if self._is_forked():
                self.backend.abandon()
            elif not self._accounts:
                self.backend.close()
            else:
                self._adjust(functools.reduce(union, (other.spans for other in self._accounts)))

    def _adjust(self, wanted: Runs) -> None:
        if wanted.shape == self._wanted.shape and (wanted == self._wanted).all():
            return
        self._in_flight = self._wanted
        try:
            self.backend.adjust(wanted)
        except RangeRefusedError:
            self._in_flight = None
            raise
        self._in_flight = None
        self._wanted = wanted

    # ---- collecting ------------------------------------------------------------------------------

    def collect(self, account: Account) -> Harvest:
        """Harvest what an account covers and hand it all that it is owed.

        Raises:
            TrackingLostError: This is a forked child.
            TrackerClosedError: The account is closed, perhaps by another thread just now.
            OSError: A call failed. Nothing is lost: the next collect reports what this one would have.
        """
        with self._lock:
            self._check_account(account)
            self._settle()
            units = self.backend.units(account.spans)
            if len(units) == 1 and self._accounts == [account] and account.is_empty:
                return self._hand_over(units[0], account)
            self._harvest(account.spans)
            self._tell()
            return account.take()

    def _hand_over(self, unit: Runs, account: Account) -> Harvest:
        """The common case, one range and one taker: straight from the backend, past the account."""
        self._in_flight = unit
        harvest = self.backend.harvest(unit)
        if harvest.notices:
            self._enter(harvest)
            self._in_flight = None
            self._tell()
            return account.take()
        owed = Harvest(
            intersection(harvest.written, account.spans),
            intersection(harvest.assumed, account.spans),
            harvest.exact or not len(harvest.written),
        )
        self._in_flight = None
        return owed

    def has_written(self, account: Account) -> bool:
        """Whether a collect would report anything."""
        with self._lock:
            self._check_account(account)
            self._settle()
            return not account.is_empty or self.backend.has_written(account.spans)

    def give_back(self, account: Account, harvest: Harvest) -> None:
        """Owe again what was collected. For an account that is closed this does nothing that matters."""
        with self._lock:
            account.enter(harvest)

    def nbytes(self, account: Account) -> int:
        """Memory that an account holds, in bytes."""
        with self._lock:
            return account.written.nbytes + account.assumed.nbytes

    def _harvest(self, spans: Runs) -> None:
        self._settle()
        for unit in self.backend.units(spans) if len(spans) else ():
            self._in_flight = unit
            self._enter(self.backend.harvest(unit))
            self._in_flight = None

    def _settle(self) -> None:
        """Enter what an interrupted harvest left behind."""
        if self._in_flight is not None:
            self._enter(Harvest(assumed=self._in_flight, exact=False))
            self._in_flight = None

    def _enter(self, harvest: Harvest) -> None:
        for account in self._accounts:
            account.enter(harvest)
        self._notices += harvest.notices

    def _tell(self) -> None:
        """Warn. Comes before anything is taken: a warning that is made an error costs nothing."""
        notices, self._notices = self._notices, []
        for notice in notices:
            warnings.warn(notice, TrackingLostWarning, stacklevel=5)

    # ---- fork ------------------------------------------------------------------------------------

    def _is_forked(self) -> bool:
        return os.getpid() != self._pid

    def _check_process(self) -> None:
        if self._is_forked():
            raise TrackingLostError(
                f"process {os.getpid()} was forked from {self._pid}, where this tracker was made: it tracks nothing "
                "here; make a new one"
            )

    def _check_account(self, account: Account) -> None:
        self._check_process()
        if account not in self._accounts:
            raise TrackerClosedError("this consumer, or its tracker, is closed; make a new one")

    def abandon(self) -> None:
        """In a forked child: close what was inherited. The lock may be held by a thread that is not here."""
        self._lock = threading.RLock()
        self.backend.abandon()


_ledgers: Final[weakref.WeakSet[Ledger]] = weakref.WeakSet()


def _abandon_all() -> None:
    for ledger in list(_ledgers):
        ledger.abandon()
    _shelf.clear()
    _forget_lock()


# ---- one ledger per backend ----------------------------------------------------------------------

_shelf: Final[dict[tuple[int, str], Ledger]] = {}
_shelf_lock = threading.RLock()


def _forget_lock() -> None:
    global _shelf_lock  # noqa: PLW0603  # the old one may be held for ever in a forked child
    _shelf_lock = threading.RLock()


def open_account(
    key: tuple[int, str], make_backend: Callable[[], Backend], spans: Runs
) -> tuple[Ledger, Account]:
    """An account with the process's ledger for a backend, which is made when it is the first.

    Args:
        key: Identity of the ``KernelCalls``, name of the backend.
        make_backend: Called when there is no ledger yet.
        spans: Page runs of the account.
    """
    with _shelf_lock:
        ledger = _shelf.get(key)
        if ledger is None:
            ledger = Ledger(make_backend())
        try:
            account = ledger.open_account(spans)
        except BaseException:
            if key not in _shelf:
                ledger.backend.close()
            raise
        _shelf[key] = ledger
        return ledger, account


def close_account(key: tuple[int, str], ledger: Ledger, account: Account) -> None:
    """Close an account; the ledger of the last one goes with it."""
    with _shelf_lock:
        try:
            ledger.close_account(account)
        finally:
            if ledger.is_idle and _shelf.get(key) is ledger:
                del _shelf[key]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)

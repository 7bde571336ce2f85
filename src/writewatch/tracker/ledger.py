"""Who is owed which written pages: one ledger per backend and process, shared by every tracker.

The kernel has one bit a page and allows one userfaultfd a mapping, but there may be many trackers, each with many
consumers, over the same memory. So a harvest belongs to everybody: each consumer has an **account**, and
what the backend reports is entered into every account whose spans it meets. A collect harvests what its
own account covers and then empties that account. Each write is thus reported to each consumer exactly once,
in whatever order threads collect. Everything here runs inside the gate (``gate.py``), one operation at a time.

**Nothing is lost on the way.** What was taken from one place and has not arrived at the next always stands somewhere:

* From the call that makes the kernel forget until the entry into the accounts, the unit stands in ``_in_flight``.
  Whatever happens in between, an error of the kernel, Ctrl-C, a fault injected by a test, leaves it there,
  and the next operation enters all of it as assumed written.
* From an account until the last instruction of the public ``collect()``, the pages stand in ``Account.handed``, under
  the receipt of that call. Found there by the next collect, they were never received, and are entered again. A receipt
  for each call, not for each thread: a signal handler that collects and fails leaves its own pages there.

**Fork.** Descriptors of the parent act on the parent's memory. In a forked child every ledger is dead: its
descriptors are closed at once, nothing is unregistered, and its trackers say that they track nothing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Final

import numpy as np

from writewatch.errors import TrackerClosedError, TrackingLostError, TrackingLostWarning
from writewatch.pages import Runs, clip, difference, intersection, no_runs, normalise, union
from writewatch.tracker.backend import Backend, Harvest, RangeRefusedError
from writewatch.tracker.pageset import PageSet

#: Between taking pages out and the last instruction of collect() lie microseconds. A thread that was interrupted there
#: may never come back for them.
_DELIVERED_WITHIN: Final = 1_000_000_000


class Account:
    """What one consumer has not collected yet.

    Attributes:
        spans: Page runs that it is about.
        handed: By receipt, what was taken out, when (ns) and by which thread; None once it was received.
    """

    def __init__(self, spans: Runs) -> None:
        self.spans = spans
        self.bounds = spans.tolist()  # the same, quick to compare
        self.handed: dict[object, tuple[Harvest, int, int] | None] = {}
        self._written = PageSet(spans)
        self._assumed = PageSet(spans)
        self._exact = True
        self._is_blank = True
        self.unit: Runs | None = None  # found to be just the spans

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be owed: nothing was entered since it was last emptied."""
        return self._is_blank and not any(self.handed.values())

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return self._written.nbytes + self._assumed.nbytes

    def enter(self, harvest: Harvest) -> None:
        """Add what of a harvest lies in the spans."""
        written = intersection(harvest.written, self.spans)
        assumed = intersection(harvest.assumed, self.spans)
        if len(written) or len(assumed):
            self._is_blank = False
        self._written.add(written)
        self._assumed.add(assumed)
        if len(written) and not harvest.exact:
            self._exact = False

    def take(self, receipt: object = None) -> Harvest:
        """All that is owed, which then stands in ``handed``; the account is empty afterwards."""
        owed = Harvest(self._written.runs(), self._assumed.runs(), self._exact)
        handed = owed, time.monotonic_ns(), threading.get_ident()
        written, assumed = PageSet(self.spans), PageSet(self.spans)
        # Plain stores, between which no signal handler runs: the pages are in one place at every moment.
        self.handed[receipt] = handed
        self._written = written
        self._assumed = assumed
        self._exact = True
        self._is_blank = True
        return owed

    def take_back(self) -> None:
        """Enter again what a collect took out and did not deliver: of this thread, or of another a while ago."""
        long_ago = time.monotonic_ns() - _DELIVERED_WITHIN
        for receipt, handed in list(self.handed.items()):
            if handed is not None:
                harvest, when, thread = handed
                if thread != threading.get_ident() and when > long_ago:
                    continue  # it is on its way
                self.enter(harvest)
            del self.handed[receipt]


class Ledger:
    """A backend and the accounts that it serves."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._pid = os.getpid()
        self._accounts: list[Account] = []
        self._wanted = no_runs()
        self._in_flight: Runs | None = None
        self._notices: list[str | Warning] = []
        _ledgers.add(self)

    # ---- accounts --------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nobody is owed anything any more."""
        return not self._accounts

    def open_account(self, spans: Runs, account: Account | None = None) -> Account:
        """Start to owe a consumer what is written in these page runs from now on.

        Args:
            spans: Page runs.
            account: For these spans, made before, so that its owner can have it forgotten whenever this is interrupted.

        Raises:
            RangeRefusedError: The backend cannot track them; nothing has changed.
            OSError: A call failed; nothing has changed.
        """
        self._check_process()
        if self._accounts:
            self._harvest(spans)
        self._adjust(union(self._wanted, spans))
        account = Account(spans) if account is None else account
        self._accounts.append(account)
        return account

    def close_account(self, account: Account) -> None:
        """Owe nothing any more; with the last account the backend is closed. Repeated, it goes on where it stopped."""
        if account in self._accounts:
            self._accounts.remove(account)
        if self._is_forked():
            self.backend.abandon()
        elif not self._accounts:
            self._wanted = no_runs()
            self.backend.close()
        else:
            # What cannot be let go of now stays tracked, for nobody, until the backend is closed.
            with contextlib.suppress(OSError, RangeRefusedError):
                self._adjust(functools.reduce(union, (other.spans for other in self._accounts)))

    def _adjust(self, wanted: Runs) -> None:
        if np.array_equal(wanted, self._wanted):
            return
        self._settle()
        self._in_flight = self._wanted
        try:
            self.backend.adjust(wanted)
        except RangeRefusedError:
            self._in_flight = None
            raise
        self._wanted = wanted
        self._in_flight = None

    # ---- collecting ------------------------------------------------------------------------------

    def collect(self, account: Account, receipt: object = None) -> Harvest:
        """Harvest what an account covers and hand over all that it is owed.

        The caller stores None in ``account.handed[receipt]``, an object of its own, as the last thing that it does.

        Raises:
            TrackingLostError: This is a forked child.
            TrackerClosedError: The account is closed.
            OSError: A call failed. Nothing is lost: the next collect reports what this one would have.
        """
        self._check_account(account)
        if self._in_flight is not None:
            self._settle()
        if account.handed:
            account.take_back()
        units = self.backend.units(account.spans)
        if len(units) == 1 and self._accounts == [account] and account.is_empty:
            return self._hand_over(units[0], account, receipt)
        self._harvest(account.spans)
        self._tell(stacklevel=5)
        return account.take(receipt)

    def _hand_over(self, unit: Runs, account: Account, receipt: object) -> Harvest:
        """The common case, one unit and one taker: straight from the backend, past the account.

        Where the unit is not just what the account is about, through it after all.
        """
        self._in_flight = unit
        harvest = self.backend.harvest(unit)
        if unit is not account.unit and unit.tolist() == account.bounds:
            account.unit = unit
        if harvest.notices or unit is not account.unit:
            self._enter(harvest)
            if not _covers(unit, account.spans):
                account.enter(Harvest(assumed=difference(account.spans, unit), exact=False))
            self._in_flight = None
            self._tell(stacklevel=6)
            return account.take(receipt)
        handed = harvest, time.monotonic_ns(), threading.get_ident()
        account.handed[receipt] = handed
        self._in_flight = None
        return harvest

    def has_written(self, account: Account) -> bool:
        """Whether a collect would report anything."""
        self._check_account(account)
        self._settle()
        if not account.is_empty:
            return True
        units = self.backend.units(account.spans)
        covered = units[0] if len(units) == 1 else normalise(np.concatenate([no_runs(), *units]))
        return not _covers(covered, account.spans) or self.backend.has_written(account.spans)

    def _harvest(self, spans: Runs) -> None:
        """Enter what was written in some spans, and as assumed what the backend turns out not to track."""
        self._settle()
        uncovered = spans
        for unit in self.backend.units(spans) if len(spans) else ():
            self._in_flight = unit
            self._enter(self.backend.harvest(unit))
            self._in_flight = None
            uncovered = difference(uncovered, unit)
        self._enter(Harvest(assumed=intersection(uncovered, self._wanted), exact=False))

    def _settle(self) -> None:
        """Enter what an interrupted harvest left behind."""
        if self._in_flight is not None:
            self._enter(Harvest(assumed=self._in_flight, exact=False))
            self._in_flight = None

    def _enter(self, harvest: Harvest) -> None:
        for account in self._accounts:
            account.enter(harvest)
        self._notices += harvest.notices

    def _tell(self, stacklevel: int) -> None:
        """Warn, at the line that collects. Comes before anything is taken: a warning made an error costs nothing."""
        notices, self._notices = self._notices, []
        for notice in notices:
            warnings.warn(notice, TrackingLostWarning, stacklevel=stacklevel + 1)

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
        if os.getpid() != self._pid:
            self._check_process()
        if account not in self._accounts:
            raise TrackerClosedError("this consumer, or its tracker, is closed; make a new one")


def _covers(unit: Runs, spans: Runs) -> bool:
    """Whether all spans lie in a unit; quick for the usual one run in one run."""
    if len(unit) == 1 and len(spans):
        return len(clip(spans, int(unit[0, 0]), int(unit[0, 1]))) == len(spans) and bool(
            unit[0, 0] <= spans[0, 0] and spans[-1, 1] <= unit[0, 1]
        )
    return not len(difference(spans, unit))


# ---- one ledger per backend ----------------------------------------------------------------------

_shelf: Final[dict[tuple[int, str], Ledger]] = {}
_ledgers: Final[weakref.WeakSet[Ledger]] = weakref.WeakSet()


def open_account(
    key: tuple[int, str], make_backend: Callable[[], Backend], spans: Runs, account: Account | None = None
) -> tuple[Ledger, Account]:
    """An account with the process's ledger for a backend, which is made when it is the first.

    Args:
        key: Identity of the ``KernelCalls``, name of the backend.
        make_backend: Called when there is no ledger yet.
        spans: Page runs of the account.
        account: The account, when it was made before.
    """
    ledger = _shelf.get(key)
    if ledger is None:
        ledger = Ledger(make_backend())
    try:
        account = ledger.open_account(spans, account)
        _shelf[key] = ledger
    except BaseException:
        if ledger.is_idle:
            ledger.backend.close()
        raise
    return ledger, account


def close_account(key: tuple[int, str], ledger: Ledger, account: Account) -> None:
    """Close an account; the ledger of the last one goes with it, off the shelf before it is closed."""
    is_last = not ledger._accounts or ledger._accounts == [account]
    if is_last and _shelf.get(key) is ledger:
        del _shelf[key]
    ledger.close_account(account)


def forget(account: Account) -> None:
    """Close an account wherever it was opened, and ledgers that are left without any: for what was interrupted."""
    for ledger in list(_ledgers):
        if account in ledger._accounts or ledger.is_idle:
            for key in [key for key, other in _shelf.items() if other is ledger]:
                close_account(key, ledger, account)
            ledger.close_account(account)


def _abandon_all() -> None:
    """In a forked child: close what was inherited, touch nothing else."""
    for ledger in list(_ledgers):
        ledger.backend.abandon()
    _shelf.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)

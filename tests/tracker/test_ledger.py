"""Who is owed what, on a backend of sets that fails when it is told to."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest

import writewatch as ww
from writewatch.pages import Runs, difference, expand, intersection, no_runs, normalise, union
from writewatch.tracker import ledger as ledgers
from writewatch.tracker.backend import Harvest, RangeRefusedError
from writewatch.tracker.ledger import Account, Ledger


def runs(*pages: int) -> Runs:
    return normalise(np.array([[page, page + 1] for page in pages], np.int64).reshape(-1, 2))


def collect(ledger: Ledger, account: Account) -> Harvest:
    """A collect that was received."""
    owed = ledger.collect(account)
    account.handed.clear()
    return owed


class SetBackend:
    """Remembers what was written; one unit for every ten pages. The next call of a name in ``fails`` raises."""

    name = "sets"

    def __init__(self) -> None:
        self.tracked = self.written = no_runs()
        self.fails: dict[str, Exception] = {}
        self.notices: tuple[str, ...] = ()
        self.exact = True
        self.is_closed = False

    def write(self, *pages: int) -> None:
        self.written = union(self.written, intersection(runs(*pages), self.tracked))

    def adjust(self, wanted: Runs) -> None:
        self._fail("adjust before")
        self.tracked, self.written = wanted, intersection(self.written, wanted)
        self._fail("adjust after")

    def units(self, spans: Runs) -> list[Runs]:
        tens = sorted({page // 10 * 10 for page in expand(spans).tolist()})
        return [intersection(np.array([[ten, ten + 10]], np.int64), self.tracked) for ten in tens]

    def harvest(self, unit: Runs) -> Harvest:
        self._fail("harvest before")
        found = intersection(self.written, unit)
        self.written = difference(self.written, unit)
        self._fail("harvest after")  # the report is lost
        notices, self.notices = self.notices, ()
        return Harvest(found, exact=self.exact, notices=notices)

    def has_written(self, spans: Runs) -> bool:
        return bool(len(intersection(self.written, spans)))

    def abandon(self) -> None:
        self.is_closed = True

    def close(self) -> None:
        self.is_closed = True

    def _fail(self, where: str) -> None:
        if where in self.fails:
            raise self.fails.pop(where)


@pytest.fixture
def backend() -> SetBackend:
    return SetBackend()


@pytest.fixture
def ledger(backend: SetBackend) -> Ledger:
    return Ledger(backend)


def pages_of(harvest: Harvest) -> set[int]:
    return set(expand(union(harvest.written, harvest.assumed)).tolist())


WHOLE = np.array([[0, 40]], np.int64)

# ---- each write to each account, once ------------------------------------------------------------


def test_each_account_is_owed_what_lies_in_its_spans(backend: SetBackend, ledger: Ledger) -> None:
    low, high = ledger.open_account(runs(*range(12))), ledger.open_account(runs(*range(8, 30)))
    backend.write(3, 9, 20)
    assert pages_of(collect(ledger, low)) == {3, 9}
    assert pages_of(collect(ledger, high)) == {9, 20}
    assert pages_of(collect(ledger, low)) == pages_of(collect(ledger, high)) == set()


def test_a_new_account_is_not_owed_what_was_written_before_and_takes_it_from_nobody(
    backend: SetBackend, ledger: Ledger
) -> None:
    first = ledger.open_account(WHOLE)
    backend.write(5)
    second = ledger.open_account(WHOLE)
    assert pages_of(collect(ledger, second)) == set()
    assert pages_of(collect(ledger, first)) == {5}


def test_what_is_given_back_is_owed_again(backend: SetBackend, ledger: Ledger) -> None:
    account = ledger.open_account(WHOLE)
    backend.write(5)
    owed = collect(ledger, account)
    account.enter(owed)
    backend.write(6)
    assert ledger.has_written(account)
    assert pages_of(collect(ledger, account)) == {5, 6}


def test_a_coarse_report_makes_its_account_inexact_until_it_is_taken(
    backend: SetBackend, ledger: Ledger
) -> None:
    account = ledger.open_account(WHOLE)
    ledger.open_account(WHOLE)  # with one account alone nothing is entered
    backend.exact = False
    assert collect(ledger, account).exact, "nothing was reported, so nothing was reported wrongly"
    backend.write(1)
    assert not collect(ledger, account).exact
    backend.exact = True
    backend.write(1)
    assert collect(ledger, account).exact


# ---- nothing is lost on the way ------------------------------------------------------------------

FAILURES = [OSError("refused"), KeyboardInterrupt(), MemoryError()]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["harvest before", "harvest after"])
@pytest.mark.parametrize("n_accounts", [1, 2])
def test_a_harvest_that_fails_is_owed_to_everybody_afterwards(
    backend: SetBackend, ledger: Ledger, where: str, error: Exception, n_accounts: int
) -> None:
    accounts = [ledger.open_account(WHOLE) for _ in range(n_accounts)]
    backend.write(3, 25)
    backend.fails[where] = error
    with pytest.raises(type(error)):
        ledger.collect(accounts[0])
    for account in accounts:
        assert ledger.has_written(account)
        owed = collect(ledger, account)
        assert {3, 25} <= pages_of(owed)
        assert len(owed.assumed), "what nobody saw has to be called assumed"
        assert pages_of(collect(ledger, account)) == set()


def _open(ledger: Ledger, _: Account) -> None:
    ledger.open_account(runs(90, 91))


def _close(ledger: Ledger, other: Account) -> None:
    ledger.close_account(other)


@pytest.mark.parametrize("then", [_open, _close])
def test_a_failed_harvest_is_not_forgotten_when_others_come_and_go(
    backend: SetBackend, ledger: Ledger, then: Callable[[Ledger, Account], None]
) -> None:
    account, other = ledger.open_account(WHOLE), ledger.open_account(runs(70, 71))
    backend.write(3)
    backend.fails["harvest after"] = OSError("refused")
    with pytest.raises(OSError, match="refused"):
        collect(ledger, account)
    then(ledger, other)
    assert 3 in pages_of(collect(ledger, account))


@pytest.mark.parametrize("error", [OSError("refused"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["adjust before", "adjust after"])
def test_an_account_that_could_not_be_opened_costs_the_others_nothing(
    backend: SetBackend, ledger: Ledger, where: str, error: Exception
) -> None:
    account = ledger.open_account(WHOLE)
    backend.write(3)
    backend.fails[where] = error
    with pytest.raises(type(error)):
        ledger.open_account(runs(90))
    assert 3 in pages_of(collect(ledger, account))
    backend.write(4)
    assert pages_of(collect(ledger, account)) == {4}


def test_a_refused_account_disturbs_nobody(backend: SetBackend, ledger: Ledger) -> None:
    account = ledger.open_account(WHOLE)
    backend.write(3)
    backend.fails["adjust before"] = RangeRefusedError("not this memory")
    with pytest.raises(RangeRefusedError):
        ledger.open_account(runs(90))
    owed = collect(ledger, account)
    assert pages_of(owed) == {3}
    assert not len(owed.assumed)


@pytest.mark.parametrize("n_accounts", [1, 2])
def test_a_notice_that_is_made_an_error_costs_no_page(
    backend: SetBackend, ledger: Ledger, n_accounts: int
) -> None:
    accounts = [ledger.open_account(WHOLE) for _ in range(n_accounts)]
    backend.write(3)
    backend.notices = ("a range was unmapped",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ww.TrackingLostWarning, match="a range was unmapped"):
            ledger.collect(accounts[0])
    for account in accounts:
        assert pages_of(collect(ledger, account)) == {3}


# ---- end -----------------------------------------------------------------------------------------


def test_a_closed_account_says_so_and_never_that_all_is_clean(backend: SetBackend, ledger: Ledger) -> None:
    account = ledger.open_account(WHOLE)
    ledger.open_account(WHOLE)
    backend.write(3)
    ledger.close_account(account)
    ledger.close_account(account)
    with pytest.raises(ww.TrackerClosedError):
        collect(ledger, account)
    with pytest.raises(ww.TrackerClosedError):
        ledger.has_written(account)


def test_the_backend_goes_with_the_last_account(backend: SetBackend, ledger: Ledger) -> None:
    first, second = ledger.open_account(WHOLE), ledger.open_account(runs(50))
    ledger.close_account(first)
    assert (backend.is_closed, ledger.is_idle) == (False, False)
    assert backend.tracked.tolist() == [[50, 51]]
    ledger.close_account(second)
    assert (backend.is_closed, ledger.is_idle) == (True, True)


def test_one_ledger_serves_all_that_ask_with_its_key() -> None:
    made: list[SetBackend] = []

    def make() -> SetBackend:
        made.append(SetBackend())
        return made[-1]

    key = (0, "sets")
    one, first = ledgers.open_account(key, make, WHOLE)
    other, second = ledgers.open_account(key, make, WHOLE)
    assert one is other
    ledgers.close_account(key, one, first)
    ledgers.close_account(key, one, second)
    again, third = ledgers.open_account(key, make, WHOLE)
    assert again is not one
    assert [backend.is_closed for backend in made] == [True, False]
    ledgers.close_account(key, again, third)


def test_a_backend_whose_first_account_fails_is_closed() -> None:
    backend = SetBackend()
    backend.fails["adjust before"] = OSError("refused")
    with pytest.raises(OSError, match="refused"):
        ledgers.open_account((0, "sets"), lambda: backend, WHOLE)
    assert backend.is_closed

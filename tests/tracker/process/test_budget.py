"""How long an epoch has to be, for loads that are made up."""

from __future__ import annotations

import pytest

import writewatch as ww
from writewatch.tracker.process.budget import Budget


def after(*epochs: tuple[float, int], share: float | None = 0.05) -> Budget:
    budget = Budget(share, fault_ns=1000)
    for elapsed_s, n_faults in epochs:
        budget.observe(elapsed_s, n_faults, 0.0)
    return budget


def test_before_anything_is_known_it_is_what_was_wanted() -> None:
    assert Budget().period_s(0.25) == 0.25
    assert Budget().cost_share == 0


def test_a_quiet_program_is_looked_at_as_often_as_was_wanted() -> None:
    assert after((1, 100)).period_s(1) == 1


def test_the_period_keeps_the_share() -> None:
    # 100,000 faults of 1 µs are 0.1 s; at 5 % they may come every two seconds.
    assert after((1, 100_000)).period_s(1) == pytest.approx(2)


def test_the_walk_is_part_of_the_cost() -> None:
    budget = Budget(0.05, fault_ns=1000)
    budget.observe(1, 0, 0.01)
    assert budget.period_s(0.1) == pytest.approx(0.2)


def test_a_burst_counts_at_once_and_one_quiet_epoch_does_not_undo_it() -> None:
    quiet = [(1.0, 100)] * 20
    assert after(*quiet).period_s(1) == 1
    assert after(*quiet, (1, 1_000_000)).period_s(1) == pytest.approx(20)
    assert 1 < after(*quiet, (1, 1_000_000), (1, 100)).period_s(1) < 20


def test_it_comes_back_to_what_was_wanted_when_the_load_is_over() -> None:
    assert after((1, 1_000_000), *[(1.0, 0)] * 30).period_s(1) == 1


def test_a_program_that_rewrites_the_same_memory_settles_at_its_share() -> None:
    """However long the epoch, the same 200,000 pages are written in it."""
    budget = Budget(0.05, fault_ns=1000)
    period = 0.1
    for _ in range(20):
        budget.observe(period, 200_000, 0.001)
        period = budget.period_s(0.1)
    assert period == pytest.approx(4.02)
    assert budget.latest is not None
    assert budget.latest.share == pytest.approx(0.05)


def test_ever_longer_epochs_have_an_end() -> None:
    """A program that writes new pages at a constant rate for ever is not helped by a longer epoch."""
    budget = Budget(0.05, fault_ns=1000)
    period = 1.0
    for _ in range(100):
        budget.observe(period, int(100_000 * period), 0.0)
        period = budget.period_s(1)
    assert period == 300


def test_without_a_limit_the_wanted_period_is_kept_and_the_cost_still_told() -> None:
    budget = after((1, 500_000), share=None)
    assert budget.period_s(0.1) == 0.1
    assert budget.cost_share == pytest.approx(0.5)


def test_where_mappings_run_out_everything_is_longer() -> None:
    budget = after((1, 100))
    budget.stretch = 4
    assert budget.period_s(1) == 4


def test_the_share_is_a_mean_over_some_epochs() -> None:
    assert after((1, 100_000), (1, 0)).cost_share == pytest.approx(0.07)


@pytest.mark.parametrize("share", [0, -0.1, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ww.UsageError, match="share of one core"):
        Budget(share)


@pytest.mark.parametrize("wanted", [0, -1, float("inf"), float("nan")])
def test_an_interval_that_is_none_is_refused(wanted: float) -> None:
    with pytest.raises(ww.UsageError, match="give a number above 0"):
        Budget().period_s(wanted)


def test_it_says_what_it_is() -> None:
    assert repr(after((1, 100_000))) == "<Budget 5.0% of one core, now about 10.0%>"
    assert repr(Budget(None)) == "<Budget none of one core, now about 0.0%>"


def test_a_look_that_is_due_is_put_off_until_the_faults_so_far_are_paid_for() -> None:
    # Nothing is known yet: 100,000 faults of 1 µs in the first second are paid for after two.
    assert Budget(0.05, fault_ns=1000).put_off_s(1.0, 100_000) == pytest.approx(1)
    assert Budget(0.05, fault_ns=1000).put_off_s(2.5, 100_000) == 0
    assert after((1, 100)).put_off_s(1.0, 1_000_000) == pytest.approx(19)


def test_nothing_is_put_off_without_a_limit_or_for_ever() -> None:
    assert after((1, 100), share=None).put_off_s(1.0, 10**9) == 0
    assert after((1, 100)).put_off_s(1.0, 10**9) == pytest.approx(299)

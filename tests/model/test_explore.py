"""``explore``: get+protect loses no write in any interleaving; two calls do, and the explorer finds how."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.model.programs import Saving, forgotten, served
from writewatch.model import Scenario, explore, replay, run_at_random

N_PAGES = 4  # of every program, which all have three tasks


def together() -> Scenario:
    saving = Saving(N_PAGES)
    return saving.scenario(
        one=saving.writer([0, 1], 7), two=saving.writer([1, 3], 9), collector=saving.collector()
    )


def two_collectors() -> Scenario:
    saving = Saving(N_PAGES)
    return saving.scenario(
        writer=saving.writer([0, 3], 7), one=saving.collector(), other=saving.collector(name="the other")
    )


def with_dontneed() -> Scenario:
    saving = Saving(N_PAGES)
    return saving.scenario(
        writer=saving.writer([0, 2], 7), dropper=saving.dropper(0), collector=saving.collector()
    )


def with_fork() -> Scenario:
    saving = Saving(N_PAGES)
    return saving.scenario(
        writer=saving.writer([0, 3], 7), forker=saving.forker(), collector=saving.collector()
    )


def apart() -> Scenario:
    saving = Saving(N_PAGES)
    return saving.scenario(
        one=saving.writer([0, 1], 7), two=saving.writer([3], 9), collector=saving.split_collector()
    )


def together_and_apart() -> Scenario:
    saving = Saving(N_PAGES)
    return saving.scenario(
        writer=saving.writer([0, 3], 7), collector=saving.collector(), second=saving.split_collector()
    )


def handled() -> Scenario:
    return served(N_PAGES, n_writers=2)


SAFE = (together, two_collectors, with_dontneed, with_fork, handled)


@pytest.mark.parametrize("program", SAFE)
def test_get_and_protect_in_one_walk_loses_no_write(program: Callable[[], Scenario]) -> None:
    assert len(program().tasks) == 3
    found = explore(program)
    assert not found.failures
    assert found.ends


@pytest.mark.parametrize("program", [apart, together_and_apart])
def test_get_and_protect_in_two_calls_loses_a_write(program: Callable[[], Scenario]) -> None:
    assert len(program().tasks) == 3
    assert [failure.reason for failure in explore(program).failures] == ["a write was lost"]


def test_a_failure_is_replayed_by_its_schedule() -> None:
    failure = explore(apart, first_failure=True).failures[0]
    assert replay(apart, failure.schedule).problem() == failure.reason


def test_a_writer_without_a_handler_is_a_deadlock() -> None:
    found = explore(lambda: forgotten(1))
    assert [failure.reason for failure in found.failures] == ["deadlock: writer 0 sleep for ever"]


def test_merging_equal_states_finds_the_same_as_running_every_schedule() -> None:
    def small() -> Scenario:
        saving = Saving(2)
        return saving.scenario(writer=saving.writer([0], 7), collector=saving.split_collector())

    merged, every = explore(small), explore(small, merge=False)
    assert {f.reason for f in merged.failures} == {f.reason for f in every.failures}
    assert merged.states < every.states


def test_a_seed_decides_the_schedule() -> None:
    first, second = (run_at_random(apart, 5)[0].schedule for _ in range(2))
    assert first == second
    assert len({tuple(run_at_random(apart, seed)[0].schedule) for seed in range(10)}) > 1


def test_too_many_states_are_refused() -> None:
    with pytest.raises(RuntimeError, match="more than 10 states"):
        explore(together, max_states=10)

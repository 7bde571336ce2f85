"""``explore``: get+protect loses no write in any interleaving; two calls do, and the explorer finds how."""

from __future__ import annotations

import pytest

from tests.model.programs import Saving, forgotten, served
from writewatch.model.explore import Scenario, explore, replay, run_at_random


def together() -> Scenario:
    saving = Saving(4)
    return saving.scenario(
        one=saving.writer([0, 1], 7), two=saving.writer([1], 9), collector=saving.collector()
    )


def apart() -> Scenario:
    saving = Saving(4)
    return saving.scenario(one=saving.writer([0, 1], 7), collector=saving.split_collector())


def with_dontneed() -> Scenario:
    saving = Saving(3)
    return saving.scenario(
        writer=saving.writer([0], 7), dropper=saving.dropper(0), collector=saving.collector()
    )


def with_fork() -> Scenario:
    saving = Saving(2)
    return saving.scenario(writer=saving.writer([0], 7), forker=saving.forker(), collector=saving.collector())


@pytest.mark.parametrize("program", [together, with_dontneed, with_fork])
def test_get_and_protect_in_one_walk_loses_no_write(program: object) -> None:
    found = explore(program)  # type: ignore[arg-type]
    assert not found.failures
    assert found.ends


def test_get_and_protect_in_two_calls_loses_a_write() -> None:
    found = explore(apart)
    assert [failure.reason for failure in found.failures] == ["a write was lost"]


def test_a_failure_is_replayed_by_its_schedule() -> None:
    failure = explore(apart, first_failure=True).failures[0]
    assert replay(apart, failure.schedule).problem() == failure.reason


def test_a_handler_serves_every_fault_in_every_interleaving() -> None:
    assert not explore(lambda: served(2)).failures


def test_a_writer_without_a_handler_is_a_deadlock() -> None:
    found = explore(lambda: forgotten(1))
    assert [failure.reason for failure in found.failures] == ["deadlock: writer sleep for ever"]


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

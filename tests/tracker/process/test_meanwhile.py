"""Mappings that come, or lose their registration, also while it is looked, between any two steps of a round."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import writewatch as ww
from tests.tracker.process.failing import FailingCalls
from tests.tracker.process.targets import PAGE, Target, pages_in, reported
from writewatch.pages import Runs
from writewatch.tracker.process.layout import Layout
from writewatch.tracker.process.records import Options
from writewatch.tracker.process.registration import Registered, Registration
from writewatch.tracker.process.select import take_by_ptrace

pytestmark = pytest.mark.kernel("uffd_wp_async")

SIZES = pytest.mark.parametrize("n", [64, 2048], ids=["small", "large"])


def before_registering(monkeypatch: pytest.MonkeyPatch, does: Callable[[], None]) -> None:
    """Once, between reading the mappings and registering them."""
    renew = Registration.renew

    def then_renew(self: Registration, layout: Layout, only: Runs | None = None) -> Registered:
        monkeypatch.setattr(Registration, "renew", renew)
        does()
        return renew(self, layout, only)

    monkeypatch.setattr(Registration, "renew", then_renew)


@SIZES
def test_what_was_mapped_and_written_meanwhile_is_told_with_the_next_round(
    target: Target, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    start = 0

    def map_and_write() -> None:
        nonlocal start
        start = target.memory(n)
        target.run(f"poke({start}, *range(5, {n}))")

    with ww.attach(target.pid) as tracker:
        before_registering(monkeypatch, map_and_write)
        first, second = tracker.collect(), tracker.collect()
        told = reported(first, start, n) + reported(second, start, n)
        assert sorted(told) == list(range(5, n))
        target.run(f"poke({start}, 7); ok(libc.madvise({start} + 8 * P, 8 * P, 4))")
        third = tracker.collect()
        assert pages_in(third.written, start, n) == [7]
        assert pages_in(third.discarded, start, n) == list(range(8, 16))
        assert reported(tracker.collect(), start, n) == []


@SIZES
def test_what_moved_away_meanwhile_is_told_where_it_is_now(
    target: Target, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    start = target.memory(n)
    target.run(f"poke({start}, *range({n}))")
    away = 0

    def move() -> None:
        nonlocal away
        hole = target.memory(n)
        target.run(f"ok(libc.munmap({hole}, {n} * P))")
        away = target.run(f"answer = ok(libc.mremap({start}, {n} * P, {n} * P, 3, {hole}))")

    with ww.attach(target.pid) as tracker:
        tracker.collect()
        before_registering(monkeypatch, move)
        told = reported(tracker.collect(), away, n) + reported(tracker.collect(), away, n)
        assert sorted(set(told)) == list(range(n))


@SIZES
def test_it_is_told_though_the_next_round_is_cut_short(
    target: Target, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    calls, start = FailingCalls(), 0

    def map_and_write() -> None:
        nonlocal start
        start = target.memory(n)
        target.run(f"poke({start}, *range({n}))")

    options = Options("uffd-wp", False, False, None, take_by_ptrace, calls)
    with ww.ProcessTracker(target.pid, options) as tracker:
        calls.arm(0, KeyboardInterrupt())
        tracker.collect()
        for at in range(1, calls.n_calls + 1, 2):
            before_registering(monkeypatch, map_and_write)
            told = reported(tracker.collect(), start, n)
            calls.arm(at, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                tracker.collect()
            calls.disarm()
            told += reported(tracker.collect(), start, n)
            assert sorted(told) == list(range(n)), at


def halves(target: Target, n: int) -> tuple[int, int, int]:
    """A mapping whose second half can go away and come back: start, where that is, and where it may go."""
    start, away = target.memory(n), target.memory(n)
    target.run(f"poke({start}, *range({n}))")
    return start, start + n // 2 * PAGE, away


def move(target: Target, n: int, start: int, end: int) -> None:
    """Half of a mapping. Where it becomes one with its other half, Linux drops the registration of both."""
    target.run(f"ok(libc.mremap({start}, {n // 2} * P, {n // 2} * P, 3, {end}))")


@SIZES
def test_stores_to_a_mapping_that_another_came_to_are_reported(target: Target, n: int) -> None:
    start, middle, away = halves(target, n)
    with ww.attach(target.pid) as tracker:
        move(target, n, middle, away)
        tracker.collect()
        move(target, n, away, middle)
        target.run(f"poke({start}, 1, 2, 3)")
        assert set(reported(tracker.collect(), start, n)) >= {1, 2, 3, *range(n // 2, n)}
        tracker.collect()
        for pages in ([2, 5], [2, n - 1]):
            target.run(f"poke({start}, *{pages})")
            assert pages_in(tracker.collect().written, start, n) == pages


@SIZES
def test_so_they_are_whenever_it_came(target: Target, n: int) -> None:
    start, middle, away = halves(target, n)
    calls = FailingCalls()
    with ww.ProcessTracker(
        target.pid, Options("uffd-wp", False, False, None, take_by_ptrace, calls)
    ) as tracker:
        for value, at in enumerate(range(1, 200), 2):
            move(target, n, middle, away)
            tracker.collect()
            tracker.collect()

            def come_back(value: int = value) -> None:
                move(target, n, away, middle)
                target.run(f"poke({start}, 1, 2, 3, value={value})")

            calls.before(at, come_back)
            told = set(reported(tracker.collect(), start, n))
            if is_over := calls.is_waiting():
                come_back()
            told |= set(reported(tracker.collect(), start, n))
            assert told >= {1, 2, 3, *range(n // 2, n)}, at
            target.run(f"poke({start}, 2, 5)")
            assert pages_in(tracker.collect().written, start, n) == [2, 5], at
            if is_over:
                break
        else:
            pytest.fail("a round has no end")

"""A state machine that does to tracked memory what programs do, against a full comparison of its own.

The truth is kept as sets of page numbers: what differs from the last time a consumer looked. It is worked out from
content alone and owes nothing to the kernel's bits.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import writewatch as ww
from tests.soak import EXACT, MissedError, Soak
from tests.tracker.door import PLACES, Memory, calls_of, require
from writewatch.abi.calls import KernelCalls

N_PAGES = 12
pages = st.integers(0, N_PAGES - 1)
names = st.sampled_from(["main", "left", "right"])


class TrackedMemory(RuleBasedStateMachine):
    """One mapping, a tracker over all of it, one over a part, and named consumers."""

    calls: KernelCalls
    backend: str

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(self.calls, N_PAGES)
        self.tracker = self._track(0, N_PAGES)
        self.part: ww.Tracker | None = None
        self.seen = {"main": self.memory.content()}  # what each consumer saw last
        self.stored: dict[str, set[int]] = {"main": set()}  # pages stored to since, changed or not
        self.consumers: dict[str, Any] = {"main": self.tracker}

    def _track(self, first: int, last: int) -> ww.Tracker:
        return ww.track(self.memory.part(first, last), backend=self.backend, calls=self.calls)

    def _touched(self, *found: int) -> None:
        for stored in self.stored.values():
            stored.update(found)

    @rule(page=pages, offset=st.integers(8, 200))
    def write(self, page: int, offset: int) -> None:
        self.memory.write(page, offset)
        self._touched(page)

    @rule(page=pages)
    def store_the_same_value(self, page: int) -> None:
        address = self.memory.start + page * self.memory.page_size + 3
        self.calls.store(address, self.calls.load(address, 1))
        self._touched(page)

    @rule(page=pages)
    def write_by_a_system_call(self, page: int) -> None:
        self.memory.kernel_write(page)
        self._touched(page)

    @rule(first=pages, n=st.integers(1, 4))
    def drop(self, first: int, n: int) -> None:
        last = min(first + n, N_PAGES)
        self.memory.drop(first, last)
        self._touched(*range(first, last))

    @rule(page=pages)
    def read(self, page: int) -> None:
        self.calls.load(self.memory.start + page * self.memory.page_size, 1)

    @rule(name=names)
    def begin_to_consume(self, name: str) -> None:
        if name not in self.consumers:
            self.consumers[name] = self.tracker.consumer(name)
            self.seen[name] = self.memory.content()
            self.stored[name] = set()

    @rule(name=names, fails=st.booleans())
    def collect(self, name: str, fails: bool) -> None:
        if name not in self.consumers:
            return
        dirty = self.consumers[name].collect()
        reported = self.memory.pages(dirty)
        now = self.memory.content()
        changed = {page for page in range(N_PAGES) if now[page] != self.seen[name][page]}
        assert changed <= reported, "a changed page was missed"
        if self.backend in EXACT:
            assert self.memory.sure(dirty) <= self.stored[name], "a page was reported that nobody wrote"
        if fails:
            dirty.give_back()
        else:
            self.seen[name], self.stored[name] = now, set()

    @rule()
    def is_clean(self) -> None:
        if self.tracker.is_clean():
            assert self.memory.content() == self.seen["main"], "called clean, but it changed"

    @rule(first=st.integers(0, 5), n=st.integers(1, 7))
    @precondition(lambda self: self.part is None)
    def track_a_part_too(self, first: int, n: int) -> None:
        self.part = self._track(first, first + n)

    @rule()
    @precondition(lambda self: self.part is not None)
    def stop_tracking_the_part(self) -> None:
        assert self.part is not None
        self.part.collect()
        self.part.close()
        self.part = None

    @invariant()
    def what_is_pending_is_small(self) -> None:
        assert self.tracker.statistics().pending_bytes <= 3 * 16 * N_PAGES

    def teardown(self) -> None:
        if self.part is not None:
            self.part.close()
        self.tracker.close()
        self.memory.close()


@pytest.mark.parametrize(("kernel", "backend"), PLACES, ids=["-".join(place) for place in PLACES])
def test_no_changed_page_is_missed_whatever_a_program_does(kernel: str, backend: str) -> None:
    calls = calls_of(kernel)
    require(calls, backend)
    machine = type("Machine", (TrackedMemory,), {"calls": calls, "backend": backend})
    few = backend == "uffd-wp-sync"  # each example starts a helper process
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12 if few else 40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.parametrize("backend", [name for kernel, name in PLACES if kernel == "linux"])
def test_threads_system_calls_and_huge_pages_lose_nothing(backend: str) -> None:
    require(calls_of("linux"), backend)
    soak = Soak(backend, seed=1, megabytes=4)
    soak.run(lambda run: run.n_rounds >= 2 and run.n_collects > 0)
    assert soak.n_writes
    assert soak.n_collects


def test_the_soak_notices_a_missed_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: ww.DirtySet, buffer: object) -> Any:
        return reported(self, buffer)[1:]

    reported = ww.DirtySet.pages
    monkeypatch.setattr(ww.DirtySet, "pages", forgetful)
    with pytest.raises(MissedError, match="missed"):
        Soak("every-page", seed=1, megabytes=4).run(lambda run: run.n_rounds >= 3)

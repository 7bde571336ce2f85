"""A Hypothesis machine over the same operations: it finds its own way, and shrinks what it finds."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, reject, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.conformance import machine
from tests.conformance.actions import ALL, GET_AND_PROTECT, A, G, P, W
from tests.differential.arena import ARENA_PAGES, HUGE_START, PER_HUGE, Operation
from tests.differential.driver import Pair, compare, shrink
from tests.differential.script import RW
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf

pages = st.integers(0, 31)
lengths = st.integers(1, 12)
huge_pages = st.sampled_from([HUGE_START, HUGE_START + 7, HUGE_START + PER_HUGE - 1])
huge_lengths = st.sampled_from([1, 100, PER_HUGE, 2 * PER_HUGE])
contexts = st.sampled_from(["async", "sync"])
places = st.one_of(st.tuples(pages, lengths), st.tuples(huge_pages, huge_lengths))
categories = st.sampled_from([0, W, P, A, W | P, A | W, ALL, G, ALL | G])


class KernelAndModel(RuleBasedStateMachine):
    """Every rule is one operation on both sides; then both are looked at."""

    pair: Pair

    @initialize(shared=st.booleans())
    def open(self, shared: bool) -> None:
        self.script: list[Operation] = []
        self.linux, self.model = self.pair.linux(), self.pair.model()
        flags = mman.MAP_SHARED if shared else mman.MAP_PRIVATE
        self.do(("map", 0, 32, RW, flags, "", 0))
        self.do(("map", HUGE_START, 2 * PER_HUGE, RW, mman.MAP_PRIVATE, "", 0))
        if "thp" in self.pair.options:
            self.do(("madvise", HUGE_START, 2 * PER_HUGE, mman.MADV_HUGEPAGE))
        self.do(("context", "async", uf.UFFD_FEATURE_WP_ASYNC | uf.UFFD_FEATURE_SIGBUS))
        self.do(("context", "sync", uf.UFFD_FEATURE_SIGBUS))

    def do(self, *operations: Operation) -> None:
        """Perform on both sides, look, and compare; what differs is shrunk as a script."""
        script = [*operations, ("see", 0, ARENA_PAGES), ("entries", 0, 48), ("vmas",)]
        self.script += script
        if self.linux.run(script) != self.model.run(script):
            divergence = compare(self.pair.linux, self.pair.model, self.script)
            assert divergence is None, shrink(self.pair.linux, self.pair.model, divergence)
            if machine.hold_still():
                reject()  # khugepaged is awake, which only root can stop, and disturbs: see masks.py
            raise AssertionError(f"differs now and then: {self.script}")

    @rule(place=places, prot=st.sampled_from([RW, mman.PROT_READ]), shared=st.booleans())
    def map(self, place: tuple[int, int], prot: int, shared: bool) -> None:
        flags = mman.MAP_SHARED if shared else mman.MAP_PRIVATE
        self.do(("map", *place, prot, flags, "", 0))

    @rule(place=places)
    def unmap(self, place: tuple[int, int]) -> None:
        self.do(("unmap", *place))

    @rule(place=places, prot=st.sampled_from([RW, mman.PROT_READ, mman.PROT_NONE]))
    def mprotect(self, place: tuple[int, int], prot: int) -> None:
        self.do(("mprotect", *place, prot))

    @rule(
        place=places,
        advice=st.sampled_from(
            [
                mman.MADV_DONTNEED,
                mman.MADV_FREE,
                mman.MADV_POPULATE_READ,
                mman.MADV_POPULATE_WRITE,
                mman.MADV_GUARD_INSTALL,
                mman.MADV_GUARD_REMOVE,
                mman.MADV_COLLAPSE,
            ]
        ),
    )
    def madvise(self, place: tuple[int, int], advice: int) -> None:
        self.do(("madvise", *place, advice))

    @rule(page=pages, n=lengths, to=pages)
    def mremap(self, page: int, n: int, to: int) -> None:
        self.do(("mremap", page, n, n, mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED, to))

    @rule(place=places, value=st.integers(1, 255), kernel=st.booleans())
    def store(self, place: tuple[int, int], value: int, kernel: bool) -> None:
        self.do(("kernel_store" if kernel else "store", place[0], value))

    @rule(place=places, kernel=st.booleans())
    def load(self, place: tuple[int, int], kernel: bool) -> None:
        self.do(("kernel_load" if kernel else "load", place[0]))

    @rule(name=contexts, place=places, mode=st.sampled_from([1, 2, 2, 2, 3]))
    def register(self, name: str, place: tuple[int, int], mode: int) -> None:
        self.do(("register", name, *place, mode))

    @rule(name=contexts, place=places)
    def unregister(self, name: str, place: tuple[int, int]) -> None:
        self.do(("unregister", name, *place))

    @rule(name=contexts, place=places, mode=st.sampled_from([1, 1, 0]))
    def writeprotect(self, name: str, place: tuple[int, int], mode: int) -> None:
        self.do(("writeprotect", name, *place, mode))

    @rule(name=contexts, page=pages, n=lengths, source=pages, mode=st.sampled_from([0, 2]))
    def copy(self, name: str, page: int, n: int, source: int, mode: int) -> None:
        self.do(("copy", name, page, n, source, mode))

    @rule(
        place=places,
        flags=st.integers(0, 3),
        mask=categories,
        anyof=categories,
        inverted=categories,
        returns=categories,
        vec=st.sampled_from([0, 1, 2, 64]),
        max_pages=st.sampled_from([0, 0, 1, 3, 512]),
    )
    def scan(
        self,
        place: tuple[int, int],
        flags: int,
        mask: int,
        anyof: int,
        inverted: int,
        returns: int,
        vec: int,
        max_pages: int,
    ) -> None:
        self.do(("scan", *place, flags, mask, anyof, inverted, returns, vec, max_pages))

    @rule(place=places, max_pages=st.sampled_from([0, 1, 3, 512]))
    def collect(self, place: tuple[int, int], max_pages: int) -> None:
        self.do(("scan", *place, GET_AND_PROTECT, W, 0, 0, W, 64, max_pages))

    def teardown(self) -> None:
        if hasattr(self, "linux"):
            self.linux.close()
            self.model.close()


@pytest.mark.kernel
def test_kernel_and_model_answer_alike_whatever_is_done(pair: Pair) -> None:
    class Machine(KernelAndModel):
        pass

    Machine.pair = pair
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            database=None,
            phases=(Phase.explicit, Phase.generate),  # the script is shrunk by shrink(), which is faster
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )

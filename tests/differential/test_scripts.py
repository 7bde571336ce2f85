"""A fixed slice of the long run: the same random scripts on the running kernel and on the model."""

from __future__ import annotations

import pytest

from tests.conformance import machine
from tests.conformance.world import WorldLost
from tests.differential.arena import HUGETLB_START, Operation
from tests.differential.driver import Pair, compare, compare_twice, observed, shrink
from tests.differential.script import RW, Script, options_of
from tests.differential.sides import Side
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf

SCRIPTS_PER_CASE = 8
OPERATIONS = 120


@pytest.mark.parametrize("case", range(8))
def test_kernel_and_model_answer_alike(pair: Pair, case: int) -> None:
    for seed in range(case * SCRIPTS_PER_CASE, (case + 1) * SCRIPTS_PER_CASE):
        script = observed(Script(seed, options_of(seed, pair.options)).operations(OPERATIONS))
        divergence, _ = compare_twice(pair.linux, pair.model, script)
        if divergence is not None:
            pytest.fail(f"seed {seed}\n{shrink(pair.linux, pair.model, divergence)}")


def test_khugepaged_sleeps_while_sides_are_compared(pair: Pair) -> None:
    if reason := machine.hold_still():
        pytest.skip(f"needs khugepaged asleep, which only root can arrange: {reason}")
    if not machine.KHUGEPAGED.exists():
        pytest.skip("needs khugepaged, which this kernel was built without")
    assert int(machine.KHUGEPAGED.read_text(encoding="ascii")) == 0xFFFF_FFFF


@pytest.mark.parametrize("side", ["linux", "model"])
def test_a_process_that_ends_leaves_its_descendants(pair: Pair, side: str) -> None:
    opened = getattr(pair, side)()
    script: list[Operation] = [
        ("map", 0, 1, RW, mman.MAP_PRIVATE, "", 0),
        ("store", 0, 7),
        ("fork",),
        ("switch", 1),
        ("fork",),
        ("exit", 1),
        ("switch", 2),
        ("load", 0),
    ]
    try:
        outcomes = opened.run(script)
    finally:
        opened.close()
    assert outcomes[-3:] == [("ok", 1), ("ok", 2), ("ok", 7)]


def test_what_never_returns_is_masked_in_a_thread_too(pair: Pair) -> None:
    script: list[Operation] = [
        ("map", 0, 2, RW, mman.MAP_SHARED, "", 0),
        ("store", 0, 7),
        ("context", "u0", uf.UFFD_FEATURE_WP_ASYNC),
        ("register", "u0", 0, 2, uf.UFFDIO_REGISTER_MODE_WP),
        ("writeprotect", "u0", 0, 2, 1),
        ("spawn", ("madvise", 0, 2, mman.MADV_GUARD_INSTALL)),
    ]
    assert compare(pair.linux, pair.model, script) is None


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_a_store_that_faults_for_ever_is_masked(pair: Pair, in_a_thread: bool) -> None:
    if "hugetlb" not in pair.options:
        pytest.skip("needs huge pages of hugetlbfs, which only root can configure")
    store: Operation = ("store", HUGETLB_START, 7)
    script: list[Operation] = [
        ("map", HUGETLB_START, 512, RW, mman.MAP_SHARED | mman.MAP_HUGETLB, "", 0),
        ("context", "u0", uf.UFFD_FEATURE_WP_ASYNC),
        ("register", "u0", HUGETLB_START, 512, uf.UFFDIO_REGISTER_MODE_WP),
        ("writeprotect", "u0", HUGETLB_START, 512, 1),
        ("register", "u0", HUGETLB_START, 512, uf.UFFDIO_REGISTER_MODE_MISSING),
        ("spawn", store) if in_a_thread else store,
    ]
    assert compare(pair.linux, pair.model, script) is None


def test_a_script_depends_on_its_seed_alone() -> None:
    options = options_of(1, frozenset({"thp"}))
    assert Script(5, options).operations(300) == Script(5, options).operations(300)
    assert Script(5, options).operations(300) != Script(6, options).operations(300)


class _Echo(Side):
    """A side whose answers are the operations, but for one name that it gets wrong."""

    def __init__(self, wrong: str = "") -> None:
        self._wrong = wrong

    def run(self, operations):  # type: ignore[no-untyped-def]
        return [("wrong",) if operation[0] == self._wrong else operation for operation in operations]

    def close(self) -> None:
        pass


def test_equal_sides_do_not_diverge() -> None:
    assert compare(_Echo, _Echo, observed(Script(1, frozenset()).operations(100))) is None


class _Lost(_Echo):
    """A side whose process is lost when it runs for the first time."""

    runs = 0

    def run(self, operations):  # type: ignore[no-untyped-def]
        type(self).runs += 1
        if type(self).runs == 1:
            raise WorldLost("late")
        return super().run(operations)  # type: ignore[no-untyped-call]


def test_a_process_that_was_lost_once_is_a_disturbance() -> None:
    class Lost(_Lost):
        pass

    script = observed(Script(1, frozenset()).operations(20))
    assert compare_twice(Lost, _Echo, script) == (None, True)


def test_a_divergence_is_found_and_shrunk_to_the_operation_that_makes_it() -> None:
    script = observed(Script(3, frozenset()).operations(200))
    divergence = compare(_Echo, lambda: _Echo("mremap"), script)
    assert divergence is not None
    smallest = shrink(_Echo, lambda: _Echo("mremap"), divergence)
    assert [operation[0] for operation in smallest.operations] == ["mremap"]
    assert smallest.got == ("wrong",)

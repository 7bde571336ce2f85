"""Which backend serves, and what is said of the others."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import writewatch as ww
from writewatch.abi.calls import KernelCalls
from writewatch.kernel import default
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.default import HIDE_VARIABLE, default_calls
from writewatch.kernel.hiding import hide
from writewatch.tracker.select import BACKENDS, known, ranking

NEEDED = sorted({need for _, needs in BACKENDS.values() for need in needs})


def machine(*working: str) -> ww.Capabilities:
    """A machine where these capabilities work."""
    items = tuple(
        ww.Capability(name, True, "seen")
        if name in working
        else ww.Capability(name, False, "not seen", "kernel", "use another kernel")
        for name in NEEDED
    )
    return ww.Capabilities("Linux 6.99", 4096, 2 << 20, 0, 0, items)


def without(*names: str) -> Any:
    return hide(default_calls(), frozenset(names))


@pytest.fixture
def table(page_size: int) -> Any:
    return ww.allocate((10, page_size), "u1")


# ---- ranking -------------------------------------------------------------------------------------


def test_the_order_of_preference_is_fixed() -> None:
    order = ["uffd-wp", "soft-dirty", "content-hash", "uffd-wp-sync", "every-page"]
    for n in range(len(NEEDED) + 1):
        for working in itertools.combinations(NEEDED, n):
            assert [choice.name for choice in ranking(machine(*working))] == order


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_works_when_what_it_needs_does(name: str) -> None:
    needs = BACKENDS[name][1]
    for working in ([], NEEDED):
        choice = next(one for one in ranking(machine(*working)) if one.name == name)
        assert choice.works == (not needs or bool(working))
        if choice.works:
            assert choice.why
        else:
            assert choice.why == "not seen; use another kernel"


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_does_not_work_when_one_thing_is_lacking(name: str) -> None:
    needs = BACKENDS[name][1]
    for lacking in needs:
        working = [one for one in NEEDED if one != lacking]
        choice = next(one for one in ranking(machine(*working)) if one.name == name)
        assert not choice.works


@pytest.mark.kernel("uffd_wp_sync")
def test_faults_are_not_answered_by_a_helper_that_may_not_answer_those_of_the_kernel(table: Any) -> None:
    calls = without("kernel_faults")
    choice = next(one for one in ranking(known(calls)) if one.name == "uffd-wp-sync")
    assert not choice.works
    assert choice.why.startswith(known(calls)["kernel_faults"].detail)
    with pytest.raises(ww.KernelUnsupportedError) as caught:
        ww.track(table, backend="uffd-wp-sync", calls=calls)
    assert caught.value.missing == ("kernel_faults",)


def test_a_backend_that_needs_nothing_is_always_there() -> None:
    assert [choice.name for choice in ranking(machine()) if choice.works] == ["content-hash", "every-page"]


# ---- choosing ------------------------------------------------------------------------------------


def test_auto_takes_the_first_that_works_and_says_why_not_the_better_ones(table: Any) -> None:
    choices = ranking(ww.capabilities())
    best = next(choice for choice in choices if choice.works)
    with ww.track(table) as tracker:
        assert tracker.backend == best.name
        better = choices[: choices.index(best)]
        assert tracker.reason == "; ".join(f"{one.name}: {one.why}" for one in [*better, best])


@pytest.mark.parametrize(
    "hidden", ["wp_async", "pagemap_scan", "pagemap", "userfaultfd", "user_mode_only,kernel_faults"]
)
def test_a_kernel_that_looks_older_gets_a_backend_that_works_there(table: Any, hidden: str) -> None:
    with ww.track(table, calls=without(*hidden.split(","))) as tracker:
        assert tracker.backend != "uffd-wp"
        assert tracker.reason.startswith("uffd-wp: ")
        assert f"{tracker.backend}: " in tracker.reason
        table[7] = 1
        assert 7 in tracker.collect().pages(table)


def test_the_switch_hides_features_from_a_program_as_it_is(
    table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HIDE_VARIABLE, "wp_async, pagemap")
    with ww.track(table) as tracker:
        assert tracker.backend == "content-hash"
        assert "unset WRITEWATCH_HIDE" in tracker.reason
    monkeypatch.delenv(HIDE_VARIABLE)
    with ww.track(table) as tracker:
        assert "WRITEWATCH_HIDE" not in tracker.reason


def test_a_backend_may_be_asked_for_by_name(backend: str, table: Any) -> None:
    with ww.track(table, backend=backend) as tracker:
        assert tracker.backend == backend
        assert tracker.reason == f"{backend}: asked for by name"


def test_an_unsupported_backend_names_what_is_missing(table: Any) -> None:
    with pytest.raises(ww.KernelUnsupportedError) as caught:
        ww.track(table, backend="uffd-wp", calls=without("wp_async"))
    assert caught.value.missing == ("uffd_wp_async",)


def test_an_unknown_backend_is_refused_before_anything_is_tried(table: Any) -> None:
    class Untried(LinuxCalls):
        def userfaultfd(self, flags: int) -> int:
            raise AssertionError("the kernel was asked")

    with pytest.raises(ww.UsageError):
        ww.track(table, backend="fastest", calls=Untried())


def test_capabilities_are_tried_once_for_each_kernel() -> None:
    calls: Any = LinuxCalls()
    assert known(calls) is known(calls)
    assert known(default_calls()) is ww.capabilities()


def test_threads_that_are_the_first_to_ask_get_the_same_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two, there would be two userfaultfds, and a mapping can be registered with one of them only."""
    others: list[KernelCalls] = []

    def made() -> KernelCalls:
        if not others:
            others.append(LinuxCalls())  # said before it is true: the other thread makes its own, too
            others[0] = default_calls()
        return LinuxCalls()

    monkeypatch.setattr(default, "_made", {})
    monkeypatch.setattr(default, "LinuxCalls", made)
    assert default_calls() is others[0]

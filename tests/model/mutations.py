"""Bugs to seed into the model, by name: each replaces one function by a wrong one while a context is open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from tests.model.corner_mutations import CORNER_MUTATIONS
from tests.model.seeding import Patch, replace, rewrite
from writewatch.model import (
    batch,
    fault,
    fault_wp,
    fill,
    fork,
    huge,
    mmap,
    mremap,
    protect,
    reclaim,
    register,
    scan,
    scan_entries,
    uffd,
    zap,
)
from writewatch.model import pte as p
from writewatch.model.rules import Becomes, Kind
from writewatch.model.vma import Vma


def _keeps_the_pmd_whole(right: Any) -> Any:
    def wrong(fault_: Any, leaf: int) -> bool:
        if leaf & p.UFFD_WP and fault_.vma.wp_async:
            base = fault_.addr & -fault_.mm.machine.huge_page_size
            fault_.mm.table.set_leaf(base, leaf & ~p.UFFD_WP | p.WRITE)
            return True
        return bool(right(fault_, leaf))

    return wrong


def _clears_every_bit_of_the_parent(right: Any) -> Any:
    def wrong(mm: Any, child: Any, vma: Vma, copy: Vma, addr: int, pte: int) -> None:
        right(mm, child, vma, copy, addr, pte & ~p.UFFD_WP)

    return wrong


def _gives_the_child_the_bit(right: Any) -> Any:
    def wrong(mm: Any, child: Any, vma: Vma, copy: Vma, addr: int, pte: int) -> None:
        right(mm, child, vma, vma, addr, pte)

    return wrong


def _splits_without_the_bit(right: Any) -> Any:
    return lambda mm, base, leaf: right(mm, base, leaf & ~p.UFFD_WP)


def _clears_two_pages(right: Any) -> Any:
    def wrong(fault_: Any, pte: int) -> Any:
        beside = fault_.addr + fault_.mm.machine.page_size
        fault_.mm.set_pte(beside, fault_.mm.table.pte(beside) & ~p.UFFD_WP)
        return right(fault_, pte)

    return wrong


def _forgets_to_unprotect(right: Any) -> Any:
    def wrong(mm: Any, vma: Vma, start: int, end: int, *, enable: bool) -> None:
        if enable:
            right(mm, vma, start, end, enable=True)

    return wrong


def _mprotect_unprotects(right: Any) -> Any:
    def wrong(mm: Any, vma: Vma, start: int, end: int, change: Any) -> None:
        is_mprotect = change is protect.Change.PERMISSIONS
        right(mm, vma, start, end, protect.Change.UNPROTECT if is_mprotect else change)

    return wrong


def _reports_too_many(right: Any) -> Any:
    def wrong(state: Any, categories: int, start: int, end: int) -> Any:
        state.max_pages += 1
        return right(state, categories, start, end)

    return wrong


def _protects_a_part_of_hugetlb(right: Any) -> Any:
    def wrong(state: Any, start: int, end: int) -> None:
        right(
            state, start & -state.mm.machine.huge_page_size, (end | state.mm.machine.huge_page_size - 1) + 1
        )

    return wrong


MUTATIONS: dict[str, Patch] = {
    **CORNER_MUTATIONS,
    "a dropped page of a file leaves no marker": rewrite(zap, "DROP_FILE", Kind.PRESENT, Becomes.EMPTY),
    "anonymous memory keeps its marker when dropped": rewrite(
        zap, "DROP_ANON", Kind.PRESENT, Becomes.REMEMBERED
    ),
    "a written huge page stays whole": replace(fault, "wp_huge_pmd", _keeps_the_pmd_whole),
    "the parent loses its bits at fork": replace(fork, "_copy_pte", _clears_every_bit_of_the_parent),
    "the child gets the bits at fork": replace(fork, "_copy_pte", _gives_the_child_the_bit),
    "the bit is lost on swap-in": replace(
        fault, "do_swap_page", lambda right: lambda f, pte: right(f, pte & ~p.UFFD_WP)
    ),
    "the bit is lost on swap-out": replace(
        reclaim, "_swap_out", lambda right: lambda mm, addr, pte: right(mm, addr, pte & ~p.UFFD_WP)
    ),
    "the bit survives mremap": replace(
        mremap,
        "move_page_tables",
        lambda right: lambda mm, vma, start, end, to, drop: right(mm, vma, start, end, to, drop=False),
    ),
    "mprotect clears the bit": replace(mmap, "change_protection", _mprotect_unprotects),
    "a split forgets the bit": replace(huge, "_split_anonymous", _splits_without_the_bit),
    "a fault resolves the page beside it too": replace(fault, "do_wp_page", _clears_two_pages),
    "a filled marker forgets the bit": replace(
        fault, "handle_pte_marker", lambda _: lambda f, pte: fault.do_pte_missing(f)
    ),
    "empty memory is not protected": replace(
        protect, "uses_markers", lambda _: lambda vma: not vma.is_anonymous
    ),
    "unregistering leaves the bits": replace(register, "uffd_wp_range", _forgets_to_unprotect),
    "a scan reports and does not protect": replace(scan_entries, "_protected", lambda _: lambda ptes: ptes),
    "max_pages lets one more through": replace(scan_entries, "output", _reports_too_many),
    "a cut hugetlb page is protected": replace(scan, "scan_hugetlb", _protects_a_part_of_hugetlb),
    "a synchronous fault is resolved in place": lambda: mock.patch.object(
        Vma, "wp_async", property(lambda vma: vma.uffd_wp)
    ),
    "an asynchronous fault is sent to a handler": lambda: mock.patch.object(
        Vma, "wp_async", property(lambda vma: False)
    ),
    "a wake wakes everybody": replace(
        uffd.Context, "wake", lambda right: lambda context, start, length: right(context, 0, 1 << 62)
    ),
    "COPY forgets to protect": replace(
        fill, "finish", lambda right: lambda f, *rest: right(_without(f), *rest)
    ),
    "COPY replaces what is there": replace(fill, "_install", lambda right: _over_anything(right)),
    "a registered range may be taken": replace(
        register, "_check_register", lambda _: lambda mm, vma, end, flags, context: None
    ),
    "many stores leave the bit": replace(
        batch,
        "_entries_after",
        lambda right: lambda mm, ptes, *rest: right(mm, ptes, *rest) | (ptes & p.UFFD_WP),
    ),
    "a copied page keeps the old content": replace(
        fault_wp, "_wp_page_copy", lambda _: lambda f, pte: fault_wp._reuse(f, pte)
    ),
}


def _without(fill_: Any) -> Any:
    fill_.protect = False
    return fill_


def _over_anything(right: Any) -> Any:
    def wrong(fill_: Any, vma: Vma, addr: int, pfn: int) -> None:
        mm = fill_.context.mm
        mm.forget(mm.table.pte(addr))
        mm.table.set_pte(addr, p.EMPTY)
        right(fill_, vma, addr, pfn)

    return wrong


@contextlib.contextmanager
def seeded(name: str) -> Iterator[None]:
    """The model with one bug, named in ``MUTATIONS``."""
    with MUTATIONS[name]():
        yield

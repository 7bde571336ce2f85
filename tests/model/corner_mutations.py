"""More bugs to seed: cells of the tables in ``rules.py``, and functions of the corners."""

from __future__ import annotations

from typing import Any

from tests.model.seeding import Patch, replace, rewrite
from writewatch.abi import userfaultfd as uf
from writewatch.model import (
    collapse,
    descriptors,
    drop_advice,
    fault_file,
    fork,
    huge,
    move,
    move_tables,
    pagemap,
    protect,
    register,
    uffd,
    unshare,
    zap,
)
from writewatch.model import pte as p
from writewatch.model.rules import Becomes, Kind
from writewatch.model.vma import VM_UFFD_MINOR


def _forgets_one_entry(right: Any) -> Any:
    def wrong(mm: Any, base: int, leaf: int) -> None:
        right(mm, base, leaf)
        last = base + mm.machine.huge_page_size - mm.machine.page_size
        mm.table.set_pte(last, mm.table.pte(last) & ~p.UFFD_WP)

    return wrong


def _wakes_all_the_same(right: Any) -> Any:
    def wrong(context: Any, argument: Any, *, strict: bool) -> None:
        argument.mode &= ~uf.UFFDIO_WRITEPROTECT_MODE_DONTWAKE
        right(context, argument, strict=strict)

    return wrong


def _never_says_minor(right: Any) -> Any:
    def wrong(fault: Any, context: Any, reason: int) -> Any:
        return right(fault, context, 0 if reason == VM_UFFD_MINOR else reason)

    return wrong


def _rounds(right: Any) -> Any:
    def wrong(fault: Any, context: Any, reason: int) -> Any:
        message = right(fault, context, reason)
        message.arg.pagefault.address &= -fault.mm.machine.page_size
        return message

    return wrong


def _names_no_thread(right: Any) -> Any:
    def wrong(fault: Any, context: Any, reason: int) -> Any:
        message = right(fault, context, reason)
        message.arg.pagefault.ptid = 0
        return message

    return wrong


def _tells_nobody(_: Any) -> Any:
    def wrong(mm: Any, vma: Any, start: int, end: int) -> Any:
        return iter(())

    return wrong


CORNER_MUTATIONS: dict[str, Patch] = {
    "poison is not inherited": rewrite(fork, "FORGET", Kind.POISON, Becomes.EMPTY),
    "the child loses what its context follows": rewrite(fork, "CARRY", Kind.PRESENT, Becomes.CLEARED),
    "a guard goes with the memory": rewrite(zap, "DROP_ANON", Kind.GUARD, Becomes.EMPTY),
    "protecting marks guards": rewrite(protect, "PROTECT", Kind.GUARD, Becomes.PROTECTED),
    "a split forgets the bit of one entry": replace(huge, "_split_anonymous", _forgets_one_entry),
    "a collapse ignores the bit": replace(collapse, "_obstacle", lambda _: lambda vma, pte: 0),
    "mremap leaves the markers behind": rewrite(move_tables, "CARRY", Kind.MARKER, Becomes.EMPTY),
    "a dropped hugetlb page leaves no marker": rewrite(zap, "DROP_HUGETLB", Kind.PRESENT, Becomes.EMPTY),
    "un-protecting leaves markers": rewrite(protect, "UNPROTECT", Kind.MARKER, Becomes.KEPT),
    "a shared page moves": replace(move, "_is_exclusive", lambda _: lambda mm, pte: True),
    "pinning clears the bit": lambda: replace(unshare, "_KEPT", lambda _: 0)(),
    "a fork shares nothing": replace(fork, "_copy_pte", lambda right: _without_sharing(right)),
    "a minor fault is called missing": replace(uffd, "_fault_message", _never_says_minor),
    "shmem knows no minor faults": replace(fault_file, "_shmem_userfault", lambda _: lambda *_: None),
    "an exact address is rounded": replace(uffd, "_fault_message", _rounds),
    "a message names no thread": replace(uffd, "_fault_message", _names_no_thread),
    "DONTWAKE wakes": replace(register, "writeprotect", _wakes_all_the_same),
    "dropping tells nobody": replace(drop_advice, "_tell_removed", _tells_nobody),
    "clear_refs clears nothing": replace(pagemap, "clear_soft_dirty", lambda _: lambda mm: None),
    "clear_refs leaves pages writable": replace(
        pagemap, "_clean", lambda _: lambda ptes: ptes & ~p.SOFT_DIRTY
    ),
    "closing leaves the registration's bits": replace(descriptors, "release", lambda _: lambda context: None),
}


def _without_sharing(right: Any) -> Any:
    def wrong(mm: Any, child: Any, vma: Any, copy: Any, addr: int, pte: int) -> None:
        right(mm, child, vma, copy, addr, pte)
        mm.machine.frames.exclusive[p.number(pte)] = True

    return wrong

"""fork, exec and exit of an mm.

A fork shares anonymous pages until one side writes. The child keeps registrations, bits and markers only of
contexts with EVENT_FORK, under a context of its own that the reader of the event receives.

Truth: kernel/fork.c:dup_mmap(), mm/memory.c:copy_page_range(), fs/userfaultfd.c:dup_userfaultfd().
"""

from __future__ import annotations

from writewatch.abi.userfaultfd import UFFD_EVENT_FORK, UFFD_FEATURE_EVENT_FORK, UffdMsg
from writewatch.model import pte as p
from writewatch.model.huge import split_huge_pmd
from writewatch.model.mm import Mm
from writewatch.model.munmap import unmap_region
from writewatch.model.rules import CARRY, FORGET, Rule, apply
from writewatch.model.uffd import Context, send_event
from writewatch.model.vma import (
    VM_DONTCOPY,
    VM_LOCKED,
    VM_PFNMAP,
    VM_SHARED,
    VM_UFFD,
    VM_WIPEONFORK,
    Vma,
    clone,
)
from writewatch.model.waits import Steps


def fork(mm: Mm) -> Steps[Mm]:
    """A child with a copy of everything; sleeps until each EVENT_FORK was read."""
    child = Mm(mm.machine)
    contexts: dict[Context, Context] = {}
    for vma in mm.vmas:
        if vma.flags & VM_DONTCOPY:
            continue
        copy = _copy_vma(vma, child, contexts)
        child.vmas.insert(copy)
        if not vma.flags & VM_WIPEONFORK and _needs_copy(vma, copy):
            _copy_page_range(mm, child, vma, copy)
    mm.machine.counters.lock("mmap_lock", "write")
    for parent_context, child_context in contexts.items():
        message = UffdMsg(event=UFFD_EVENT_FORK)
        yield from send_event(parent_context, message, child_context)
    return child


def _copy_vma(vma: Vma, child: Mm, contexts: dict[Context, Context]) -> Vma:
    copy = clone(vma)
    copy.flags &= ~VM_LOCKED
    if vma.flags & VM_WIPEONFORK:
        copy.anon_vma = None
    if copy.anon_vma is not None:
        # Compare mm/rmap.c:anon_vma_fork().
        copy.anon_vma, copy.forked = child.machine.new_anon_vma(), True
    context = vma.context
    if context is None or not context.has(UFFD_FEATURE_EVENT_FORK):
        copy.context = None
        copy.flags &= ~VM_UFFD
        return copy
    if context not in contexts:
        contexts[context] = Context(child, context.flags)
        contexts[context].features = context.features
        context.mmap_changing += 1
    copy.context = contexts[context]
    return copy


def _needs_copy(vma: Vma, copy: Vma) -> bool:
    # Compare mm/memory.c:vma_needs_copy(): what a fault can bring back from the file is not copied.
    return copy.uffd_wp or bool(vma.flags & VM_PFNMAP) or vma.anon_vma is not None


def _copy_page_range(mm: Mm, child: Mm, vma: Vma, copy: Vma) -> None:
    child.table.puds |= mm.table.puds & set(mm.table.pud_range(vma.start, vma.end))
    for low, high, entry in list(mm.table.walk(vma.start, vma.end)):
        if isinstance(entry, int):
            if vma.is_hugetlb:
                _copy_hugetlb(mm, child, vma, copy, low, entry)
                continue
            if _copy_leaf(mm, child, vma, copy, low, entry):
                continue
            split_huge_pmd(mm, vma, low)
        if entry is not None:
            child.table.table(low)
            for addr, pte in mm.table.ptes(low, high):
                _copy_pte(mm, child, vma, copy, addr, pte)


def _rule(copy: Vma) -> Rule:
    return CARRY if copy.uffd_wp else FORGET


def _copy_leaf(mm: Mm, child: Mm, vma: Vma, copy: Vma, addr: int, leaf: int) -> bool:
    # Compare mm/huge_memory.c:copy_huge_pmd(): a huge page of a file is left to the child's faults.
    if not vma.is_anonymous:
        return True
    leaf &= ~p.WRITE
    _share_leaf(mm, leaf)
    mm.table.set_leaf(addr, leaf)
    child.map_leaf(addr, apply(_rule(copy), leaf))
    return True


def _copy_hugetlb(mm: Mm, child: Mm, vma: Vma, copy: Vma, addr: int, leaf: int) -> None:
    # Compare mm/hugetlb.c:copy_hugetlb_page_range().
    kept = apply(_rule(copy), leaf)
    if leaf & p.MARKER:
        if kept:
            child.table.set_leaf(addr, kept)
        return
    if not vma.is_shared:
        leaf &= ~p.WRITE
        kept &= ~p.WRITE
        _share_leaf(mm, leaf)
        mm.table.set_leaf(addr, leaf)
    child.map_leaf(addr, kept)


def _share_leaf(mm: Mm, leaf: int) -> None:
    # Compare include/linux/rmap.h:folio_try_dup_anon_rmap_pmd().
    pfn = p.number(leaf)
    mm.machine.frames.exclusive[pfn : pfn + mm.machine.pages_per_huge] = False


def _copy_pte(mm: Mm, child: Mm, vma: Vma, copy: Vma, addr: int, pte: int) -> None:
    # Compare mm/memory.c:copy_present_ptes(), copy_nonpresent_pte(), copy_pte_marker().
    kept = apply(_rule(copy), pte)
    if pte & p.MARKER:
        if kept:
            child.table.set_pte(addr, kept)
    elif pte & p.SWAP:
        mm.machine.swap.duplicate(p.number(pte))
        mm.set_pte(addr, pte & ~p.EXCLUSIVE)
        child.table.set_pte(addr, kept & ~p.EXCLUSIVE)
    else:
        if vma.flags & VM_SHARED:
            kept &= ~p.DIRTY
        else:
            mm.machine.frames.exclusive[p.number(pte)] = False
            pte &= ~p.WRITE
            kept &= ~p.WRITE
        mm.set_pte(addr, pte)
        child.map_pte(addr, kept & ~p.ACCESSED)


def end(mm: Mm) -> None:
    """The last thread is gone, or exec took a new mm: unmap everything. Contexts bound to the mm live on, dead."""
    # Compare mm/mmap.c:exit_mmap(): nobody is told.
    vmas = list(mm.vmas)
    for vma in vmas:
        vma.context = None
    if vmas:
        unmap_region(mm, vmas[0].start, vmas[-1].end)
    mm.alive = False
    mm.machine.mms.remove(mm)

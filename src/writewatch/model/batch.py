"""Many stores in one call: the faults of one page table are served together, by array operations.

The outcome, counters included, is that of the stores one by one. What the arrays do not cover (files, swap, huge
pages that have to be split, synchronous contexts) goes that way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from writewatch.model import access
from writewatch.model import pte as p
from writewatch.model.frames import ANON
from writewatch.model.huge import thp_allowed
from writewatch.model.mm import Mm
from writewatch.model.pte_table import Entries, PteTable
from writewatch.model.vma import VM_UFFD_MISSING, VM_WRITE, Vma

_PROTECTED_MARKER = np.uint64(p.UFFD_WP_MARKER)


def store_many(mm: Mm, addresses: NDArray[np.int64], byte: int) -> None:
    """Store one byte at each address.

    Args:
        mm: Where.
        addresses: (n,), any order. Where an access would fail, all are made in order, up to that one.
        byte: 0 to 255.

    Raises:
        Segfault, BusError, MustWait: As a single store.
    """
    shift = mm.table.pmd_shift
    pmds = addresses >> shift
    order = np.argsort(pmds, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(pmds[order])) + 1) if len(order) else []
    if not all(_is_plain(mm, addresses[group]) for group in groups):
        _one_by_one(mm, addresses, byte)
        return
    for group in groups:
        _store_group(mm, addresses[group], byte)


def _one_by_one(mm: Mm, addresses: NDArray[np.int64], byte: int) -> None:
    data = bytes([byte])
    for addr in addresses.tolist():
        access.store(mm, addr, data)


def _is_plain(mm: Mm, addresses: NDArray[np.int64]) -> bool:
    """Whether every store of a group succeeds: one private anonymous VMA, nothing to wait for, no poison."""
    vma = mm.vmas.find(int(addresses.min()))
    if vma is None or int(addresses.max()) >= vma.end or not vma.flags & VM_WRITE:
        return False
    if not vma.is_anonymous or vma.flags & VM_UFFD_MISSING or (vma.uffd_wp and not vma.wp_async):
        return False
    entry = mm.table.pmd(vma.start if len(addresses) == 0 else int(addresses[0]))
    if not isinstance(entry, PteTable):
        return True
    return not (entry.entries() & np.uint64(p.POISON | p.GUARD)).any()


def _store_group(mm: Mm, addresses: NDArray[np.int64], byte: int) -> None:
    """Store inside one PMD's range."""
    first = int(addresses[0])
    vma = mm.vmas.find(first)
    assert vma is not None
    entry = mm.table.pmd(first)
    if isinstance(entry, int) or (entry is None and thp_allowed(mm, vma, first)):
        # The first store maps or splits the huge page; the others find what it left.
        access.store(mm, first, bytes([byte]))
        entry = mm.table.pmd(first)
        if isinstance(entry, int):
            _write(
                mm,
                p.number(entry) + (addresses >> mm.table.page_shift & mm.table.n_entries - 1),
                addresses,
                byte,
            )
            return
    table = mm.table.table(first)
    indices, where = np.unique(addresses >> mm.table.page_shift & mm.table.n_entries - 1, return_inverse=True)
    ptes = table.entries()[indices]
    other = (ptes & np.uint64(p.SWAP | p.MIGRATION)) != 0
    ptes[~other] = _fault_many(mm, vma, ptes[~other])
    table.put(indices[~other], ptes[~other])
    plain = ~other[where]
    _write(mm, (ptes[where[plain]] >> np.uint64(p.NUMBER_SHIFT)).astype(np.int64), addresses[plain], byte)
    _one_by_one(mm, addresses[~plain], byte)


def _fault_many(mm: Mm, vma: Vma, ptes: Entries) -> Entries:
    """The entries after a write to each, with the frames allocated, mapped and counted."""
    faults = mm.machine.counters.faults
    present = (ptes & np.uint64(p.PRESENT)) != 0
    protected = (ptes & np.uint64(p.UFFD_WP)) != 0 if vma.uffd_wp else np.zeros(len(ptes), np.bool_)
    faulting = ~present | (ptes & np.uint64(p.WRITE) == 0)
    marker = ptes == _PROTECTED_MARKER
    pfns = (ptes >> np.uint64(p.NUMBER_SHIFT)).astype(np.int64)
    frames = mm.machine.frames
    mine = present & (frames.kind[pfns] == ANON) & (frames.refs[pfns] == 1)
    copied = faulting & present & ~mine
    frames.exclusive[pfns[faulting & mine]] = True
    fresh = ~present
    # A marker is filled by one fault and cleared by a second.
    n_faults = int(faulting.sum()) + int(marker.sum() if vma.uffd_wp else 0)
    mm.machine.counters.lock("vma", "read", n_faults)
    mm.machine.counters.lock("pte", "lock", n_faults)
    mm.count_faults(n_faults)
    mm.machine.counters.events["marker-filled"] += int(marker.sum() if vma.uffd_wp else 0)
    faults["wp-async"] += int((protected & faulting).sum())
    faults["anon"] += int(fresh.sum())
    faults["wp-reuse"] += int((faulting & mine).sum()) + int((marker & vma.uffd_wp).sum())
    faults["wp-copy"] += int(copied.sum())
    if fresh.any() or copied.any():
        mm.prepare_anon(vma)
    return _entries_after(mm, ptes, pfns, fresh, copied)


def _entries_after(
    mm: Mm, ptes: Entries, pfns: NDArray[np.int64], fresh: NDArray[np.bool_], copied: NDArray[np.bool_]
) -> Entries:
    frames, renewed = mm.machine.frames, fresh | copied
    after = ptes & ~np.uint64(p.UFFD_WP) | np.uint64(p.ACCESSED | p.WRITE | mm.machine.dirtied)
    if not renewed.any():
        return after
    new = frames.allocate_many(ANON, int(renewed.sum()))
    frames.mapcount[new] += 1
    frames.refs[new] += 1
    flags = np.uint64(p.PRESENT | p.ACCESSED | p.WRITE | mm.machine.dirtied)
    after[renewed] = new.astype(np.uint64) << np.uint64(p.NUMBER_SHIFT) | flags
    targets = np.zeros(len(ptes), np.int64)
    targets[renewed] = new
    for at in np.flatnonzero(copied & (ptes & np.uint64(p.ZERO) == 0)).tolist():
        frames.fill(int(targets[at]), frames.content(int(pfns[at])))
        mm.forget(int(ptes[at]))
    return after


def _write(mm: Mm, pfns: NDArray[np.int64], addresses: NDArray[np.int64], byte: int) -> None:
    offsets = addresses & mm.machine.page_size - 1
    if len(np.unique(pfns)) == len(pfns):
        mm.machine.frames.write_many(pfns, offsets, byte)
        return
    for pfn, offset in zip(pfns.tolist(), offsets.tolist(), strict=True):
        mm.machine.frames.write(pfn, offset, bytes([byte]))

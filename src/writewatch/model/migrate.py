"""Migration entries: a page that is being moved elsewhere, and what of its entry survives the move.

Linux replaces the entry by a migration entry, copies the page, and puts the new one in. Faults in between
wait for the end; in the model they bring it about.

Truth: mm/rmap.c:try_to_migrate_one(), mm/migrate.c:remove_migration_pte().
"""

from __future__ import annotations

from writewatch.model import pte as p
from writewatch.model.mm import Mm

_CARRIED = p.UFFD_WP | p.SOFT_DIRTY | p.DIRTY | p.ACCESSED | p.WRITE


def start_migration(mm: Mm, addr: int) -> bool:
    """Replace a present small entry by a migration entry; False where there is none, or it is the zero page."""
    pte = mm.table.pte(addr)
    if not pte & p.PRESENT or pte & p.ZERO:
        return False
    mm.set_pte(addr, p.number(pte) << p.NUMBER_SHIFT | p.MIGRATION | (pte & _CARRIED))
    return True


def finish_migration(mm: Mm, addr: int) -> None:
    """Put the page, now in a new frame if nobody else uses it, in the place of its migration entry."""
    pte = mm.table.pte(addr)
    frames, old = mm.machine.frames, p.number(pte)
    pfn = old
    if frames.is_alone(old):
        pfn = frames.allocate(int(frames.kind[old]))
        frames.exclusive[pfn] = frames.exclusive[old]
        frames.fill(pfn, frames.content(old))
        frames.unmap(old)
        frames.map(pfn)
    mm.set_pte(addr, p.present(pfn, pte & _CARRIED))
    mm.machine.counters.events["migrate"] += 1

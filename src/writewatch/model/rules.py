"""What becomes of an entry and its bit: one table for each thing that can happen, one row for each kind of entry.

The engines (``protect.py``, ``scan_entries.py``, ``zap.py``, ``fork.py``, ``move_tables.py``, ``reclaim.py``) look up
here what an entry becomes, with ``apply`` or ``apply_many``, and do what goes with it: count references, split huge
pages, decide on write permission. What README.md shows is drawn from these (``scripts/draw_model.py``).

Truth: for each table, the function that it names.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeAlias

import numpy as np

from writewatch.model import pte as p
from writewatch.model.pte_table import Entries

_ALL = (1 << 64) - 1
_MARKER_KINDS = p.MARKER | p.POISON | p.GUARD


class Kind(enum.Enum):
    """Kinds of entries, of which every entry is exactly one: (name, the flags that tell, their value)."""

    NONE = "none", _ALL, 0
    PRESENT = "present", p.PRESENT, p.PRESENT
    SWAP = "swap", p.SWAP, p.SWAP
    MIGRATION = "migration", p.MIGRATION, p.MIGRATION
    MARKER = "marker", _MARKER_KINDS, p.MARKER
    POISON = "poison", _MARKER_KINDS, p.MARKER | p.POISON
    GUARD = "guard", _MARKER_KINDS, p.MARKER | p.GUARD

    def __init__(self, label: str, mask: int, value: int) -> None:
        self.label, self.mask, self.flags = label, mask, value


class Becomes(enum.Enum):
    """What a rule does to an entry: (name, bits cleared, bits set)."""

    KEPT = "as it was", 0, 0
    PROTECTED = "gains the bit", p.WRITE, p.UFFD_WP
    CLEARED = "loses the bit", p.UFFD_WP, 0
    EMPTY = "none", _ALL, 0
    MARKER = "marker", _ALL, p.UFFD_WP_MARKER
    REMEMBERED = "marker if it had the bit, else none", 0, 0

    def __init__(self, label: str, clear: int, add: int) -> None:
        self.label, self.clear, self.add = label, clear, add


Rule: TypeAlias = Mapping[Kind, Becomes]


def _rule(default: Becomes, **rows: Becomes) -> Rule:
    return {kind: rows.get(kind.name.lower(), default) for kind in Kind}


_K = Becomes.KEPT

#: UFFDIO_WRITEPROTECT where the VMA uses markers. mm/mprotect.c:change_pte_range(), uffd_wp_range().
PROTECT: Final = _rule(Becomes.PROTECTED, none=Becomes.MARKER, marker=_K, poison=_K, guard=_K)
#: The same where it does not: anonymous memory without WP_UNPOPULATED.
PROTECT_MAPPED: Final = {**PROTECT, Kind.NONE: _K}
#: UFFDIO_WRITEPROTECT without MODE_WP, and UFFDIO_UNREGISTER.
UNPROTECT: Final = _rule(Becomes.CLEARED, none=_K, marker=Becomes.EMPTY, poison=_K, guard=_K)
#: PM_SCAN_WP_MATCHING. fs/proc/task_mmu.c:make_uffd_wp_pte(), which spares no marker.
SCAN: Final = _rule(Becomes.PROTECTED, none=Becomes.MARKER)
#: Dropping anonymous memory (MADV_DONTNEED). mm/memory.c:zap_pte_range().
DROP_ANON: Final = _rule(Becomes.EMPTY, guard=_K)
#: Dropping the pages of a file, shmem included (MADV_DONTNEED, truncate).
DROP_FILE: Final = _rule(Becomes.REMEMBERED, none=_K, marker=_K, guard=_K)
#: Dropping pages of hugetlbfs. mm/hugetlb.c:__unmap_hugepage_range().
DROP_HUGETLB: Final = _rule(Becomes.REMEMBERED)
#: Punching a hole into a file: what is private to the mm stays, and is not asked here.
PUNCH: Final = {**DROP_FILE, Kind.POISON: _K}
#: munmap, and whatever else ends a mapping: nothing has to be remembered.
UNMAP: Final = _rule(Becomes.EMPTY)
#: The child of a fork, and what mremap moved, without EVENT_FORK or EVENT_REMAP. mm/memory.c:copy_pte_marker(),
#: mm/mremap.c:move_ptes().
FORGET: Final = _rule(Becomes.CLEARED, none=_K, marker=Becomes.EMPTY)
#: The same with the event.
CARRY: Final = _rule(_K)

#: Every rule by what happens, as README.md shows them.
RULES: Final[Mapping[str, Rule]] = {
    "protect": PROTECT,
    "un-protect": UNPROTECT,
    "scan and protect": SCAN,
    "drop, anonymous": DROP_ANON,
    "drop, file": DROP_FILE,
    "drop, hugetlb": DROP_HUGETLB,
    "punch a hole": PUNCH,
    "munmap": UNMAP,
    "fork, mremap": FORGET,
    "fork, mremap with their events": CARRY,
}


def kind_of(pte: int) -> Kind:
    """The kind of an entry, a huge one included."""
    return next(kind for kind in Kind if pte & kind.mask == kind.flags)


def apply(rule: Rule, pte: int) -> int:
    """What an entry becomes."""
    return _become(rule[kind_of(pte)], pte)


def _become(becomes: Becomes, pte: int) -> int:
    if becomes is Becomes.REMEMBERED:
        return p.UFFD_WP_MARKER if pte & p.UFFD_WP else p.EMPTY
    return pte & ~becomes.clear | becomes.add


def apply_many(rule: Rule, ptes: Entries) -> Entries:
    """What each entry of an array (n,) becomes; a new array."""
    if len(ptes) == 1:
        return np.array([apply(rule, int(ptes[0]))], np.uint64)
    changed = ptes.copy()
    for kind, becomes in rule.items():
        if becomes is not Becomes.KEPT:
            hit = ptes & np.uint64(kind.mask) == np.uint64(kind.flags)
            changed[hit] = _become_many(becomes, ptes[hit])
    return changed


def _become_many(becomes: Becomes, ptes: Entries) -> Entries:
    if becomes is Becomes.REMEMBERED:
        return np.where(ptes & np.uint64(p.UFFD_WP), np.uint64(p.UFFD_WP_MARKER), np.uint64(p.EMPTY))
    return ptes & np.uint64(~becomes.clear & _ALL) | np.uint64(becomes.add)

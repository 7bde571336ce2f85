"""Page-table entries: one integer each, flags in the low 16 bits, a frame or swap slot number above them.

An entry is of exactly one kind:

=========== ==================== ==========================================================================
kind        flag                 number
=========== ==================== ==========================================================================
empty       none (the value 0)   none
present     ``PRESENT``          frame; a PMD leaf (``HUGE``) names the first of its frames
swap        ``SWAP``             swap slot
migration   ``MIGRATION``        frame that is being moved
marker      ``MARKER``           none; ``UFFD_WP``, ``POISON`` and ``GUARD`` say what it remembers
=========== ==================== ==========================================================================

``UFFD_WP`` is one flag for every kind; hardware spreads it over three encodings (``_PAGE_UFFD_WP``,
``_PAGE_SWP_UFFD_WP``, the payload of a marker). It is software's: the processor sees only that ``WRITE`` is off.

Truth: include/linux/swapops.h, arch/x86/include/asm/pgtable.h.
"""

from __future__ import annotations

from typing import Final

PRESENT: Final = 1 << 0
WRITE: Final = 1 << 1
ACCESSED: Final = 1 << 2
DIRTY: Final = 1 << 3
SOFT_DIRTY: Final = 1 << 4
UFFD_WP: Final = 1 << 5
ZERO: Final = 1 << 6  # the shared zero page: pte_special() and is_zero_pfn(), or is_huge_zero_pmd()
HUGE: Final = 1 << 7  # a PMD leaf, transparent or hugetlb
SWAP: Final = 1 << 8
MIGRATION: Final = 1 << 9
MARKER: Final = 1 << 10
POISON: Final = 1 << 11
GUARD: Final = 1 << 12
EXCLUSIVE: Final = 1 << 13  # of a swap entry: _PAGE_SWP_EXCLUSIVE, nobody shared the page before it left

NUMBER_SHIFT: Final = 16
FLAGS: Final = (1 << NUMBER_SHIFT) - 1
EMPTY: Final = 0

UFFD_WP_MARKER: Final = MARKER | UFFD_WP
POISON_MARKER: Final = MARKER | POISON
GUARD_MARKER: Final = MARKER | GUARD

_NAMES: Final = (
    (WRITE, "write"),
    (DIRTY, "dirty"),
    (ACCESSED, "accessed"),
    (SOFT_DIRTY, "soft-dirty"),
    (UFFD_WP, "uffd-wp"),
    (POISON, "poison"),
    (GUARD, "guard"),
)


def number(pte: int) -> int:
    """The frame of a present or migration entry, the slot of a swap entry."""
    return pte >> NUMBER_SHIFT


def present(pfn: int, flags: int = 0) -> int:
    """An entry that maps a frame."""
    return pfn << NUMBER_SHIFT | PRESENT | flags


def swap(slot: int, flags: int = 0) -> int:
    """An entry for content that was swapped out."""
    return slot << NUMBER_SHIFT | SWAP | flags


def protect(pte: int) -> int:
    """Set the bit and take write permission away."""
    # Compare arch/x86/include/asm/pgtable.h:pte_mkuffd_wp(): it wrprotects as well.
    return (pte | UFFD_WP) & ~WRITE


def describe(pte: int) -> str:
    """An entry in the notation of README.md: ``PFN:0x2fb, write, dirty``, ``marker, uffd-wp``."""
    if not pte:
        return "none"
    names = [name for flag, name in _NAMES if pte & flag]
    return ", ".join([_kind(pte), *names])


def _kind(pte: int) -> str:
    if pte & MARKER:
        return "marker"
    if pte & SWAP:
        return f"swap:{number(pte):#x}"
    if pte & MIGRATION:
        return f"migration:{number(pte):#x}"
    size = "huge " if pte & HUGE else ""
    return f"{size}zero page" if pte & ZERO else f"{size}PFN:{number(pte):#x}"

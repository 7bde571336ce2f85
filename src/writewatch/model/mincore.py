"""mincore: whose content is in memory, mapped or not.

Truth: mm/mincore.c:mincore_pte_range(), __mincore_unmapped_range().
"""

from __future__ import annotations

import errno

import numpy as np
from numpy.typing import NDArray

from writewatch.model import page_cache
from writewatch.model import pte as p
from writewatch.model.mm import Mm, failure
from writewatch.model.vma import Vma


def mincore(mm: Mm, addr: int, length: int) -> NDArray[np.uint8]:
    """mincore(2): 1 for each page that is mapped or cached."""
    size = mm.machine.page_size
    if addr % size:
        raise failure(errno.EINVAL, "mincore")
    answers = []
    for at in range(addr, addr + length, size):
        vma = mm.vmas.find(at)
        if vma is None:
            raise failure(errno.ENOMEM, "mincore")
        answers.append(_is_mapped(mm, at) or _is_cached(mm, vma, at))
    return np.array(answers, np.uint8)


def _is_mapped(mm: Mm, addr: int) -> bool:
    walk = mm.table.walk(addr, addr + mm.machine.page_size)
    entries = [entry for _, entry in mm.table.ptes(addr, addr + mm.machine.page_size)]
    entries += [entry for _, _, entry in walk if isinstance(entry, int)]
    return any(entry & p.PRESENT for entry in entries)


def _is_cached(mm: Mm, vma: Vma, addr: int) -> bool:
    # An empty entry, and a marker: Linux looks the page up in the file's cache.
    if vma.file is None:
        return False
    index = vma.file_index(addr, mm.machine.page_shift) * mm.machine.page_size // vma.file.unit
    return page_cache.find(mm.machine, vma.file, index) is not None

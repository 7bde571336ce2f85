"""Which mappings of a process are to be registered, and of what sort their pages are.

Everything private that is ordinary memory is registered, whatever its protection: a reserve with PROT_NONE is then
tracked from the moment that mprotect opens it. Of what is shared everything is tried; what can never be written
answers EPERM.

Truth: ``vma_can_userfault()`` in ``include/linux/userfaultfd_k.h``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from writewatch.abi.calls import Vma
from writewatch.kernel.maps import parse_maps
from writewatch.pages import Runs, normalise

#: Never to be tried: before the mend of CVE-2026-68166 Linux registered some of them, with undefined effect.
_SPECIAL: Final = (
    "[vvar",
    "[vdso]",
    "[vsyscall]",
    "[vectors]",
    "[sigpage]",
    "[uprobes]",
    "anon_inode:",
    "/[aio]",
)
#: Of the devices these are memory.
_MEMORY_DEVICES: Final = ("/dev/zero", "/dev/shm/", "/dev/hugepages/")  # noqa: S108 (names in maps)


def is_candidate(vma: Vma) -> bool:
    """Whether a mapping is ordinary memory, as far as its name tells."""
    if not vma.name:
        return True
    if vma.name.startswith("/dev/"):
        return vma.name.startswith(_MEMORY_DEVICES)
    return not vma.name.startswith(_SPECIAL)


@dataclass(frozen=True)
class Layout:
    """One reading of ``/proc/PID/maps``.

    Attributes:
        text: As read: equal texts are equal layouts.
        vmas: Ascending.
        page_size: Bytes.
        excluded: Start addresses of mappings that must be left alone.
    """

    text: bytes
    vmas: tuple[Vma, ...]
    page_size: int
    excluded: frozenset[int] = frozenset()

    @classmethod
    def of(cls, text: bytes, page_size: int, excluded: frozenset[int] = frozenset()) -> Layout:
        """Parse a ``maps`` file."""
        return cls(text, parse_maps(text), page_size, excluded)

    @functools.cached_property
    def candidates(self) -> tuple[Vma, ...]:
        """Mappings to register, ascending."""
        return tuple(vma for vma in self.vmas if self._is_wanted(vma))

    @functools.cached_property
    def candidate_starts(self) -> frozenset[int]:
        """Where they begin."""
        return frozenset(vma.start for vma in self.candidates)

    @functools.cached_property
    def left_out(self) -> tuple[Vma, ...]:
        """The others, ascending."""
        return tuple(vma for vma in self.vmas if not self._is_wanted(vma))

    def _is_wanted(self, vma: Vma) -> bool:
        return is_candidate(vma) and vma.start not in self.excluded

    @functools.cached_property
    def anonymous(self) -> Runs:
        """Pages of private mappings without a file: what is present there, and no zero page, was written."""
        return self.runs(vma for vma in self.candidates if not vma.is_shared and not vma.is_file)

    @functools.cached_property
    def private_files(self) -> Runs:
        """Pages of private mappings of files: some are the file's, some the process's own."""
        return self.runs(vma for vma in self.candidates if not vma.is_shared and vma.is_file)

    @functools.cached_property
    def shared(self) -> Runs:
        """Pages of shared mappings."""
        return self.runs(vma for vma in self.candidates if vma.is_shared)

    def runs(self, vmas: Iterable[Vma]) -> Runs:
        """Page runs of mappings; (n, 2) int64, ascending, joined where they touch."""
        pairs = [(vma.start // self.page_size, vma.end // self.page_size) for vma in vmas]
        return normalise(np.array(pairs, np.int64).reshape(-1, 2))


def unbroken(vmas: tuple[Vma, ...], wanted: frozenset[int]) -> list[list[Vma]]:
    """The mappings whose start is wanted, in groups that no other mapping interrupts; holes may lie inside."""
    groups: list[list[Vma]] = []
    is_open = False
    for vma in vmas:
        if vma.start not in wanted:
            is_open = False
        elif is_open:
            groups[-1].append(vma)
        else:
            groups.append([vma])
            is_open = True
    return groups

"""``/proc/PID/maps`` and the VmFlags of smaps; and the special mappings that every process has."""

from __future__ import annotations

from typing import Final

from writewatch.abi.calls import Vma as MapsLine
from writewatch.model.files import REGULAR
from writewatch.model.mm import Mm
from writewatch.model.vma import (
    SMAPS_NAMES,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_READ,
    VM_WRITE,
    Vma,
)

_VVAR: Final = 0x7FFF_F7FF_8000
_VDSO: Final = 0x7FFF_F7FF_C000
_END: Final = 0x7FFF_F7FF_E000
_SPECIAL: Final = VM_PFNMAP | VM_DONTEXPAND | VM_MAYREAD


def map_vdso(mm: Mm) -> None:
    """Map vvar and vdso, as exec does: special mappings that userfaultfd refuses."""
    size = max(mm.machine.page_size, 0x2000)
    if size == mm.machine.page_size:
        return
    mm.vmas.insert(Vma(_VVAR, _VDSO, _SPECIAL | VM_READ, None, 0, name="[vvar]"))
    mm.vmas.insert(Vma(_VDSO, _END, _SPECIAL | VM_READ | VM_EXEC | VM_MAYEXEC, None, 0, name="[vdso]"))


def lines(mm: Mm) -> tuple[MapsLine, ...]:
    """Every VMA as maps prints it; none of a dead mm."""
    return tuple(_line(mm, vma) for vma in mm.vmas)


def _line(mm: Mm, vma: Vma) -> MapsLine:
    letters = ((VM_READ, "r"), (VM_WRITE, "w"), (VM_EXEC, "x"))
    perms = "".join(letter if vma.flags & flag else "-" for flag, letter in letters)
    perms += "s" if vma.flags & VM_MAYSHARE else "p"
    if vma.file is None:
        return MapsLine(vma.start, vma.end, perms, 0, "00:00", 0, vma.name)
    device = "fe:00" if vma.file.kind == REGULAR else "00:01"
    offset = vma.pgoff << mm.machine.page_shift
    return MapsLine(vma.start, vma.end, perms, offset, device, vma.file.inode, vma.file.name)


def smaps_flags(vma: Vma) -> frozenset[str]:
    """``VmFlags`` of a VMA."""
    return frozenset(name for flag, name in SMAPS_NAMES.items() if vma.flags & flag)

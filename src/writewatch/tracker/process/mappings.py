"""Names a person knows, for the mappings of a process.

Truth: ``show_map_vma()`` in ``fs/proc/task_mmu.c``; proc_pid_maps(5).
"""

from __future__ import annotations

from collections.abc import Mapping as Table

from writewatch.abi.calls import Vma
from writewatch.tracker.process.writes import Kind, Mapping


def named(
    vmas: tuple[Vma, ...], *, untracked: Table[Vma, str], unseen: Table[Vma, str]
) -> tuple[Mapping, ...]:
    """All mappings, each with its name."""
    return tuple(
        Mapping(
            vma.start,
            vma.end,
            *_name(vma),
            (vma,),
            unseen=untracked.get(vma) or unseen.get(vma),
            tracked=vma not in untracked,
        )
        for vma in vmas
    )


def _name(vma: Vma) -> tuple[str, Kind]:
    if vma.name in ("[heap]", "[stack]"):
        return vma.name, "heap" if vma.name == "[heap]" else "stack"
    if vma.is_shared:
        return vma.name or "[shared]", "shared"
    return vma.name or "[anonymous]", "file" if vma.is_file else "anonymous"

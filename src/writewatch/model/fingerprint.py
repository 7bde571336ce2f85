"""A value that is equal for two states of a machine that behave alike from then on.

Frames, swap slots, families of anonymous pages and the like are renamed by the order in which they are met, so that
two runs that took the same frames in another order have the same fingerprint. Calls that are under way
count by where they stand and by their local variables.

Rule for every generator of steps (it makes merging states sound): what it still needs is in its local variables;
a loop over something that is not in one is determined by what is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import GeneratorType
from typing import Any

import numpy as np

from writewatch.model import pte as p
from writewatch.model.files import File
from writewatch.model.machine import Machine
from writewatch.model.mm import Mm
from writewatch.model.process import Process
from writewatch.model.pte_table import PteTable
from writewatch.model.uffd import Context
from writewatch.model.vma import Vma
from writewatch.model.waits import Wait


class Namer:
    """Renames objects and numbers by first meeting, and describes each object once.

    Args:
        machine: Whose state is described.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._names: dict[tuple[str, Any], int] = {}
        self.described: list[Any] = []

    def name(self, kind: str, key: Any) -> tuple[str, int]:
        """The name of something that only its identity tells apart."""
        return kind, self._names.setdefault((kind, key), len(self._names))

    def met(self, kind: str, thing: object) -> bool:
        """Whether an object has been described already."""
        return (kind, id(thing)) in self._names

    def frame(self, pfn: int) -> tuple[str, int]:
        """The name of a frame; its content and its number of holders are described."""
        new = ("frame", pfn) not in self._names
        name = self.name("frame", pfn)
        if new:
            frames = self._machine.frames
            holders = int(frames.kind[pfn]), int(frames.refs[pfn]), bool(frames.exclusive[pfn])
            self.described.append((name, holders, frames.content(pfn)))
        return name

    def entry(self, entry: int) -> Any:
        """A page-table entry with its frame or slot renamed."""
        if entry & p.SWAP:
            return (
                entry & p.FLAGS,
                self._machine.swap.content(p.number(entry)),
                self.name("slot", p.number(entry)),
            )
        if entry & (p.PRESENT | p.MIGRATION):
            return entry & p.FLAGS, self.frame(p.number(entry))
        return entry

    # ---- values ----------------------------------------------------------------------------------

    def value(self, thing: Any) -> Any:
        """A hashable description of a local variable or of a program's own notes."""
        if thing is None or isinstance(thing, int | str | bytes | float):
            return thing
        if isinstance(thing, np.ndarray):
            return thing.tobytes()
        if isinstance(thing, Mapping):
            return tuple(sorted((repr(self.value(k)), self.value(v)) for k, v in thing.items()))
        if isinstance(thing, list | tuple):
            return tuple(self.value(each) for each in thing)
        if isinstance(thing, set | frozenset):
            return tuple(sorted(repr(self.value(each)) for each in thing))
        if isinstance(thing, GeneratorType):
            return self.steps(thing)
        return self.object(thing)

    def object(self, thing: Any) -> Any:
        """An object of the model: named, and described where it can change."""
        kind = type(thing).__name__
        if isinstance(thing, Vma):
            return kind, thing.start, thing.end
        if isinstance(thing, Machine | Mm | Process | File | PteTable) or not _has_state(thing):
            return self.name(kind, id(thing))
        if self.met(kind, thing):
            return self.name(kind, id(thing))
        name = self.name(kind, id(thing))
        self.described.append((name, tuple(self.value(each) for each in _state(thing))))
        return name

    def steps(self, generator: GeneratorType[Any, Any, Any]) -> Any:
        """Where a call under way stands, down to the innermost generator."""
        chain: list[Any] = []
        inner: Any = generator
        while isinstance(inner, GeneratorType) and inner.gi_frame is not None:
            frame = inner.gi_frame
            own = {k: self.value(v) for k, v in frame.f_locals.items() if not isinstance(v, GeneratorType)}
            chain.append((frame.f_code.co_name, frame.f_lasti, tuple(own.items())))
            inner = inner.gi_yieldfrom
        return tuple(chain)


def _has_state(thing: Any) -> bool:
    return is_dataclass(thing) or isinstance(thing, Context) or hasattr(thing, "_fields_")


def _state(thing: Any) -> Iterator[Any]:
    if isinstance(thing, Wait):
        yield from (bytes(thing.message), thing.thread_id, thing.start, thing.done)
    elif isinstance(thing, Context):
        yield from (thing.features, thing.flags, thing.released, thing.mmap_changing)
        yield from (thing.pending, thing.delivered, thing.events)
    elif is_dataclass(thing):
        yield from (getattr(thing, each.name) for each in fields(thing))
    else:
        yield bytes(thing)


def memory(machine: Machine, namer: Namer) -> Any:
    """All of a machine's memory: VMAs, entries, contexts, files."""
    return tuple(_mm(mm, namer) for mm in machine.mms)


def _mm(mm: Mm, namer: Namer) -> Any:
    vmas = tuple(_vma(vma, namer) for vma in mm.vmas)
    leaves = tuple(
        (index, namer.entry(entry)) if isinstance(entry, int) else index
        for index, entry in sorted(mm.table.pmds.items(), key=lambda item: item[0])
    )
    low, high = (min(mm.table.pmds, default=0), max(mm.table.pmds, default=0) + 1)
    shift = mm.table.pmd_shift
    ptes = tuple((addr, namer.entry(pte)) for addr, pte in mm.table.ptes(low << shift, high << shift))
    return vmas, leaves, ptes, mm.n_readers


def _vma(vma: Vma, namer: Namer) -> Any:
    family = None if vma.anon_vma is None else namer.name("family", vma.anon_vma)
    context = None if vma.context is None else namer.object(vma.context)
    file = None if vma.file is None else _file(vma.file, namer)
    return vma.start, vma.end, vma.flags, vma.pgoff, family, vma.forked, context, file


def _file(file: File, namer: Namer) -> Any:
    pages = tuple((index, namer.frame(pfn)) for index, pfn in sorted(file.pages.items()))
    swapped = tuple(sorted(file.slots))
    return namer.name("file", id(file)), file.size, pages, swapped, tuple(sorted(file.huge))

"""``python -m scripts.draw_model``: draw the tables and diagrams of the model's README from the model itself.

The rules come from ``writewatch.model.rules``. The states of an entry and the arrows between them are found by doing:
from an entry that is empty, everything that can happen is tried on a fresh machine, and again from each state that was
reached. Each drawing replaces what stands between ``<!-- drawn: NAME -->`` and ``<!-- end -->``;
``tests/model/test_readme.py`` fails when they differ.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Callable, Mapping

import numpy as np

from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.abi.pagemap import (
    PAGE_IS_WRITTEN,
    PAGE_REGION,
    PM_SCAN_CHECK_WPASYNC,
    PM_SCAN_WP_MATCHING,
    PmScanArg,
)
from writewatch.model import pte as p
from writewatch.model.calls import ModelCalls
from writewatch.model.rules import RULES, Becomes, Kind

README = pathlib.Path(p.__file__).with_name("README.md")
_BASE = 0x1000_0000_0000
_RW = mman.PROT_READ | mman.PROT_WRITE

_CELLS: Mapping[Becomes, str] = {
    Becomes.KEPT: "·",
    Becomes.PROTECTED: "+ bit",
    Becomes.CLEARED: "- bit",
    Becomes.EMPTY: "none",
    Becomes.MARKER: "marker",
    Becomes.REMEMBERED: "marker?",
}


# ---- rules ---------------------------------------------------------------------------------------


def rules() -> str:
    """What becomes of each kind of entry, for each thing that can happen."""
    rows = [[name, *(_CELLS[rule[kind]] for kind in Kind)] for name, rule in RULES.items()]
    return _table(["", *(kind.label for kind in Kind)], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---- states --------------------------------------------------------------------------------------


class Page:
    """One page of a process of its own, registered with an asynchronous context."""

    def __init__(self, flags: int) -> None:
        self.calls = ModelCalls()
        self.size = self.calls.page_size
        self.calls.mmap(_BASE, self.size, _RW, flags | mman.MAP_ANONYMOUS | mman.MAP_FIXED)
        self.fd = self.calls.userfaultfd(os.O_NONBLOCK)
        self.calls.uffdio(self.fd, uf.UFFDIO_API, uf.UffdioApi(uf.UFFD_API, uf.UFFD_FEATURE_WP_ASYNC, 0))
        argument = uf.UffdioRegister(self._span, uf.UFFDIO_REGISTER_MODE_WP, 0)
        self.calls.uffdio(self.fd, uf.UFFDIO_REGISTER, argument)

    @property
    def _span(self) -> uf.UffdioRange:
        return uf.UffdioRange(_BASE, self.size)

    def protect(self) -> None:
        """UFFDIO_WRITEPROTECT."""
        self._writeprotect(uf.UFFDIO_WRITEPROTECT_MODE_WP)

    def unprotect(self) -> None:
        """The same without MODE_WP."""
        self._writeprotect(0)

    def _writeprotect(self, mode: int) -> None:
        self.calls.uffdio(self.fd, uf.UFFDIO_WRITEPROTECT, uf.UffdioWriteprotect(self._span, mode))

    def collect(self) -> None:
        """PAGEMAP_SCAN that reports and protects."""
        argument = PmScanArg(
            size=96,
            flags=PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
            start=_BASE,
            end=_BASE + self.size,
            category_mask=PAGE_IS_WRITTEN,
            return_mask=PAGE_IS_WRITTEN,
        )
        self.calls.pagemap_scan(self.calls.open_pagemap(None), argument, np.zeros(1, PAGE_REGION))

    def read(self) -> None:
        """A load by the program."""
        self.calls.load(_BASE, 1)

    def write(self) -> None:
        """A store by the program, with the faults that it takes."""
        self.calls.store(_BASE, b"x")

    def drop(self) -> None:
        """MADV_DONTNEED."""
        self.calls.madvise(_BASE, self.size, mman.MADV_DONTNEED)

    def page_out(self) -> None:
        """MADV_PAGEOUT."""
        self.calls.madvise(_BASE, self.size, mman.MADV_PAGEOUT)

    @property
    def state(self) -> str:
        """The entry without what does not matter here: which frame, and the processor's own bits."""
        entry = self.calls.mm.table.pte(_BASE)
        name = p.describe(entry).split(",")[0].split(":")[0].replace("PFN", "page")
        return f"{name} + bit" if entry & p.UFFD_WP and not entry & p.MARKER else name


EVENTS: Mapping[str, Callable[[Page], None]] = {
    "read": Page.read,
    "write": Page.write,
    "protect": Page.protect,
    "un-protect": Page.unprotect,
    "collect": Page.collect,
    "drop": Page.drop,
    "page out": Page.page_out,
}


def transitions(flags: int) -> dict[str, dict[str, str]]:
    """State -> event -> state, of everything that can be reached from an empty entry."""
    paths: dict[str, list[str]] = {Page(flags).state: []}
    found: dict[str, dict[str, str]] = {}
    while waiting := [state for state in paths if state not in found]:
        state = waiting[0]
        found[state] = {}
        for event in EVENTS:
            page = Page(flags)
            for each in [*paths[state], event]:
                EVENTS[each](page)
            found[state][event] = page.state
            paths.setdefault(page.state, [*paths[state], event])
    return found


def states(flags: int) -> str:
    """The same as a table and as a diagram."""
    found = transitions(flags)
    rows = [
        [f"**{state}**", *("·" if after == state else after for after in row.values())]
        for state, row in sorted(found.items())
    ]
    return _table(["", *EVENTS], rows) + "\n\n" + diagram(found)


def diagram(found: Mapping[str, Mapping[str, str]]) -> str:
    """Arrows between states, those of one pair together; what leaves a state as it is has none."""
    names = {state: re.sub(r"\W+", "_", state) for state in sorted(found)}
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {names['none']}"]
    lines += [f'    state "{state}" as {name}' for state, name in names.items() if state != name]
    arrows: dict[tuple[str, str], list[str]] = {}
    for state in sorted(found):
        for event, after in found[state].items():
            if after != state:
                arrows.setdefault((names[state], names[after]), []).append(event)
    lines += [f"    {start} --> {end}: {', '.join(events)}" for (start, end), events in arrows.items()]
    return "\n".join([*lines, "```"])


# ---- the file ------------------------------------------------------------------------------------

DRAWINGS: Mapping[str, Callable[[], str]] = {
    "rules": rules,
    "anonymous": lambda: states(mman.MAP_PRIVATE),
    "shmem": lambda: states(mman.MAP_SHARED),
}


def drawn(text: str) -> str:
    """A README with every drawing made anew."""

    def renew(found: re.Match[str]) -> str:
        return f"{found[1]}\n\n{DRAWINGS[found[2]]()}\n\n{found[3]}"

    return re.sub(r"(<!-- drawn: (\w+) -->).*?(<!-- end -->)", renew, text, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(drawn(README.read_text(encoding="utf-8")), encoding="utf-8")

"""One run: the steps of a plan, in order, each filling in its part of the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

from benchmarks import budgets
from benchmarks.backends import BACKENDS, BackendCost, backend_cost
from benchmarks.budgets import Budget
from benchmarks.footprint import PATTERNS, Footprint, footprint
from benchmarks.imports import ImportCost, import_cost
from benchmarks.many_buffers import LAYOUTS, ManyBuffers, many_buffers
from benchmarks.plan import Plan
from benchmarks.rewriting import Rewriting, rewriting
from writewatch.errors import KernelUnsupportedError
from writewatch.observe.benchmark.collecting import (
    ASYNC,
    Comparison,
    Workload,
    backend_here,
    compare_collect,
    compare_is_clean,
    why_no_c,
)
from writewatch.observe.benchmark.content import HASH_WHOLE, BruteForce, brute_force
from writewatch.observe.benchmark.machine import Machine
from writewatch.observe.benchmark.memory import allocate, available_bytes, huge_share
from writewatch.observe.benchmark.peers import Peers, PeersUnavailable, build
from writewatch.observe.benchmark.writes import FirstWrite, first_writes


@dataclass(slots=True)
class Results:
    """Everything that a run found; parts stay empty where they cannot be measured, and a note says why."""

    machine: Machine
    backend: str
    budgets: list[Budget] = field(default_factory=list)
    is_clean: list[Comparison] = field(default_factory=list)
    collects: list[Comparison] = field(default_factory=list)
    brute_force: tuple[BruteForce, ...] = ()
    first_writes_random: tuple[FirstWrite, ...] = ()
    first_writes_contiguous: tuple[FirstWrite, ...] = ()
    rewriting: list[Rewriting] = field(default_factory=list)
    many_buffers: list[ManyBuffers] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)
    imports: list[ImportCost] = field(default_factory=list)
    backends: list[BackendCost] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Run:
    """A plan on this machine."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        backend, reason = backend_here()
        self.results = Results(Machine.here(), backend, notes=[plan.note] if plan.note else [])
        self._peers = self._build_peers()
        self._followers = self._peers if backend == ASYNC else None
        if self._peers and not self._followers:
            self._note(why_no_c(backend, reason))

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """What to do, with a name for a progress bar; what a budget is held against comes first."""
        yield "collect, for the budget", self._collect_budget
        yield "is_clean", self._is_clean
        yield "hashing, comparing, copying", self._brute_force
        yield "rewriting everything", self._rewriting
        for layout in LAYOUTS:
            yield f"many small buffers, {layout}", partial(self._many_buffers, layout)
        for pattern in PATTERNS:
            yield f"memory of a tracker, {pattern}", partial(self._footprint, pattern)
        yield "import writewatch", self._imports
        yield "first writes", self._first_writes
        for backend in BACKENDS:
            yield f"backend {backend}", partial(self._backend, backend)
        for cell in self._plan.cells():
            workload = Workload(*cell)
            yield f"collect, {workload.size_bytes >> 20} MiB {workload.kind}", partial(self._cell, workload)
        yield "budgets", self._budgets

    def _build_peers(self) -> Peers | None:
        try:
            return build()
        except PeersUnavailable as reason:
            self._note(str(reason))
            return None

    def _note(self, sentence: str) -> None:
        if sentence not in self.results.notes:
            self.results.notes.append(sentence)

    @cached_property
    def _huge_share(self) -> float:
        return huge_share(self._plan.sizes[0])

    def _fits(self, n_bytes: int, what: str) -> bool:
        if n_bytes <= available_bytes() * 0.8:
            return True
        self._note(f"{what} is skipped: it needs {n_bytes >> 20} MiB of free memory.")
        return False

    # ---- steps -----------------------------------------------------------------------------------

    def _collect_budget(self) -> None:
        workload = Workload(self._plan.budget_bytes, "4k", 0.01, "random")
        if self._fits(workload.size_bytes, "collect, for the budget,"):
            self.results.collects.append(compare_collect(self._followers, workload, self._plan.budget))

    def _is_clean(self) -> None:
        for size in (self._plan.budget_bytes, *self._plan.sizes):
            known = [one.workload.size_bytes for one in self.results.is_clean]
            if size not in known and self._fits(size, f"is_clean of {size >> 20} MiB"):
                self.results.is_clean.append(compare_is_clean(self._followers, size, self._plan.budget))

    def _brute_force(self) -> None:
        size = self._plan.budget_bytes
        if self._fits(2 * size, "looking at all content"):
            self.results.brute_force, notes = brute_force(self._peers, allocate(size, "4k"))
            self.results.notes.extend(notes)

    def _rewriting(self) -> None:
        size = self._plan.rewrite_bytes
        if self._fits(2 * size, "rewriting everything"):
            self.results.rewriting.append(rewriting(size))

    def _many_buffers(self, layout: str) -> None:
        self.results.many_buffers.append(many_buffers(layout, self._plan.n_buffers, effort=self._plan.grid))

    def _footprint(self, pattern: str) -> None:
        size = self._plan.budget_bytes
        if self._fits(size, "memory of a tracker"):
            self.results.footprints.append(footprint(pattern, size))

    def _imports(self) -> None:
        self.results.imports.append(import_cost(self._plan.n_imports))

    def _first_writes(self) -> None:
        if self._peers is None:
            return
        memory = allocate(self._plan.sizes[0], "4k")
        self.results.first_writes_random, notes = first_writes(self._peers, memory, "random")
        self.results.first_writes_contiguous, _ = first_writes(self._peers, memory, "contiguous")
        self.results.notes.extend(notes)

    def _backend(self, name: str) -> None:
        try:
            self.results.backends.append(backend_cost(name, self._plan.backend_bytes, self._plan.grid))
        except KernelUnsupportedError as reason:
            self._note(f"Backend {name} is skipped: {reason}.")

    def _cell(self, workload: Workload) -> None:
        if workload.kind == "thp" and self._huge_share < 0.9:
            self._note(
                f"Huge pages are skipped: {self._huge_share:.0%} of memory came as such; "
                "set /sys/kernel/mm/transparent_hugepage/enabled to madvise."
            )
        elif self._fits(workload.size_bytes, f"collect of {workload.size_bytes >> 20} MiB"):
            self.results.collects.append(compare_collect(self._followers, workload, self._plan.grid))

    def _budgets(self) -> None:
        found = self.results
        if found.collects:
            found.budgets.append(budgets.collect_budget(found.collects[0]))
        hashes = [way.ns for way in found.brute_force if way.name == HASH_WHOLE]
        if found.is_clean:
            found.budgets.extend(budgets.is_clean_budgets(found.is_clean[0], hashes[0] if hashes else None))
        found.budgets.extend(map(budgets.rewriting_budget, found.rewriting))
        found.budgets.extend(map(budgets.many_buffers_budget, found.many_buffers[:1]))
        if found.footprints:
            found.budgets.append(budgets.footprint_budget(found.footprints))
        found.budgets.extend(map(budgets.import_budget, found.imports))

"""The design's promises in numbers, and whether this run kept them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.footprint import Footprint
from benchmarks.imports import ImportCost
from benchmarks.many_buffers import ManyBuffers
from benchmarks.rewriting import Rewriting
from writewatch.observe.benchmark.collecting import Comparison
from writewatch.observe.benchmark.timing import Spread
from writewatch.observe.reporters.bench import size

Verdict = Literal["within", "over", "not measured"]


@dataclass(frozen=True, slots=True)
class Budget:
    """One line of the design.

    Attributes:
        what: Of which operation.
        limit: The budget.
        at_least: Whether the measure has to reach the limit; otherwise it must not pass it.
        unit: Of limit and measure: ``×``, ``%`` or ``s``.
        measured: Median and middle half; None when it could not be measured here.
        remark: What a reader should know; for a missing measure, why.
    """

    what: str
    limit: float
    unit: str
    measured: Spread | None
    at_least: bool = False
    remark: str = ""

    @property
    def verdict(self) -> Verdict:
        """By the median; the spread is for the reader to judge."""
        if self.measured is None:
            return "not measured"
        good = self.measured.median >= self.limit if self.at_least else self.measured.median <= self.limit
        return "within" if good else "over"


def collect_budget(comparison: Comparison) -> Budget:
    """Collect of 1 GiB with 1 % random pages of 4 KiB, beside C."""
    what = f"collect, {size(comparison.workload.size_bytes)}, 1 % random pages / the same in C"
    remark = f"{comparison.read_ratio.median:.2f} × with the regions read" if comparison.read_ratio else ""
    return Budget(what, 1.15, "×", comparison.ratio, remark=remark)


def is_clean_budgets(is_clean: Comparison, hash_ns: Spread | None) -> Iterator[Budget]:
    """is_clean of 1 GiB beside C and beside hashing it."""
    of = size(is_clean.workload.size_bytes)
    yield Budget(f"is_clean, {of} / the same in C", 1.15, "×", is_clean.ratio)
    times = hash_ns.scaled(1 / is_clean.ours_ns.median) if hash_ns else None
    yield Budget(f"XXH3 over {of} / is_clean", 50, "×", times, at_least=True)


def rewriting_budget(result: Rewriting) -> Budget:
    """A program that rewrites everything in each epoch."""
    remark = f"{result.first_ratio:.1f} × in the first epochs"
    return Budget("rewrite everything, tracked / untracked", 1.15, "×", result.ratio, remark=remark)


def footprint_budget(results: Iterable[Footprint]) -> Budget:
    """The pattern that takes most, in % of what is tracked."""
    worst = max(results, key=lambda one: one.share)
    share = Spread.of([100 * worst.share])
    return Budget("memory of a tracker, any pattern", 0.1, "%", share, remark=f"most with: {worst.pattern}")


def import_budget(cost: ImportCost) -> Budget:
    """Import time, and that nothing optional comes along."""
    remark = f"NumPy alone takes {cost.numpy_ns.median / 1e9:.3f} s"
    if cost.optional:
        remark = f"and it loads {', '.join(cost.optional)}, which is over in any case"
        return Budget("import writewatch", 0, "s", cost.writewatch_ns.scaled(1e-9), remark=remark)
    return Budget("import writewatch", 0.15, "s", cost.writewatch_ns.scaled(1e-9), remark=remark)


def many_buffers_budget(result: ManyBuffers) -> Budget:
    """Collect over many small arrays beside one of their total size."""
    what = f"collect, {result.n_buffers:,} arrays of {result.buffer_bytes >> 10} KiB / one buffer"
    return Budget(what, 3, "×", result.ratio)

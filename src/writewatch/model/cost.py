"""What a run would have cost on Linux: measured prices times what the model counted.

The prices are medians measured on one machine (Linux 6.18.44, an AMD EPYC of 2 virtual CPUs, 4 KiB pages); trust
their ratios, not their values. They are data: ``Prices`` may be replaced by those of another machine.

A tracker pays in three places: when a page is written first in an epoch, when the written pages are asked for, and when
they are protected again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from writewatch.model.counters import Counters

Method: TypeAlias = Literal["async", "sync", "soft-dirty", "mprotect"]
METHODS: Final[tuple[Method, ...]] = ("async", "sync", "soft-dirty", "mprotect")


@dataclass(frozen=True, slots=True)
class Prices:
    """Nanoseconds of one method.

    Attributes:
        fault: First write to a protected page that is present.
        marker_fault: First write to a protected page that is not: filled by one fault, resolved by another.
        scan_page: Walking over one page that is not written.
        report_page: Reporting one written page and protecting it again.
        call: Entering the kernel and coming back.
    """

    fault: float
    marker_fault: float
    scan_page: float
    report_page: float
    call: float


#: Measured on 1 GiB of 4 KiB pages: a first write takes 0.88 us asynchronously, 31 to 61 us with a handler in another
#: thread, 4.4 to 9.6 us with SIGSEGV; a scan that finds nothing 0.4 ms, one that reports 1 % at random and protects
#: it again 0.88 ms. Soft-dirty could not be measured there: its fault is taken as the asynchronous one, asking as
#: reading pagemap (8 to 15 ms) and protecting everything (16 ms), both of which were measured.
PRICES: Final[dict[Method, Prices]] = {
    "async": Prices(fault=880, marker_fault=1_760, scan_page=1.5, report_page=180, call=500),
    "sync": Prices(fault=46_000, marker_fault=46_880, scan_page=1.5, report_page=180, call=500),
    "soft-dirty": Prices(fault=880, marker_fault=880, scan_page=105, report_page=0, call=1_000),
    "mprotect": Prices(fault=7_000, marker_fault=7_000, scan_page=0, report_page=400, call=500),
}


@dataclass(frozen=True, slots=True)
class Work:
    """What happened while memory was tracked.

    Attributes:
        pages: Tracked pages.
        present_faults: First writes to protected pages that were present.
        marker_faults: First writes to protected pages that were not.
        reported: Pages reported as written, over all collections.
        collections: How often was asked.
    """

    pages: int
    present_faults: int
    marker_faults: int
    reported: int
    collections: int


def cost_ns(work: Work, method: Method, prices: dict[Method, Prices] | None = None) -> float:
    """Nanoseconds that tracking takes with a method, the program's own work not counted."""
    price = (prices or PRICES)[method]
    faults = work.present_faults * price.fault + work.marker_faults * price.marker_fault
    asking = work.collections * (price.call + work.pages * price.scan_page)
    return faults + asking + work.reported * price.report_page


def compare(work: Work, prices: dict[Method, Prices] | None = None) -> dict[Method, float]:
    """``cost_ns`` of every method."""
    return {method: cost_ns(work, method, prices) for method in METHODS}


def work_of(counters: Counters, *, pages: int, reported: int, collections: int) -> Work:
    """What a run on the model amounts to; the asynchronous faults are the model's count.

    Args:
        counters: Of the machine, since tracking began.
        pages: Tracked pages.
        reported: Pages reported, over all collections.
        collections: How often was asked.
    """
    resolved = counters.faults["wp-async"]
    filled = min(counters.events["marker-filled"], resolved)
    return Work(pages, resolved - filled, filled, reported, collections)

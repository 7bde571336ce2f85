"""How often to look, so that watching costs the target no more than was allowed.

Arithmetic on numbers that are passed in; no clock is read here. A page that is written for the first time since the
last look costs the program one fault of Linux's, 1.25 µs, and a look costs a walk over its page tables. So with F
such pages in an epoch, its share of one core is ``(F × fault + walk) / period``, and the period that keeps the
share is

    period = max(wanted, (F × fault + walk) / share)

F is the larger of the last epoch's and a mean over some epochs: one quiet epoch does not shorten the period again. A
burst, and the first epoch, of which nothing is known beforehand, are found when the epoch would end: what was
written so far is counted, which protects nothing and so costs the program nothing, and a look that would break the
budget is put off. The mean is over what the same memory would cost however long the epoch is; a
program that writes ever new memory pays nothing for us, since pages that were not there are not protected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from writewatch.errors import UsageError

#: What an asynchronous write-protect fault costs, in nanoseconds; measured on Linux 6.18 at 3 GHz.
FAULT_NS: Final = 1250
#: Weight of the latest epoch in the means.
_LATEST: Final = 0.3
#: No epoch is made longer than this by the budget alone: a day without news helps nobody.
_LONGEST_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What an epoch cost, as the budget saw it.

    Attributes:
        elapsed_s: Its length.
        n_faults: First writes to protected pages.
        scan_s: The walk.
        share: Of one core.
    """

    elapsed_s: float
    n_faults: int
    scan_s: float
    share: float


class Budget:
    """Keeps watching below a share of one core.

    Args:
        share: Above 0, at most 1; 0.05 is 5 % of one core. None: no limit, the wanted period is kept.
        fault_ns: What one fault costs.

    Attributes:
        stretch: At least 1; every period is so much longer. The tracker raises it where its mappings run out.
        latest: Of the last epoch; None before the first.
    """

    def __init__(self, share: float | None = 0.05, *, fault_ns: float = FAULT_NS) -> None:
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"budget is {share}; give a share of one core above 0 and up to 1, such as 0.05")
        self.share = share
        self.stretch = 1.0
        self.latest: Cost | None = None
        self._fault_s = fault_ns / 1e9
        self._mean_s = 0.0  # seconds that an epoch costs
        self._mean_share = 0.0

    def observe(self, elapsed_s: float, n_faults: int, scan_s: float) -> None:
        """Take in what an epoch cost.

        Args:
            elapsed_s: Its length.
            n_faults: First writes to protected pages in it.
            scan_s: How long the walk took.
        """
        cost_s = n_faults * self._fault_s + scan_s
        share = cost_s / elapsed_s if elapsed_s > 0 else 0.0
        weight = 1.0 if self.latest is None else _LATEST
        self._mean_s += weight * (cost_s - self._mean_s)
        self._mean_share += weight * (share - self._mean_share)
        self.latest = Cost(elapsed_s, n_faults, scan_s, share)

    def period_s(self, wanted: float) -> float:
        """Seconds from one collect to the next: what was wanted, or more.

        Args:
            wanted: Seconds; above 0.
        """
        if not (wanted > 0 and math.isfinite(wanted)):
            raise UsageError(f"interval is {wanted} seconds; give a number above 0")
        needed = 0.0
        if self.share is not None and self.latest is not None:
            last_s = self.latest.n_faults * self._fault_s + self.latest.scan_s
            needed = min(max(last_s, self._mean_s) / self.share, _LONGEST_S)
        return max(wanted, needed) * self.stretch

    def put_off_s(self, elapsed_s: float, n_faults: int) -> float:
        """Seconds by which to put a look off that is due.

        Args:
            elapsed_s: Since the last one.
            n_faults: First writes to protected pages since then.
        """
        if self.share is None:
            return 0.0
        scan_s = 0.0 if self.latest is None else self.latest.scan_s
        needed = (n_faults * self._fault_s + scan_s) / self.share * self.stretch
        return max(0.0, min(needed, _LONGEST_S) - elapsed_s)

    @property
    def cost_share(self) -> float:
        """Estimated share of one core that watching costs; a mean over the last epochs."""
        return self._mean_share

    def __repr__(self) -> str:
        limit = "none" if self.share is None else f"{self.share:.1%}"
        return f"<Budget {limit} of one core, now about {self.cost_share:.1%}>"

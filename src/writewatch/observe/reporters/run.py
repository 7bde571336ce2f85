"""The lines of ``writewatch run``: one an interval, with what all the processes wrote.

They stand among those of the program, so they begin with ``ww`` and fit into one width. A count that may be
too large, because pages were reported without the kernel's word, has a ``≤`` before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from writewatch.observe.reporters.units import count_text, rate_text, share_text, shortened
from writewatch.observe.watch.figures import span_s
from writewatch.tracker.process.writes import ProcessWrites

#: Characters of a line.
WIDTH: Final = 80
_PREFIX: Final = "ww"
_LINE: Final = "{:>9} {:>10} {:>10} {:>7}  {}"
#: What is left for the last column: those before it, with what separates them, take 41.
_MOSTLY: Final = WIDTH - len(_PREFIX) - 41


def heading_line() -> str:
    """Above the lines."""
    return _line("time", "pages", "rate", "cost", "mostly")


def epoch_line(round_: Sequence[ProcessWrites], elapsed_s: float, cost_share: float) -> str:
    """One round of collects in one line of ``WIDTH`` characters at most.

    Args:
        round_: Of all processes watched, at least one.
        elapsed_s: Since watching began.
        cost_share: What watching costs the processes, as a share of one core.
    """
    n_pages = sum(writes.n_pages for writes in round_)
    doubt = "" if all(is_exact(writes) for writes in round_) else "≤"
    rate = sum(writes.n_bytes for writes in round_) / span_s(round_)
    return _line(
        f"{elapsed_s:.1f} s",
        doubt + count_text(n_pages),
        rate_text(rate),
        share_text(cost_share),
        _mostly(round_),
    )


def is_exact(writes: ProcessWrites) -> bool:
    """Whether every page of an epoch was written, by the kernel's word."""
    return writes.exact and not len(writes.assumed)


def _line(time: str, pages: str, rate: str, cost: str, mostly: str) -> str:
    return _PREFIX + _LINE.format(time, pages, rate, cost, mostly)


def _mostly(round_: Sequence[ProcessWrites]) -> str:
    """The mapping that was written most, and its share; of several processes also whose it is."""
    parts = [(part, writes) for writes in round_ for part in writes.by_mapping()[:1]]
    if not parts:
        return ""
    part, writes = max(parts, key=lambda pair: pair[0].n_pages)
    share = share_text(part.n_pages / sum(writes.n_pages for writes in round_))
    whose = f"{writes.command}: " if len(round_) > 1 else ""
    return f"{shortened(whose + part.mapping.name, _MOSTLY - len(share) - 1)} {share}"

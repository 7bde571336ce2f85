"""What every way of finding written pages offers: the ``Backend`` protocol, in page numbers.

A backend knows nothing of buffers, consumers or epochs. It is told which pages are wanted, and is asked, a unit
at a time, which of them were written since it was last asked. ``tracker/ledger.py`` owns it, calls it
under one lock, and keeps what it reported until somebody collects it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from writewatch.errors import KernelUnsupportedError
from writewatch.pages import Runs, no_runs


class Harvest:
    """What a backend says of one unit. A value: its arrays are read-only.

    Attributes:
        assumed: Page runs that the backend cannot vouch for and that therefore count as written.
        exact: Whether every page in ``written`` was really written.
        regions: The same pages as the kernel's own regions, where they need not be worked out; it gives None where
            they have to be.
        notices: What the user has to be told: sentences as ``TrackingLostWarning``, warnings as what they are.
    """

    __slots__ = ("_find", "_written", "assumed", "exact", "notices", "regions")

    def __init__(
        self,
        written: Runs | None = None,
        assumed: Runs | None = None,
        exact: bool = True,
        notices: tuple[str | Warning, ...] = (),
    ) -> None:
        self._written: Runs | None = _NOTHING if written is None else _frozen(written)
        self._find: Callable[[], Runs] | None = None
        self.regions: Callable[[], NDArray[np.void] | None] = _no_regions
        self.assumed = _NOTHING if assumed is None else _frozen(assumed)
        self.exact = exact
        self.notices = notices

    @classmethod
    def of(
        cls, find: Callable[[], Runs], regions: Callable[[], NDArray[np.void] | None], *, exact: bool
    ) -> Self:
        """A harvest whose written pages are worked out when they are asked for, by functions that cannot fail."""
        self = cls(exact=exact)
        self._written, self._find, self.regions = None, find, regions
        return self

    @property
    def written(self) -> Runs:
        """Page runs that were written, as far as the backend knows, ascending and disjoint; two may touch.

        May hold pages that nobody wanted.
        """
        if self._written is None:
            assert self._find is not None
            self._written = _frozen(self._find())
        return self._written


def _no_regions() -> None:
    return None


def _frozen(runs: Runs) -> Runs:
    runs.flags.writeable = False
    return runs


_NOTHING: Final = _frozen(no_runs())


class RangeRefusedError(KernelUnsupportedError):
    """This backend cannot track this memory, although it works here; another one may."""


class Backend(Protocol):
    """One way of finding written pages. Not thread-safe: the ledger's lock is held around every call."""

    @property
    def name(self) -> str:
        """As in ``track(…, backend=name)``."""
        ...

    def adjust(self, wanted: Runs) -> None:
        """Track exactly these pages from now on.

        Pages that are new start clean: what was written before this call is not reported, what is
        written after it is. Pages that stay are not disturbed.

        Raises:
            RangeRefusedError: A new page cannot be tracked. What was tracked before still is.
            OSError: A call failed; what was tracked before still is.
        """
        ...

    def units(self, spans: Runs) -> list[Runs]:
        """The tracked pages that have to be asked for these, in parts that are asked one at a time.

        A part may hold more than was asked for (the rest of a range, or everything where a harvest
        cannot be had in parts).
        """
        ...

    def harvest(self, unit: Runs) -> Harvest:
        """What of a unit was written since it was last harvested; the next harvest starts after this one.

        Raises:
            OSError: Nothing can be said of the unit now. Its report, if there was one, is lost: the
                ledger then counts all of the unit as written.
        """
        ...

    def has_written(self, spans: Runs) -> bool:
        """Whether any of these pages was written since it was harvested; changes nothing.

        True as well where the backend would only assume so.
        """
        ...

    def abandon(self) -> None:
        """In a forked child: close what was inherited, and touch nothing else. The parent goes on tracking."""
        ...

    def close(self) -> None:
        """Stop tracking and give back every descriptor, mapping and process. A second call does nothing."""
        ...

"""The backend that always works: everything is assumed written, always. For small or wholly rewritten state."""

from __future__ import annotations

from writewatch.pages import Runs
from writewatch.tracker.backend import Harvest


class EveryPage:
    """Reports every page, every time, as assumed."""

    name = "every-page"

    def adjust(self, wanted: Runs) -> None:
        """Nothing has to be prepared."""

    def units(self, spans: Runs) -> list[Runs]:
        """What was asked, in one part."""
        return [spans]

    def harvest(self, unit: Runs) -> Harvest:
        """All of it, assumed."""
        return Harvest(assumed=unit, exact=False)

    def has_written(self, spans: Runs) -> bool:
        """For all it knows, yes."""
        return bool(len(spans))

    def abandon(self) -> None:
        """Nothing was inherited."""

    def close(self) -> None:
        """Nothing is held."""

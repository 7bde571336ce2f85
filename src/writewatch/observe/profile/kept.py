"""``Kept``: all epochs of a profile in bounded memory; too many, and neighbours become one, twice as long."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from writewatch.pages import difference, union
from writewatch.tracker.process.writes import ProcessWrites

MOST_EPOCHS: Final = 4096
#: Of 16 bytes.
MOST_RUNS: Final = 1 << 20


@dataclass
class Kept:
    """Epochs, oldest first.

    Attributes:
        interval_s: Seconds of the next one.
        epochs: What is kept.
    """

    interval_s: float
    epochs: list[ProcessWrites] = field(default_factory=list)
    _n_runs: int = 0

    def add(self, writes: ProcessWrites) -> None:
        """One more."""
        before = self.epochs[-1] if self.epochs else None
        if before is not None and before.mappings == writes.mappings:
            writes = replace(writes, mappings=before.mappings)  # held once, pickled once
        self.epochs.append(writes)
        self._n_runs += len(writes.page_runs)
        if len(self.epochs) > MOST_EPOCHS or (self._n_runs > MOST_RUNS and len(self.epochs) > 1):
            self._halve()

    def _halve(self) -> None:
        pairs = zip(self.epochs[::2], self.epochs[1::2], strict=False)
        self.epochs = [merged(*pair) for pair in pairs] + self.epochs[len(self.epochs) & ~1 :]
        self._n_runs = sum(len(one.page_runs) for one in self.epochs)
        self.interval_s *= 2


def merged(first: ProcessWrites, second: ProcessWrites) -> ProcessWrites:
    """Two neighbouring epochs as one: what one has seen and the other assumes counts as seen."""
    written = union(first.written, second.written)
    assumed = difference(union(first.assumed, second.assumed), written)
    return replace(
        second,
        epoch=first.epoch,
        started_ns=first.started_ns,
        written=written,
        assumed=assumed,
        discarded=difference(union(first.discarded, second.discarded), union(written, assumed)),
        exact=first.exact and second.exact,
        notes=tuple(dict.fromkeys((*first.notes, *second.notes))),
    )

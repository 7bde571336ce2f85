"""``Tally``: the figures of a recording that is under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from writewatch.tracker.process.writes import ProcessWrites


@dataclass(slots=True)
class Tally:
    """What was recorded so far.

    Attributes:
        n_rounds: Rounds of collects.
        n_pages, n_bytes: Reported as written, a page counted in each epoch that wrote it.
        exact: Whether every page reported was written.
        pids: Processes, in the order of their appearance, with their names.
    """

    n_rounds: int = 0
    n_pages: int = 0
    n_bytes: int = 0
    exact: bool = True
    pids: dict[int, str] = field(default_factory=dict)
    _from_ns: int | None = None
    _to_ns: int = 0

    def add(self, writes: Sequence[ProcessWrites]) -> None:
        """One round."""
        self.n_rounds += bool(writes)
        for one in writes:
            self._from_ns = one.started_ns if self._from_ns is None else self._from_ns
            self._to_ns = max(self._to_ns, one.ended_ns)
            self.n_pages += one.n_pages
            self.n_bytes += one.n_bytes
            self.exact &= one.exact and not len(one.assumed)
            self.pids[one.pid] = one.command

    @property
    def seconds(self) -> float:
        """From the beginning of the first epoch to the end of the last."""
        return 0.0 if self._from_ns is None else (self._to_ns - self._from_ns) / 1e9

"""``Columns``: the time axis of a report. One column an epoch, or several epochs when there are too many.

The columns follow the epochs of the process that has the most; an epoch of another one belongs to every
column that it spans by more than a sliver, so that a collect that came some milliseconds later does not
smear over two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.trace.blocks import Records

MOST_COLUMNS: Final = 1200
#: A quarter of an epoch, and half a column, may stick out into a neighbour.
_SLIVER: Final = 0.25


@dataclass(frozen=True, slots=True)
class Columns:
    """The time axis.

    Attributes:
        edges_ns: (n + 1,) ascending.
        epochs_each: Epochs in a column, at most.
    """

    edges_ns: NDArray[np.int64]
    epochs_each: int

    def __len__(self) -> int:
        return len(self.edges_ns) - 1

    @property
    def lengths_s(self) -> NDArray[np.float64]:
        """Of each."""
        lengths: NDArray[np.float64] = np.diff(self.edges_ns) / 1e9
        return lengths

    def of(self, epochs: Records) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first and the last column of each epoch."""
        lengths = epochs["to_ns"] - epochs["from_ns"]
        widths = np.median(np.diff(self.edges_ns)) if len(self) else 0
        inset = np.minimum(lengths * _SLIVER, widths / 2)
        first = np.searchsorted(self.edges_ns, epochs["from_ns"] + inset, side="right") - 1
        last = np.searchsorted(self.edges_ns, epochs["to_ns"] - inset, side="left") - 1
        first = np.clip(first, 0, len(self) - 1)
        return first, np.clip(np.maximum(last, first), 0, len(self) - 1)


def make_columns(epochs: Records) -> Columns:
    """The columns of at least one epoch."""
    counts = np.unique(epochs["pid"], return_counts=True)
    own = epochs[epochs["pid"] == counts[0][np.argmax(counts[1])]]
    each = -(-len(own) // MOST_COLUMNS)
    ends = np.unique(own["to_ns"])
    inner = ends[each - 1 : -1 : each] if len(ends) > 1 else ends[:0]
    edges = np.concatenate(([epochs["from_ns"].min()], inner, [epochs["to_ns"].max()]))
    edges = np.unique(edges)
    if len(edges) == 1:  # an epoch of no length
        edges = np.append(edges, edges[-1] + 1)
    return Columns(edges.astype(np.int64), each)

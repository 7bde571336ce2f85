"""``Stretches``: epochs to take rates of.

An epoch of a moment, such as the one that ends a recording, is counted together with the one before it: every page
counts once an epoch, so of a moment few pages are a huge rate.

Only neighbours in one block are joined; a block begins with an epoch that stands for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.trace.blocks import Records
from writewatch.observe.watch.account import TOO_SHORT


@dataclass(frozen=True, slots=True)
class Stretches:
    """Of the epochs of one block.

    Attributes:
        of_epoch: (n_epochs,) the stretch that each epoch is part of.
        seconds: (n_stretches,) how long each lasts.
    """

    of_epoch: NDArray[np.int64]
    seconds: NDArray[np.float64]

    def rates(self, amounts: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_stretches,) amounts a second, of (n_epochs,) amounts."""
        sums = np.bincount(self.of_epoch, weights=amounts, minlength=len(self.seconds))
        rates: NDArray[np.float64] = sums / self.seconds
        return rates


def stretches_of(epochs: Records) -> Stretches:
    """The stretches of at least one epoch, of any programs in any order."""
    order = np.lexsort((epochs["from_ns"], epochs["program"], epochs["pid"]))
    ordered = epochs[order]
    seconds = np.maximum((ordered["to_ns"] - ordered["from_ns"]) / 1e9, 1e-9)
    periods = seconds / ordered["n_epochs"]  # merged epochs are long, which makes those after them no moments
    joins = np.zeros(len(epochs), np.bool_)
    joins[1:] = periods[1:] < TOO_SHORT * periods[:-1]
    for name in ("pid", "program"):
        joins[1:] &= ordered[name][1:] == ordered[name][:-1]
    numbers = np.cumsum(~joins) - 1
    of_epoch = np.empty(len(epochs), np.int64)
    of_epoch[order] = numbers
    lengths_s = np.bincount(numbers, weights=seconds).astype(np.float64)
    return Stretches(of_epoch, lengths_s)


def without_moments(rates: NDArray[np.float64], lengths_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) rates that followed each other, each for so long; in a moment and what was before it, the mean of both."""
    joins = np.zeros(len(rates), np.bool_)
    joins[1:] = lengths_s[1:] < TOO_SHORT * lengths_s[:-1]
    numbers = np.cumsum(~joins) - 1
    means = np.bincount(numbers, weights=rates * lengths_s) / np.bincount(numbers, weights=lengths_s)
    found: NDArray[np.float64] = np.where(np.bincount(numbers)[numbers] > 1, means[numbers], rates)
    return found

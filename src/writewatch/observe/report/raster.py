"""The heatmap as a grid of shares: what was written of each cell's pages, on average over its time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.report.axis import Axis
from writewatch.observe.report.findings import Findings

Grid = NDArray[np.float64]


def raster(findings: Findings, width: int, height: int) -> Grid:
    """(height, width) shares from 0 to 1; the first row is the highest address, the first column the earliest time."""
    profile = _profile(findings, height)
    edges = findings.columns.edges_ns.astype(np.float64)
    lengths = np.diff(edges)
    until = np.vstack([np.zeros(height), np.cumsum(profile * lengths[:, np.newaxis], axis=0)])
    cells = np.linspace(edges[0], edges[-1], width + 1)
    at = np.clip(np.searchsorted(edges, cells, side="right") - 1, 0, len(lengths) - 1)
    part = (cells - edges[at]) / lengths[at]
    sums = until[at] + part[:, np.newaxis] * (until[at + 1] - until[at])
    shares = np.diff(sums, axis=0) / (cells[1] - cells[0])
    # Rounding must not hide the least write, nor invent one.
    return np.clip(np.where(shares > 1e-12, shares, 0.0), 0.0, 1.0).T[::-1]


def heights(axis: Axis, places: NDArray[np.int64], bands: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where places are on the picture, from 0 at the bottom to 1, each in the band that is given."""
    weights = axis.weights()
    below = np.cumsum(weights) - weights
    starts = np.array([band.place for band in axis.bands])
    sizes = np.array([band.n_pages for band in axis.bands])
    at: NDArray[np.float64] = below[bands] + weights[bands] * (places - starts[bands]) / sizes[bands]
    return at


def _profile(findings: Findings, height: int) -> Grid:
    """(n_columns, height) the share of each cell that was written, from the lowest address."""
    ranges = findings.ranges
    n = len(findings.columns)
    low, high = (
        np.clip(heights(findings.axis, ranges[name], ranges["mapping"]) * height, 0, height)
        for name in ("start", "end")
    )
    fill = ranges["reported"] / (ranges["end"] - ranges["start"])
    first = np.minimum(low.astype(np.int64), height - 1)
    last = np.minimum(high.astype(np.int64), height - 1)
    grid = np.zeros((n, height))
    column = ranges["epoch"]
    within = first == last
    np.add.at(grid, (column[within], first[within]), ((high - low) * fill)[within])
    across = ~within
    np.add.at(grid, (column[across], first[across]), ((first + 1 - low) * fill)[across])
    np.add.at(grid, (column[across], last[across]), ((high - last) * fill)[across])
    steps = np.zeros((n, height + 1))
    np.add.at(steps, (column[across], first[across] + 1), fill[across])
    np.add.at(steps, (column[across], last[across]), -fill[across])
    return grid + np.cumsum(steps, axis=1)[:, :height]

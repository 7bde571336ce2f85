"""What the page's script draws from: the axes as JSON, and the ranges of all columns as packed bytes.

Packed are three lists, one after the other: of each range, column by column, the places between it and the
one before in its column; its length; and how much of it was written, from 1 to 255 for all. A number takes
seven bits a byte, the lowest first, the top bit set on all but the last. The whole is compressed as zlib
does.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.report.axis import Band
from writewatch.observe.report.findings import Findings, band_label


def axes(findings: Findings) -> dict[str, Any]:
    """Bands and columns."""
    commands = {(one.pid, one.program): one.command for one in findings.processes}
    weights = findings.axis.weights()
    edges = (findings.columns.edges_ns - findings.columns.edges_ns[0]) / 1e9
    counts = np.bincount(findings.ranges["epoch"], minlength=len(findings.columns))
    return {
        "pageSize": findings.meta.page_size,
        "edges": [round(edge, 6) for edge in edges.tolist()],
        "counts": counts.tolist(),
        "rates": [round(rate) for rate in findings.rates.tolist()],
        "bands": [
            {
                "name": band.name,
                "label": band_label(findings, band),
                "kind": band.kind,
                "pid": band.program[0],
                "process": commands[band.program],
                "weight": round(float(weight), 9),
                "pieces": _pieces(band),
            }
            for band, weight in zip(findings.axis.bands, weights, strict=True)
        ],
    }


def _pieces(band: Band) -> list[tuple[Any, ...]]:
    """First page and number of pages of each; and the name of its mapping, in a band of several."""
    pieces = [(start, end - start) for start, end in band.pieces.tolist()]
    if not band.piece_names:
        return list(pieces)
    return [(*piece, name) for piece, name in zip(pieces, band.piece_names, strict=True)]


def packed_ranges(findings: Findings) -> str:
    """The ranges, in base64."""
    ranges = findings.ranges
    lengths = ranges["end"] - ranges["start"]
    before = np.zeros(len(ranges), np.int64)
    before[1:] = np.where(ranges["epoch"][1:] == ranges["epoch"][:-1], ranges["end"][:-1], 0)
    fills = np.maximum(1, ranges["reported"] * 255 // lengths)
    stream = b"".join(packed(numbers) for numbers in (ranges["start"] - before, lengths, fills))
    return base64.b64encode(zlib.compress(stream, 9)).decode()


def packed(numbers: NDArray[np.int64]) -> bytes:
    """Numbers of 0 and more, seven bits a byte."""
    n_bytes = np.ones(len(numbers), np.int64)
    for bits in range(7, 63, 7):
        n_bytes += numbers >= 1 << bits
    out = np.zeros(int(n_bytes.sum()), np.uint8)
    at = np.cumsum(n_bytes) - n_bytes
    for number in range(int(n_bytes.max(initial=0))):
        has = n_bytes > number
        more = n_bytes[has] > number + 1
        out[at[has] + number] = (numbers[has] >> 7 * number & 127) | more.astype(np.int64) << 7
    return out.tobytes()

"""The heatmap as PNG or SVG, by matplotlib: for papers and slides.

Colour does not carry it alone: the rate over time stands above, and what each mapping wrote beside its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from writewatch.errors import TraceError
from writewatch.observe.report.findings import Findings, band_label
from writewatch.observe.report.palette import LEAST_SHARE, PAPER, levels, palette
from writewatch.observe.report.raster import raster
from writewatch.observe.report.scales import byte_ticks, length_text, time_ticks
from writewatch.observe.reporters.units import rate_text, shortened, size_text

_INK: Final = "#18202b"
_SOFT: Final = "#566173"
_LINE: Final = "#dde1e7"
_ACCENT: Final = "#1f6fb2"
# Fewer than the picture has there: a row or column that is left out might be the one that was written.
_WIDTH, _HEIGHT = 1100, 640
#: A name is left out where it would run into another.
_LEAST_APART: Final = 0.032


def draw(findings: Findings, path: Path, kind: str) -> None:
    """Write the picture.

    Args:
        findings: What to show.
        path: The file.
        kind: ``png`` or ``svg``.

    Raises:
        TraceError: matplotlib is missing, or nothing was written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TraceError(
            'pictures need matplotlib; install it with: pip install "writewatch[plot]"'
        ) from error
    if not findings.axis.bands:
        raise TraceError("nothing was written in this trace, so there is no picture of it")
    style: dict[Any, Any] = {
        "font.size": 9,
        "svg.fonttype": "none",
        "text.color": _INK,
        "axes.edgecolor": _SOFT,
    }
    with rc_context(style):
        # Not pyplot: it would look for a screen.
        figure = Figure(figsize=(11, 6.8), dpi=150, facecolor="white")
        above, heat, bar = _layout(figure)
        _rates(above, findings)
        _heat(heat, findings)
        _scale(bar)
        figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)


def _layout(figure: Any) -> tuple[Any, Any, Any]:
    """The rate above, the heatmap below it, the scale of colours at the bottom."""
    left, width = 0.19, 0.70
    above = figure.add_axes((left, 0.85, width, 0.09))
    heat = figure.add_axes((left, 0.16, width, 0.655))
    bar = figure.add_axes((left + width - 0.24, 0.065, 0.24, 0.016))
    return above, heat, bar


def _rates(axes: Any, findings: Findings) -> None:
    edges = (findings.columns.edges_ns - findings.columns.edges_ns[0]) / 1e9
    axes.stairs(findings.rates, edges, fill=True, color="#cfe2f3")
    axes.stairs(findings.rates, edges, color=_ACCENT, linewidth=1.1)
    ticks = byte_ticks(float(findings.rates.max(initial=0)), 2)
    axes.set_yticks(ticks, ["0", *(rate_text(tick) for tick in ticks[1:])], color=_SOFT)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, ticks[-1])
    axes.set_xticks([])
    axes.spines[["top", "right"]].set_visible(False)
    title = f"{shortened(findings.meta.target, 70)}: what was written in {length_text(findings.duration_s)}"
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")


def _heat(axes: Any, findings: Findings) -> None:
    seconds = findings.duration_s
    weights = findings.axis.weights()
    tops = np.cumsum(weights)
    axes.imshow(_image(findings, tops), extent=(0, seconds, 0, 1), aspect="auto", interpolation="nearest")
    named = _named(tops - weights / 2, weights)
    names = [shortened(band_label(findings, findings.axis.bands[n]), 32) for n, _ in named]
    axes.set_yticks([middle for _, middle in named], names)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks(*map(list, zip(*time_ticks(seconds), strict=True)), color=_SOFT)
    _written(axes, findings, named)


def _image(findings: Findings, tops: Any) -> Any:
    """Colours; with a line between two mappings where nothing was written, never over a write."""
    found = levels(raster(findings, _WIDTH, _HEIGHT))
    image = palette("light")[found]
    rows = np.clip(np.round((1 - tops[:-1]) * _HEIGHT).astype(int) - 1, 0, _HEIGHT - 1)
    line = [int(_LINE[at : at + 2], 16) for at in (1, 3, 5)]
    image[rows] = np.where(found[rows][:, :, np.newaxis] > 0, image[rows], np.array(line, np.uint8))
    return image


def _named(middles: Any, weights: Any) -> list[tuple[int, float]]:
    """Numbers and middles of bands that have room for a name, the highest bands first."""
    found: list[tuple[int, float]] = []
    for number in np.argsort(weights)[::-1].tolist():
        if all(abs(middles[number] - other) >= _LEAST_APART for _, other in found):
            found.append((number, float(middles[number])))
    return found


def _written(axes: Any, findings: Findings, named: list[tuple[int, float]]) -> None:
    """Beside each name, at the other side, what was written there at all."""
    page = findings.meta.page_size
    twin = axes.secondary_yaxis("right")
    texts = [size_text(findings.axis.bands[n].n_written * page) for n, _ in named]
    twin.set_yticks([middle for _, middle in named], texts, color=_SOFT)
    twin.tick_params(length=0)
    axes.text(1.005, 1.012, "distinct", transform=axes.transAxes, color=_SOFT)


def _scale(axes: Any) -> None:
    colours = palette("light")[1:][np.newaxis]
    axes.imshow(colours, extent=(np.log10(LEAST_SHARE), 0, 0, 1), aspect="auto")
    axes.set_yticks([])
    axes.set_xticks([-3, -2, -1, 0], ["≤ 0.1 %", "1 %", "10 %", "100 %"], color=_SOFT)
    paper = "#" + "".join(f"{part:02x}" for part in PAPER["light"])
    axes.text(-3.15, 0.5, "share of a cell's pages that was written", ha="right", va="center", color=_SOFT)
    axes.set_facecolor(paper)

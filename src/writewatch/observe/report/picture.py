"""The heatmap as PNG or SVG, by matplotlib: for papers and slides.

Colour does not carry it alone: the rate over time stands above, and what each mapping wrote beside its name.
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Any, Final
from warnings import catch_warnings, filterwarnings

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
#: Inches, and the share of the width that is left of the axes, and is theirs.
_SIZE: Final = (11, 6.8)
_LEFT, _ACROSS = 0.21, 0.69
_DPI: Final = 150
_FONT: Final = 9
_TITLE_FONT: Final = 12
#: Points between a name and the axes, or the edge.
_MARGIN: Final = 8
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
        "font.size": _FONT,
        "svg.fonttype": "none",
        "text.color": _INK,
        "axes.edgecolor": _SOFT,
    }
    with rc_context(style), catch_warnings():
        # What the font lacks is a box; SVG has the text itself.
        filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        # Not pyplot: it would look for a screen.
        figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor="white")
        above, heat, bar = _layout(figure)
        _rates(above, findings)
        _heat(heat, findings)
        _scale(bar)
        figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)


def _layout(figure: Any) -> tuple[Any, Any, Any]:
    """The rate above, the heatmap below it, the scale of colours at the bottom."""
    above = figure.add_axes((_LEFT, 0.85, _ACROSS, 0.09))
    heat = figure.add_axes((_LEFT, 0.16, _ACROSS, 0.655))
    bar = figure.add_axes((_LEFT + _ACROSS - 0.24, 0.065, 0.24, 0.016))
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
    said = f": what was written in {length_text(findings.duration_s)}"
    points = (1 - _LEFT) * _SIZE[0] * 72 - _MARGIN - _points(said, _TITLE_FONT, "bold")
    title = _fitting(findings.meta.target, points, _TITLE_FONT, "bold") + said
    axes.set_title(_literal(title), loc="left", fontsize=_TITLE_FONT, fontweight="bold")


def _heat(axes: Any, findings: Findings) -> None:
    seconds = findings.duration_s
    weights = findings.axis.weights()
    tops = np.cumsum(weights)
    axes.imshow(_image(findings, tops), extent=(0, seconds, 0, 1), aspect="auto", interpolation="nearest")
    named = _named(tops - weights / 2, weights)
    points = _LEFT * _SIZE[0] * 72 - 2 * _MARGIN
    names = [
        _literal(_fitting(band_label(findings, findings.axis.bands[n]), points, _FONT)) for n, _ in named
    ]
    axes.set_yticks([middle for _, middle in named], names)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks(*map(list, zip(*time_ticks(seconds), strict=True)), color=_SOFT)
    _written(axes, findings, named)


def _fitting(text: str, points: float, size: int, weight: str = "normal") -> str:
    """As much of a text as has room; letters are not of one width."""
    lengths = range(len(text) + 1)
    too_long = bisect_left(lengths, True, key=lambda n: _points(shortened(text, n), size, weight) > points)
    return shortened(text, too_long - 1)


def _points(text: str, size: int, weight: str) -> float:
    """How wide a text will be."""
    from matplotlib.backends import backend_agg
    from matplotlib.font_manager import FontProperties

    agg: Any = backend_agg  # it has no types
    renderer = agg.RendererAgg(1, 1, _DPI)
    properties = FontProperties(size=size, weight=weight)
    return float(renderer.get_text_width_height_descent(text, properties, ismath=False)[0]) * 72 / _DPI


def _literal(text: str) -> str:
    """Between two dollars matplotlib would see a formula."""
    return text.replace("$", r"\$")


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

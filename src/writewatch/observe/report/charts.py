"""The small charts of the page: shapes as SVG that stretches, words as HTML that does not.

So they fill any width, and letters stay readable on a telephone. Colours are the page's (``page.css``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.report.findings import Findings
from writewatch.observe.report.scales import byte_ticks, length_text, time_ticks
from writewatch.observe.reporters.units import count_text, rate_text, share_text, size_text
from writewatch.observe.trace.windows import Interval

#: A label so far to the right ends where it belongs, rather than have its middle there.
_NEAR_THE_END: Final = 0.96


def rate_chart(findings: Findings) -> str:
    """Bytes a second over time, a step for each column."""
    ticks = byte_ticks(float(findings.rates.max(initial=0)))
    edges = (findings.columns.edges_ns - findings.columns.edges_ns[0]) / 1e9
    x = np.repeat(edges, 2)[1:-1] / edges[-1] * 1000
    y = 1000 - np.repeat(findings.rates, 2) / ticks[-1] * 1000
    line = _path(x, y)
    shapes = f'<path class="area" d="{line}V1000H0Z"/><path class="line" d="{line}"/>'
    times = ((at / edges[-1], text) for at, text in time_ticks(float(edges[-1])))
    alt = (
        f"Rate of writes over {length_text(findings.duration_s)}: {rate_text(findings.mean_rate)} on average, "
        f"at most {rate_text(findings.peak_rate)}."
    )
    return _chart(shapes, _levels(ticks, rate_text), times, alt)


def window_chart(findings: Findings) -> str:
    """Distinct bytes over the length of the window, on average and at most; the figures in a table below."""
    windows = findings.windows
    if not windows:
        return "<p>The trace is too short for it.</p>"
    page = findings.meta.page_size * findings.granule
    ticks = byte_ticks(max(one.most_pages for one in windows) * page)
    low, high = math.log(windows[0].seconds), math.log(windows[-1].seconds)
    x = np.array([(math.log(one.seconds) - low) / (high - low) if high > low else 0.5 for one in windows])
    mean, most = (
        np.array([getattr(one, name) * page / ticks[-1] for one in windows])
        for name in ("mean_pages", "most_pages")
    )
    shapes = "".join(
        f'<path class="line {name}" d="{_path(x * 1000, 1000 - y * 1000)}"/>'
        for name, y in (("most", most), ("mean", mean))
    )
    dots = "".join(
        f'<i class="dot {name}" style="left:{at:.2%};bottom:{level:.2%}"></i>'
        for name, y in (("most", most), ("mean", mean))
        for at, level in zip(x, y, strict=True)
    )
    labels = _apart([(float(at), length_text(one.seconds)) for at, one in zip(x, windows, strict=True)])
    shortest, longest = length_text(windows[0].seconds), length_text(windows[-1].seconds)
    alt = f"Written working set of windows from {shortest} to {longest}."
    key = '<p class="key"><span><i></i>on average</span><span><i class="most"></i>at most</span></p>'
    rows = (
        (length_text(one.seconds), size_text(one.mean_pages * page), size_text(one.most_pages * page))
        for one in windows
    )
    chart = _chart(shapes, _levels(ticks, size_text), labels, alt, dots)
    return key + chart + _details(("window", "on average", "at most"), rows)


def interval_chart(findings: Findings) -> str:
    """How many writes came how long after the one before: a bar for each doubling of the time."""
    intervals = findings.intervals
    writes = sum(one.n_writes for one in intervals)
    if not writes:
        return "<p>No page was written twice.</p>"
    most = max(one.n_writes for one in intervals)
    rows = "".join(
        f'<span>{escape(interval_text(one, number))}</span><b style="width:{one.n_writes / most:.2%}"></b>'
        f"<span>{share_text(one.n_writes / writes)}</span>"
        for number, one in enumerate(intervals)
    )
    again = findings.n_distinct
    return (
        f'<div class="bars">{rows}</div><p class="hint">Of {count_text(writes * findings.granule)} writes of pages '
        f"that had been written before; {count_text(again)} more were the first of their page.</p>"
    )


def interval_text(interval: Interval, number: int) -> str:
    """From when to when."""
    if not number:
        return f"under {length_text(interval.to_s)}"
    return f"{length_text(interval.from_s)} – {length_text(interval.to_s)}"


def sparkline(values: Sequence[float]) -> str:
    """A row of steps without axes, for a table."""
    most = max(values, default=0.0) or 1.0
    n = len(values)
    x = np.repeat(np.arange(n + 1), 2)[1:-1] / n * 1000
    y = 1000 - np.repeat(values, 2) / most * 1000
    return (
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="area" d="{_path(x, y)}V1000H0Z"/><path class="line" d="{_path(x, y)}"/></svg>'
    )


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells that are HTML already."""
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _details(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f"<details><summary>The figures</summary>{table(titles, rows)}</details>"


def _chart(shapes: str, levels: str, times: Iterable[tuple[float, str]], alt: str, above: str = "") -> str:
    labels = "".join(
        f'<span class="x{" last" if at > _NEAR_THE_END else ""}" style="left:{at:.2%}">{escape(text)}</span>'
        for at, text in times
    )
    return (
        f'<div class="chart" role="img" aria-label="{escape(alt)}">{levels}'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">{shapes}</svg>'
        f"{above}{labels}</div>"
    )


def _levels(ticks: Sequence[float], text: object) -> str:
    """Lines across, with what they stand for."""
    assert callable(text)
    return "".join(
        f'<i class="grid" style="bottom:{tick / ticks[-1]:.2%}"></i>'
        f'<span class="y" style="bottom:{tick / ticks[-1]:.2%}">{"0" if not tick else escape(text(tick))}</span>'
        for tick in ticks
    )


def _apart(labels: list[tuple[float, str]], least: float = 0.1) -> list[tuple[float, str]]:
    """Those that do not run into each other; the last one always."""
    kept: list[tuple[float, str]] = labels[-1:]
    for label in reversed(labels[:-1]):
        if kept[-1][0] - label[0] >= least:
            kept.append(label)
    return kept[::-1]


def _path(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))

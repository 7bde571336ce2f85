"""One HTML file with everything in it: style, script, data and pictures; it asks the network for nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from writewatch.observe.report.charts import interval_chart, rate_chart, sparkline, table, window_chart
from writewatch.observe.report.findings import Findings, MappingFigures, band_label, several_processes
from writewatch.observe.report.palette import LEAST_SHARE, PAPER, RAMPS, hex_text, levels, palette
from writewatch.observe.report.payload import axes, packed_ranges
from writewatch.observe.report.png import png
from writewatch.observe.report.raster import raster
from writewatch.observe.report.remarks import remarks
from writewatch.observe.report.scales import length_text, time_ticks
from writewatch.observe.reporters.units import count_text, counted, rate_text, size_text

_STATIC_WIDTH, _STATIC_HEIGHT = 800, 440
_MOST_ROWS = 25
_SCRIPTS = ("data.js", "heatmap.js", "page.js")


def page(findings: Findings) -> str:
    """The file's text."""
    return Template(_file("template.html")).substitute(
        version=escape(findings.meta.recorder),
        title=escape(f"{findings.meta.target}: what was written"),
        style=_file("page.css"),
        ramps=_ramps(),
        target=escape(findings.meta.target),
        facts=_facts(findings),
        warnings="".join(f'<p class="warning">{escape(_sentence(one))}</p>' for one in findings.damage),
        tiles=_tiles(findings),
        heat_lede=_heat_lede(findings),
        static_map=_static_map(findings),
        rate_chart=rate_chart(findings),
        window_chart=window_chart(findings),
        interval_chart=interval_chart(findings),
        mapping_table=_mapping_table(findings),
        notes=f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in remarks(findings))}</ul>",
        footer=_footer(findings),
        axes=_json(axes(findings) | {"palettes": _palettes()}) if findings.axis.bands else "{}",
        ranges=packed_ranges(findings),
        script="\n".join(_file(name) for name in _SCRIPTS) if findings.axis.bands else "",
    )


def _file(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _json(values: Any) -> str:
    # "</script>" in a mapping's name must not end the element.
    return json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


# ---- colours -------------------------------------------------------------------------------------


def _palettes() -> dict[str, Any]:
    return {"leastShare": LEAST_SHARE} | {
        theme: {"ramp": RAMPS[theme], "paper": PAPER[theme]} for theme in RAMPS
    }


def _ramps() -> str:
    light, dark = (
        f"--heat-paper:{hex_text(PAPER[theme])};"
        f"--heat-ramp:linear-gradient(to right,{','.join(map(hex_text, RAMPS[theme]))})"
        for theme in ("light", "dark")
    )
    return (
        f":root{{{light}}}\n"
        f'@media (prefers-color-scheme:dark){{:root:not([data-theme="light"]){{{dark}}}}}\n'
        f':root[data-theme="dark"]{{{dark}}}'
    )


# ---- words ---------------------------------------------------------------------------------------


def _facts(findings: Findings) -> str:
    meta = findings.meta
    state = " and still going on" if findings.is_open else ""
    began = meta.began[:19].replace("T", " ")
    n_processes = len({process.pid for process in findings.processes})
    whose = f" of {count_text(n_processes)} processes" if n_processes > 1 else ""
    return escape(
        f"{length_text(findings.duration_s)} from {began} UTC{state}, {counted(findings.n_epochs, 'epoch')}{whose}, "
        f"{meta.page_size >> 10} KiB pages, Linux {meta.kernel}"
    )


def _tiles(findings: Findings) -> str:
    page_size = findings.meta.page_size
    tiles = (
        (size_text(findings.n_pages * page_size), "written: each page once an epoch"),
        (size_text(findings.n_distinct * page_size), "of distinct pages"),
        (rate_text(findings.mean_rate), "on average"),
        (rate_text(findings.peak_rate), "in the busiest epoch"),
        (count_text(len(findings.mappings)), "mappings written"),
    )
    return "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in tiles)


def _heat_lede(findings: Findings) -> str:
    each = findings.columns.epochs_each
    column = "one epoch" if each == 1 else f"up to {each} epochs"
    return (
        f"Time runs to the right, a column for {column}; addresses run upwards, mapping upon mapping, without the "
        f"gaps between them and without what was never written. The colour is the share of a cell’s pages "
        f"that was written; a cell with a single written page has a colour, too."
    )


def _footer(findings: Findings) -> str:
    return escape(
        f"Recorded by writewatch {findings.meta.recorder}, at most {size_text(findings.meta.max_bytes)}; "
        f"the trace has {size_text(findings.trace_bytes)}."
    )


# ---- the picture without a script ----------------------------------------------------------------


def _static_map(findings: Findings) -> str:
    if not findings.axis.bands:
        return "<p>Nothing was written.</p>"
    grid = levels(raster(findings, _STATIC_WIDTH, _STATIC_HEIGHT))
    light, dark = (
        "data:image/png;base64," + base64.b64encode(png(grid, palette(theme))).decode()
        for theme in ("light", "dark")
    )
    names = "".join(
        f'<span class="name" style="bottom:{at:.2%}">{escape(name)}</span>' for at, name in _names(findings)
    )
    seconds = findings.duration_s
    # Positions are those of the picture, which begins to the right of the names.
    times = "".join(
        f'<span class="time" style="left:calc(var(--from, 0px) + (100% - var(--from, 0px)) * {at / seconds:.4f})">'
        f"{escape(text)}</span>"
        for at, text in time_ticks(seconds)
    )
    return (
        f'<div class="static"><picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="Heatmap of writes: time to the right, addresses upwards."></picture>'
        f"{names}{times}</div>"
    )


def _names(findings: Findings) -> Iterator[tuple[float, str]]:
    """Names of bands at their middle, the highest bands first, as far as they do not cover each other."""
    weights = findings.axis.weights()
    middles = weights.cumsum() - weights / 2
    taken: list[float] = []
    for number in weights.argsort()[::-1].tolist():
        middle = float(middles[number])
        if all(abs(middle - other) > 0.028 for other in taken):
            taken.append(middle)
            yield middle, band_label(findings, findings.axis.bands[number])


# ---- tables --------------------------------------------------------------------------------------


def _mapping_table(findings: Findings) -> str:
    who = ("process",) if several_processes(findings) else ()
    titles = ("mapping", *who, "written", "distinct", "mapped", "mean", "peak", "over time")
    rows = [_mapping_row(findings, one) for one in findings.mappings[:_MOST_ROWS]]
    rest = findings.mappings[_MOST_ROWS:]
    more = ""
    if rest:
        n_bytes = sum(one.n_pages for one in rest) * findings.meta.page_size
        more = f'<p class="hint">And {count_text(len(rest))} more, which together wrote {size_text(n_bytes)}.</p>'
    return table(titles, rows) + more


def _mapping_row(findings: Findings, one: MappingFigures) -> tuple[str, ...]:
    page_size = findings.meta.page_size
    who = (escape(f"{one.command} ({one.pid})"),) if several_processes(findings) else ()
    return (
        _mapping_name(findings, one),
        *who,
        size_text(one.n_pages * page_size),
        size_text(one.n_distinct * page_size),
        size_text(one.extent_bytes) if one.extent_bytes else "–",
        rate_text(one.mean_rate),
        rate_text(one.peak_rate),
        sparkline(one.over_time),
    )


def _mapping_name(findings: Findings, one: MappingFigures) -> str:
    """The name; with a script, a button that shows the mapping's largest band."""
    bands = [
        (band.n_written, number)
        for number, band in enumerate(findings.axis.bands)
        if (*band.program, band.name, band.kind) == (one.pid, one.program, one.name, one.kind)
    ]
    kind = f' <span class="soft">{escape(one.kind)}</span>' if one.kind and one.kind not in one.name else ""
    if not bands:
        return escape(one.name) + kind
    return (
        f'<button type="button" class="needs-script" data-band="{max(bands)[1]}" title="Show it above">'
        f'{escape(one.name)}</button><span class="static-name">{escape(one.name)}</span>{kind}'
    )

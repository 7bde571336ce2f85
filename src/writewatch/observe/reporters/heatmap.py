"""The heatmap of ``writewatch top`` as lines of text: what a cell means, the bands, the axis of time."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from writewatch.observe.reporters.screen import Glyphs, cursor, fitted, padded
from writewatch.observe.reporters.units import shortened, size_text
from writewatch.observe.top.heat import Heat, legend
from writewatch.observe.top.view import View

#: Left of the cells.
LABEL_WIDTH: Final = 22
_STYLES: Final = ("", "#8a5cc0", "#c0417f", "#e55c30", "#fb9b06", "#fff07a")
_DIM: Final = "dim"


def heatmap(view: View, heat: Heat, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """A line that says what a cell means, the bands, and the axis of time."""
    columns = max(0, width - LABEL_WIDTH)
    lines = [_legend(view, heat, width, glyphs)]
    levels = heat.levels().tolist()
    for number, row in enumerate(levels[: height - 2]):
        is_selected = view.in_heatmap and number == view.band
        label = Text(cursor(is_selected) + _label(view, heat, number), "reverse" if is_selected else "")
        label.append(" " * (columns - len(row)))
        for level in row[-columns:] if columns else ():
            label.append(glyphs.cells[level], _STYLES[level])
        lines.append(fitted(label, width, glyphs))
    lines = padded(lines, width, height - 1)
    return [*lines, _axis(heat, columns, width, glyphs)]


def _label(view: View, heat: Heat, number: int) -> str:
    band = heat.bands[number]
    room = LABEL_WIDTH - 3
    if not view.zoom:
        return shortened(band.label, room).ljust(room + 1)
    process = view.process
    assert process is not None
    return f"{band.start * process.page_size:x}".ljust(room + 1)


def _legend(view: View, heat: Heat, width: int, glyphs: Glyphs) -> Text:
    process = view.process
    line = Text(cursor(view.in_heatmap))
    line.append(_where(view, heat))
    if process is not None and heat.fullest:
        line.append("  ")
        for level, n_pages in legend(heat.fullest):
            line.append(glyphs.cells[level], _STYLES[level])
            line.append(f" {size_text(n_pages * process.page_size)} ")
    line.stylize("bold underline")
    return fitted(line, width, glyphs)


def _where(view: View, heat: Heat) -> str:
    process = view.process
    if process is None or not view.zoom:
        return "writes by address"
    inner = view.zoom[-1]
    row = heat.bands[0].n_pages if heat.bands else 0
    rows = "a page" if row == 1 else size_text(row * process.page_size)
    return f"{shortened(inner.label, 20)}, {rows} a row"


def _axis(heat: Heat, columns: int, width: int, glyphs: Glyphs) -> Text:
    if not heat.ended_ns:
        return fitted(Text(), width, glyphs)
    ago = (heat.ended_ns[-1] - heat.ended_ns[0]) / 1e9
    oldest = f"{ago:.0f} s ago"
    shown = min(len(heat.ended_ns), columns)
    text = oldest.ljust(max(shown - 3, len(oldest) + 1)) + "now"
    return fitted(Text(" " * (width - len(text)) + text, _DIM), width, glyphs)

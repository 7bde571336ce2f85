"""The screen of ``writewatch top`` as lines of text, for any size; every line is as wide as the screen.

Characters carry the meaning and colours repeat it: the cursor is a ``>``, a column that sorts has an arrow, a
cell of the heatmap has a character for its level. Where the terminal has no Unicode, all signs are ASCII.
"""

from __future__ import annotations

import textwrap
from typing import Final

from rich.text import Text

from writewatch.observe.reporters.heatmap import LABEL_WIDTH, heatmap
from writewatch.observe.reporters.screen import Glyphs, cursor, first_row, fitted, padded, sparkline
from writewatch.observe.reporters.units import count_text, rate_text, share_text, shortened, size_text
from writewatch.observe.top.facts import Member
from writewatch.observe.top.heat import Heat
from writewatch.observe.top.view import View
from writewatch.observe.watch.ages import WINDOWS_S
from writewatch.observe.watch.figures import MappingFigures, ProcessFigures, labels

_DIM: Final = "dim"
#: Below the smallest screen nothing can be read.
LEAST_WIDTH: Final = 60
LEAST_HEIGHT: Final = 16
#: Lines of a heading of two, of details and of keys; lines of a table that is nearly empty.
_AROUND: Final = 4
_LEAST_ROWS: Final = 6
#: From here on there is room for one more column.
_WIDE: Final = 100
_KEYS: Final = "q quit  space pause  s sort  / filter  tab heatmap  enter zoom  esc back  ? help"


def screen(view: View, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """The whole screen: a heading, the table, a line on the mapping under the cursor, the heatmap, the keys."""
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        text = f"This needs {LEAST_WIDTH} columns and {LEAST_HEIGHT} lines; here are {width} and {height}."
        lines = textwrap.wrap(text, max(width, 1))
        return padded([fitted(Text(line), width, glyphs) for line in lines], width, height)
    below = heatmap_height(view, height)
    heat = view.heat(below - 2, width - LABEL_WIDTH)
    return [
        *heading(view, width, glyphs),
        *table(view, width, height - below - _AROUND, glyphs),
        details(view, heat, width, glyphs),
        *heatmap(view, heat, width, below, glyphs),
        fitted(Text(_KEYS, _DIM), width, glyphs),
    ]


def heatmap_height(view: View, height: int) -> int:
    """Lines of the heatmap, its title and its axis included: what the table does not need, half or more."""
    n_rows = len(view.members) if view.shows_processes else len(view.mappings())
    room = height - _AROUND
    return room - min(max(n_rows + 1, _LEAST_ROWS), room * 9 // 20)


# ---- the top of the screen -----------------------------------------------------------------------


def heading(view: View, width: int, glyphs: Glyphs) -> list[Text]:
    """Two lines: who is watched and how; what it writes altogether."""
    process = view.process
    if process is None:
        return [fitted(Text("waiting for the first epoch"), width, glyphs), fitted(Text(), width, glyphs)]
    return [_who(view, process, width, glyphs), _totals(process, width, glyphs)]


def _who(view: View, process: ProcessFigures, width: int, glyphs: Glyphs) -> Text:
    facts = view.facts
    left = Text(f"{process.command} ({process.pid})", "bold")
    left.append(
        f"  {process.elapsed_s:.0f} s, {process.backend}, every {facts.period_s:.3g} s", "default not bold"
    )
    if facts.period_s > 1.05 * facts.interval_s:
        left.append(" (budget)", "not bold")
    left.append(f", costs {share_text(facts.cost_share)} of a core", "not bold")
    state = "ended" if view.ended else "PAUSED" if view.paused else ""
    return fitted(left, width, glyphs, right=Text(state, "bold reverse"))


def _totals(process: ProcessFigures, width: int, glyphs: Glyphs) -> Text:
    counts = process.counts
    sets = "  ".join(
        f"{window} s {size_text(pages * process.page_size):>7}"
        for window, pages in zip(WINDOWS_S, counts.working_set, strict=True)
    )
    doubt = "" if process.exact else "≤"
    left = f"writes {doubt}{rate_text(counts.rate_latest):>9} "
    right = f"  written in  {sets}"
    room = max(0, width - len(left) - len(right))
    line = Text(left)
    line.append(sparkline(counts.history, room, glyphs), "green")
    line.append(right)
    return fitted(line, width, glyphs)


# ---- the table -----------------------------------------------------------------------------------


def table(view: View, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """Mappings, or processes, below a line of titles; the cursor's row is always among them."""
    if view.shows_processes:
        return _processes(view, width, height, glyphs)
    mappings = view.mappings()
    label = labels(mappings)
    name_width, spark_width = _widths(width)
    lines = [_titles(view, len(mappings), name_width, spark_width, width, glyphs)]
    first = first_row(view.row, len(mappings), height - 1)
    for number, one in enumerate(mappings[first : first + height - 1], first):
        is_selected = number == view.row
        lines.append(_mapping_row(view, one, label(one), is_selected, name_width, spark_width, width, glyphs))
    if not mappings:
        nothing = (
            f"no mapping that was written holds {view.filter!r}" if view.filter else "nothing written yet"
        )
        lines.append(fitted(Text(f"  {nothing}", _DIM), width, glyphs))
    return padded(lines, width, height)


def _widths(width: int) -> tuple[int, int]:
    """For the names and for the sparklines: what the figures leave, three fifths for names."""
    room = width - 2 - 10 - 1 - 8 - 8 - 9 - 10 - (8 if width >= _WIDE else 0)
    names = max(16, room * 3 // 5)
    return names, max(0, room - names)


def _titles(view: View, n: int, name_width: int, spark_width: int, width: int, glyphs: Glyphs) -> Text:
    def title(name: str) -> str:
        arrow = (glyphs.up if view.reverse else glyphs.down) if view.sort == name else ""
        return name + arrow

    what = f"{title('mapping')}{f' ~ {view.filter}' if view.filter else ''} ({n})"
    if view.sort == "address":
        what = f"mapping by {title('address')} ({n})"
    line = Text(cursor(not view.in_heatmap) + shortened(what, name_width).ljust(name_width))
    line.append(title("rate").rjust(10) + " " + "lately".ljust(spark_width)[:spark_width])
    peak = f"{'peak/s':>8}" if width >= _WIDE else ""
    line.append(f"{title('10 s'):>8}{title('60 s'):>8}{title('distinct'):>9}{peak}{title('pages'):>10}")
    line.stylize("bold underline")
    return fitted(line, width, glyphs)


def _mapping_row(
    view: View,
    one: MappingFigures,
    label: str,
    is_selected: bool,
    name_width: int,
    spark_width: int,
    width: int,
    glyphs: Glyphs,
) -> Text:
    process = view.process
    assert process is not None
    counts = one.counts
    sizes = [pages * process.page_size for pages in (*counts.working_set[1:], counts.n_distinct)]
    line = Text(cursor(is_selected) + _name(one, label, name_width))
    line.append(f"{rate_text(counts.rate_latest):>10} ")
    line.append(sparkline(counts.history, spark_width, glyphs), "green")
    line.append(f"{size_text(sizes[0]):>8}{size_text(sizes[1]):>8}{size_text(sizes[2]):>9}")
    peak = f"{size_text(counts.rate_peak):>8}" if width >= _WIDE else ""
    line.append(f"{peak}{count_text(counts.n_pages):>10}")
    if is_selected and not view.in_heatmap:
        line.stylize("reverse")
    elif not one.mapped:
        line.stylize(_DIM)
    return fitted(line, width, glyphs)


def _name(one: MappingFigures, label: str, width: int) -> str:
    """The name; ``!``: somebody may write to it unseen; in parentheses: it is not mapped any more."""
    name = label if one.mapped else f"({label})"
    mark = "!" if one.mapping.unseen else ""
    return f"{mark}{shortened(name, width - len(mark) - 1)}".ljust(width)


def _processes(view: View, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    titles = f"  {'process':{width - 45}}{'pid':>8}{'rate':>10}{'10 s':>8}{'distinct':>9}{'':>8}"
    lines = [fitted(Text(titles, "bold underline"), width, glyphs)]
    first = first_row(view.row, len(view.members), height - 1)
    for number, member in enumerate(view.members[first : first + height - 1], first):
        line = Text(cursor(number == view.row) + _member(view, member, width - 45))
        if number == view.row:
            line.stylize("reverse")
        lines.append(fitted(line, width, glyphs))
    return padded(lines, width, height)


def _member(view: View, member: Member, name_width: int) -> str:
    name = "  " * member.depth + ("└ " if member.depth else "") + member.command
    figures = view.figures_of(member.pid)
    state = ("shown" if member.pid == view.pid else "") if member.runs else "ended"
    cells = f"{'':>10}{'':>8}{'':>9}"
    if figures is not None:
        counts, size = figures.counts, figures.page_size
        cells = f"{rate_text(counts.rate_latest):>10}{size_text(counts.working_set[1] * size):>8}"
        cells += f"{size_text(counts.n_distinct * size):>9}"
    return f"{shortened(name, name_width - 1):{name_width}}{member.pid:>8}{cells}{state:>8}"


def details(view: View, heat: Heat, width: int, glyphs: Glyphs) -> Text:
    """One line on what is under the cursor."""
    process = view.process
    if view.ended:
        return fitted(Text(f"{view.ended} This is the last picture; q leaves.", "bold"), width, glyphs)
    if process is None:
        text = ""
    elif view.in_heatmap:
        text = _of_band(view, heat, process.page_size)
    else:
        text = "" if view.selected is None or view.shows_processes else _of_mapping(view.selected)
    return fitted(Text(f"  {text}", _DIM), width, glyphs)


def _of_mapping(one: MappingFigures) -> str:
    found = one.mapping
    text = f"{found.start:x}-{found.end:x} {size_text(found.end - found.start)} {found.kind}"
    text += f", mean {rate_text(one.counts.rate_mean)}, peak {rate_text(one.counts.rate_peak)}"
    return f"{text}. ! {found.unseen}" if found.unseen else text


def _of_band(view: View, heat: Heat, page_size: int) -> str:
    if not heat.bands:
        return ""
    row = min(view.band, len(heat.bands) - 1)
    band, counts = heat.bands[row], heat.n_pages[row]
    where = f"{band.start * page_size:x}-{band.end * page_size:x} {size_text(band.n_pages * page_size)}"
    n_epochs = int((counts > 0).sum())
    return f"{where}, written in {n_epochs} of {len(counts)} epochs, {count_text(int(counts.sum()))} pages"

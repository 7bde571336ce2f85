"""Pages over the picture: the help, and what cannot be seen of a process."""

from __future__ import annotations

import textwrap
from typing import ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from writewatch.observe.reporters.screen import Glyphs
from writewatch.observe.reporters.units import plain
from writewatch.observe.watch.figures import ProcessFigures

HELP: Final = """\
KEYS
  j k, up down   move the cursor             space  keep the picture, go on
  tab            table or heatmap            s r    sort by the next; reverse
  enter          zoom in, down to a page     /      filter by name or kind
  esc            one step back               p      processes, as a tree
  q              quit                        n      what cannot be seen
FIGURES, of whole pages; a page counts once an epoch
  rate           bytes a second in the latest epoch; ≤: perhaps fewer
  lately         the rate in the latest epochs, each row by its own largest
  10 s, 60 s     written working set: distinct pages written in that time
  distinct       distinct pages since the start; pages: all, over the epochs
  !name          somebody may write to it unseen; (name): not mapped any more
  What is unmapped before the next look is not counted.
HEATMAP, of the mappings in the table
  A row is a stretch of addresses, a column an epoch, the latest at the right.
  The title says from how much on a cell has which sign.
COST
  A page costs the process about a microsecond, once an epoch. Epochs get
  longer where that would exceed the budget.
"""


class Page(ModalScreen[None]):
    """Text that any of the usual keys closes.

    Args:
        text: To be shown.
        glyphs: What the terminal has.
    """

    CSS = """
    Page { layout: vertical; }
    Page VerticalScroll { width: 100%; height: 100%; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,space,enter,question_mark,h,n", "dismiss", "back"),
        Binding("ctrl+c", "app.leave", "quit"),
    ]

    def __init__(self, text: str, glyphs: Glyphs) -> None:
        super().__init__()
        self._text = plain(text, "ascii" if glyphs.ascii else "utf-8")

    def compose(self) -> ComposeResult:
        """The text, and how to leave."""
        with VerticalScroll():
            yield Static(Text(self._text))
            yield Static(Text("esc: back", "dim"))


class HelpPage(Page):
    """The keys and the figures."""

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__(HELP, glyphs)


class NotesPage(Page):
    """What cannot be seen of a process."""

    def __init__(self, process: ProcessFigures | None, glyphs: Glyphs) -> None:
        super().__init__("\n".join(_notes(process)) + "\n", glyphs)


def _notes(process: ProcessFigures | None) -> list[str]:
    if process is None:
        return ["Nothing is known yet."]
    unseen = [f"! {one.mapping.name}: {one.mapping.unseen}" for one in process.mappings if one.mapping.unseen]
    found = [*process.notes, *unseen]
    if not found:
        return [f"All that {process.command} ({process.pid}) stores is seen."]
    wrapped = [textwrap.wrap(note, 76, subsequent_indent="  ") for note in dict.fromkeys(found)]
    return [
        f"WHAT MAY BE MISSING of {process.command} ({process.pid})",
        "",
        *(line for one in wrapped for line in one),
    ]

"""The Textual application of ``writewatch top``: shows lines of text and passes keys on to the ``View``."""

from __future__ import annotations

import asyncio
import locale
import os
import signal
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input

from writewatch.observe.reporters.screen import ASCII, UNICODE, Glyphs
from writewatch.observe.reporters.top import heatmap_height, screen
from writewatch.observe.top.feed import News, Source
from writewatch.observe.top.pages import HelpPage, NotesPage
from writewatch.observe.top.view import View

#: Terminals that are known to have no more than ASCII.
_PLAIN_TERMINALS: Final = ("dumb", "vt100", "vt102", "vt220")


def glyphs_here() -> Glyphs:
    """The signs that the terminal has, as far as its name and the locale tell."""
    is_utf8 = locale.getencoding().lower().replace("-", "") == "utf8"
    return UNICODE if is_utf8 and os.environ.get("TERM", "dumb") not in _PLAIN_TERMINALS else ASCII


class Told(Message):
    """News have come."""

    def __init__(self, news: News) -> None:
        super().__init__()
        self.news = news


class Ended(Message):
    """There will be no more."""

    def __init__(self, sentence: str) -> None:
        super().__init__()
        self.sentence = sentence


class Picture(Widget):
    """The whole screen."""

    def __init__(self, view: View, glyphs: Glyphs) -> None:
        super().__init__()
        self._view = view
        self._glyphs = glyphs

    def render(self) -> Text:
        """All lines."""
        return Text("\n").join(screen(self._view, self.size.width, self.size.height, self._glyphs))


class Top(App[None]):
    """The application.

    Args:
        view: On display.
        source: Of news; None when somebody else calls ``add``.
        glyphs: What the terminal has.
    """

    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = ""  # keys are for the picture; the line of the filter gets them when it is asked for
    CSS = """
    Screen { overflow: hidden; layers: picture filter; }
    Picture { width: 100%; height: 100%; layer: picture; }
    Input { dock: bottom; layer: filter; height: 1; border: none; padding: 0; display: none; }
    Input:focus { border: none; }
    Input.open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "leave", "quit"),
        Binding("space", "pause", "pause"),
        Binding("s", "sort", "sort"),
        Binding("r", "reverse", "reverse"),
        Binding("slash", "filter", "filter"),
        Binding("tab", "switch", "heatmap", priority=True),
        Binding("enter", "enter", "zoom"),
        Binding("escape,backspace", "out", "back"),
        Binding("p", "processes", "processes"),
        Binding("n", "notes", "notes"),
        Binding("question_mark,h", "help", "help"),
        Binding("up,k", "move(-1)", "up"),
        Binding("down,j", "move(1)", "down"),
        Binding("pageup", "move(-10)", "up"),
        Binding("pagedown", "move(10)", "down"),
        Binding("home", "move(-100000)", "first"),
        Binding("end", "move(100000)", "last"),
    ]

    def __init__(self, view: View, source: Source | None = None, glyphs: Glyphs | None = None) -> None:
        super().__init__(ansi_color=True)
        self.view = view
        self._source = source
        self.glyphs = glyphs or glyphs_here()
        self._picture = Picture(view, self.glyphs)
        self._filter = Input(placeholder="part of a name or kind; enter keeps it, esc clears it")

    def compose(self) -> ComposeResult:
        """The picture, and the line for a filter that is shown when it is asked for."""
        yield self._picture
        yield self._filter

    def on_mount(self) -> None:
        """Begin."""
        self._filter.can_focus = False
        for number in (signal.SIGTERM, signal.SIGHUP):  # the terminal is given back first
            asyncio.get_running_loop().add_signal_handler(number, self._end_by, number)
        if self._source is not None:
            self._source.start(
                lambda news: self.post_message(Told(news)),
                lambda sentence: self.post_message(Ended(sentence)),
            )

    def _end_by(self, number: int) -> None:
        self.exit(return_code=128 + number)

    def on_unmount(self) -> None:
        """No more news."""
        if self._source is not None:
            self._source.stop()

    # ---- news ------------------------------------------------------------------------------------

    def on_told(self, message: Told) -> None:
        """Add it, draw."""
        self.add(message.news)

    def on_ended(self, message: Ended) -> None:
        """The last picture stays."""
        self.view.end(message.sentence)
        self._picture.refresh()

    def add(self, news: News) -> None:
        """One round."""
        self.view.add(news.round, news.members, news.facts)
        self._picture.refresh()

    # ---- keys ------------------------------------------------------------------------------------

    @property
    def _n_rows(self) -> int:
        """Rows of the heatmap."""
        return heatmap_height(self.view, self._picture.size.height) - 2

    async def action_leave(self) -> None:
        """Quit."""
        self.exit()

    def action_pause(self) -> None:
        """Keep the picture, or go on."""
        self._do(self.view.pause)

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._do(self.view.next_sort)

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self.view.reverse = not self.view.reverse
        self._picture.refresh()

    def action_switch(self) -> None:
        """Keys are for the heatmap, or for the table again."""
        self._do(self.view.switch)

    def action_move(self, by: int) -> None:
        """Move the cursor."""
        n_bands = len(self.view.heat(self._n_rows, 1).bands) if self.view.in_heatmap else 0
        self._do(self.view.move, by, n_bands)

    def action_enter(self) -> None:
        """Zoom in, or show a process."""
        self._do(self.view.enter, self._n_rows)

    def action_out(self) -> None:
        """One step back."""
        self._do(self.view.leave)

    def action_processes(self) -> None:
        """List processes, or mappings again."""
        self._do(self.view.toggle_processes)

    def action_notes(self) -> None:
        """What cannot be seen."""
        self.push_screen(NotesPage(self.view.process, self.glyphs))

    def action_help(self) -> None:
        """The keys and the figures."""
        self.push_screen(HelpPage(self.glyphs))

    def action_filter(self) -> None:
        """Ask for a filter."""
        self._filter.value = self.view.filter
        self._filter.can_focus = True
        self._filter.add_class("open")
        self._filter.focus()

    def on_input_changed(self, message: Input.Changed) -> None:
        """Filter while it is typed."""
        self._do(self.view.set_filter, message.value)

    def on_input_submitted(self) -> None:
        """Keep the filter."""
        self._close_filter()

    def on_key(self, event: events.Key) -> None:
        """Escape leaves the line of the filter without one."""
        if event.key == "escape" and self._filter.has_class("open"):
            self._filter.value = ""
            self._close_filter()
            event.stop()
            event.prevent_default()

    def _close_filter(self) -> None:
        self._filter.remove_class("open")
        self._filter.can_focus = False
        self.screen.set_focus(None)

    def _do(self, what: Any, *arguments: Any) -> None:
        what(*arguments)
        self._picture.refresh()

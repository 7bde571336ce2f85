"""Lines of a screen: exactly as wide as it, in signs that its terminal has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from writewatch.observe.reporters.units import plain


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The signs that a terminal has.

    Attributes:
        spark: Heights, the first for nothing.
        cells: Levels of the heatmap, the first for nothing.
        ascii: Whether text has to be ASCII as well.
    """

    spark: str
    cells: str
    up: str
    down: str
    ascii: bool


UNICODE: Final = Glyphs(" ▁▂▃▄▅▆▇█", " ·░▒▓█", "▲", "▼", False)
ASCII: Final = Glyphs(" .:-=+*#@", " .:+#@", "^", "*", True)


def sparkline(values: Sequence[float], width: int, glyphs: Glyphs) -> str:
    """The latest values as heights of the largest among them, to the right; anything above 0 shows."""
    recent = list(values)[-width:] if width > 0 else []
    largest = max(recent, default=0.0)
    steps = len(glyphs.spark) - 1
    heights = (glyphs.spark[-(-value * steps // largest).__int__()] if value > 0 else " " for value in recent)
    return "".join(heights).rjust(width)


def cursor(is_here: bool) -> str:
    """What stands before a row."""
    return "> " if is_here else "  "


def first_row(cursor: int, n: int, height: int) -> int:
    """The first row shown, so that the cursor is on the screen."""
    return max(0, min(cursor - height // 2, n - height))


def padded(lines: list[Text], width: int, height: int) -> list[Text]:
    """Exactly so many lines."""
    return [*lines[:height], *(Text(" " * width) for _ in range(height - len(lines)))]


def fitted(text: Text, width: int, glyphs: Glyphs, right: Text | None = None) -> Text:
    """Exactly as wide as the screen, in signs that the terminal has."""
    room = width - (len(right) if right else 0)
    text.truncate(room, overflow="ellipsis", pad=True)
    if right:
        text.append_text(right)
    text.plain = plain(text.plain, "ascii") if glyphs.ascii else text.plain
    return text

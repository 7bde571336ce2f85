"""Figures as short text of a known width, always with a unit; and text that must fit."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")

#: Last words that must stay: the section of a file, an address, how many more.
_TELLING: Final = re.compile(r"\..*|[0-9a-f]{6,}|\+\d+")
#: What a terminal without Unicode gets for the signs that reports use.
_PLAIN: Final = str.maketrans({"≤": "<", "…": "~", "–": "-", "·": "|", "µ": "u", "×": "x", "└": "`"})


def size_text(n_bytes: float) -> str:
    """Bytes with two digits or more that count, in at most 7 characters: ``0 B``, ``4.0 KiB``, ``123 MiB``."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} B"
    power = next((p for p in range(1, len(_UNITS)) if n_bytes < 999.5 * 1024**p), len(_UNITS))
    value, unit = n_bytes / 1024**power, _UNITS[power - 1]
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def rate_text(bytes_per_s: float) -> str:
    """Bytes a second, in at most 9 characters."""
    return f"{size_text(bytes_per_s)}/s"


def count_text(n: int) -> str:
    """A count, in at most 9 characters: to the unit below ten million, then in millions."""
    if n < 10_000_000:
        return f"{n:,}"
    return f"{n / 1e6:,.1f} M" if n < 100_000_000_000 else f"{n:.1e}"


def counted(n: int, what: str) -> str:
    """So many of something: ``1 epoch``, ``2,000 epochs``."""
    return f"{count_text(n)} {what}{'' if n == 1 else 's'}"


def share_text(share: float) -> str:
    """A share as a percentage, in at most 6 characters: ``0 %``, ``<0.1 %``, ``2.4 %``, ``100 %``."""
    percent = 100 * share
    if percent <= 0:
        return "0 %"
    if percent < 0.1:
        return "<0.1 %"
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"


def shortened(text: str, width: int) -> str:
    """Text in at most so many characters. Of a path the end is kept, and a last word that tells much."""
    if len(text) <= width:
        return text
    if text.startswith("/"):
        parts = text.split("/")
        tails = ("…/" + "/".join(parts[first:]) for first in range(1, len(parts)))
        whole = next((tail for tail in tails if len(tail) <= width), None)
        if whole:
            return whole
    head, _, last = text.rpartition(" ")
    room = width - len(last) - 2
    if head and room >= 4 and _TELLING.fullmatch(last):
        return f"{head[:room]}… {last}"
    return f"{text[: max(0, width - 1)]}…"[:width]


def plain(text: str, encoding: str | None) -> str:
    """Text for a stream of this encoding: where it has no Unicode, in signs that it has, one for one."""
    encoding = encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "replace").decode(encoding)
    return text

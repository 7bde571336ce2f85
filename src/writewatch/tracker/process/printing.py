"""Names that a program gave, as they can be shown to anybody.

The name of a process, a file or a memfd may hold any bytes: none that UTF-8 knows, or what a terminal takes for a
command. Each such is written as an escape, as ``/proc/PID/maps`` itself writes a newline.
"""

from __future__ import annotations

from typing import Final

#: A byte that is no UTF-8 is decoded to this and its value (PEP 383).
_SURROGATE: Final = 0xDC00


def printable(name: str) -> str:
    """A name of which every character is one that prints, and that UTF-8 can encode."""
    return name if name.isprintable() else "".join(map(_shown, name))


def _shown(character: str) -> str:
    number = ord(character)
    if character.isprintable():
        return character
    if 0x80 <= number - _SURROGATE <= 0xFF:
        return f"\\x{number - _SURROGATE:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")

"""The parts that lines are made of: names, sizes, places."""

from __future__ import annotations

from typing import Final

from writewatch.observe.simulate import words
from writewatch.observe.simulate.line import Line
from writewatch.observe.simulate.places import MOST_BYTES, Places

#: The process that a script begins in.
MAIN: Final = "main"


class Parts:
    """The names of a script so far, and how the parts of a line are read with them.

    Args:
        page_size: In bytes.

    Attributes:
        places: Where the script's memory is.
    """

    def __init__(self, page_size: int) -> None:
        self.places = Places(page_size)
        self._files = Places(page_size)
        self._contexts: set[str] = set()
        #: Name -> whether it lives.
        self._processes = {MAIN: True}
        self._process = MAIN

    def _new_name(self, line: Line) -> str:
        name = line.take("a name")
        if not name.isidentifier():
            line.refuse(f'"{name}" is no name; begin it with a letter')
        if any(name in known for known in (self.places, self._files, self._contexts, self._processes)):
            line.refuse(f'"{name}" is taken; choose another name')
        line.take('"="')
        return name

    def _size(self, line: Line, *, most: int = MOST_BYTES) -> int:
        count = self._count(line, "a size such as 16 pages or 2 MiB")
        page = self.places.page_size
        n_bytes = count * line.choose("unit", {"pages": page, "page": page, **words.UNITS})
        if n_bytes % page:
            line.refuse(f"the size is not a number of whole pages; pages have {page} bytes")
        if n_bytes > most:
            line.refuse(
                f"{n_bytes >> 20} MiB is too much to draw page by page; ask for at most {most >> 20} MiB"
            )
        return n_bytes

    def _count(self, line: Line, what: str) -> int:
        word = line.take(what)
        if not word.isdecimal() or not int(word):
            line.refuse(f'"{word}" is no number above 0; expected {what}')
        return int(word)

    def _context(self, line: Line) -> str:
        name = line.take("the name of a userfaultfd")
        if name not in self._contexts:
            line.refuse_word(name, "userfaultfd", sorted(self._contexts))
        return name

    def _range(self, line: Line) -> tuple[int, int]:
        place = self.places.take(line)
        return place.start, place.length

    def _file_range(self, line: Line) -> tuple[str, int, int]:
        name = line.peek().partition("+")[0]
        place = self._files.take(line, "a place in a file, such as f+3")
        return name, place.start, place.length

    def _two_ranges(self, line: Line) -> tuple[int, int, int]:
        to, length = self._range(line)
        if not line.accept("from"):
            line.refuse("say where from, as in: copy u a+3 from b")
        return to, self.places.take(line).start, length

    def _text(self, line: Line) -> bytes:
        text = line.take('a text, such as "x"').encode()
        if not 0 < len(text) <= self.places.page_size:
            line.refuse(f"a text has 1 to {self.places.page_size} bytes")
        return text

    def _protection(self, line: Line) -> int:
        first = line.choose("protection", words.PROTECTIONS)
        return first | line.flags("protection", words.PROTECTIONS)

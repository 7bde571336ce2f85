"""The language of scripts: one operation a line, ``#`` begins a comment.

::

    script     = { line }
    line       = [ NAME "=" maker | verb ] [ "#" comment ]

    maker      = "mmap" SIZE { "private" | "shared" | "hugetlb" | "populate" | PROTECTION | "file" FPLACE | "at" PLACE }
               | "mremap" PLACE SIZE [ "dontunmap" ]            moved to an address of its own
               | "memfd" SIZE [ "hugetlb" ]
               | "file" SIZE                                    a regular file
               | "userfaultfd" { FEATURE | "user_mode_only" }
               | "fork"                                         the name is the child's; the first process is "main"

    verb       = "read" PLACE [ "kernel" ]                      one byte of each page
               | "write" PLACE TEXT [ "kernel" ]                at the start of each page
               | "munmap" PLACE | "mprotect" PLACE PROTECTION | "madvise" PLACE ADVICE
               | "drop" PLACE                                   madvise dontneed
               | "mremap" PLACE SIZE                            in place
               | "truncate" FILE SIZE | "punch" FPLACE | "pwrite" FPLACE TEXT
               | "register" UFFD PLACE MODE { MODE } | "unregister" UFFD PLACE
               | "protect" UFFD PLACE | "unprotect" UFFD PLACE [ "dontwake" ] | "wake" UFFD PLACE
               | "copy" UFFD PLACE "from" PLACE { "wp" | "dontwake" }
               | "move" UFFD PLACE "from" PLACE { "allow_src_holes" | "dontwake" }
               | "zeropage" UFFD PLACE [ "dontwake" ] | "poison" UFFD PLACE [ "dontwake" ]
               | "continue" UFFD PLACE { "wp" | "dontwake" }
               | "messages" UFFD | "close" UFFD | "close" FILE
               | "scan" PLACE { CATEGORY } { ( "not" | "any" | "return" ) CATEGORY { CATEGORY } }
                              { "protect" | "unchecked" | "max" N | "vec" N }
               | "clear_refs"                                   the soft-dirty bits
               | "in" PROCESS | "exit"

    SIZE       = N ( "page" | "pages" | "KiB" | "MiB" )
    PLACE      = NAME [ "+" PAGE [ ".." PAGE ] ]                half-open: a+2..5 is pages 2, 3 and 4
    FPLACE     = the same, of a file

Memory is private anonymous, readable and writable unless told otherwise. A line whose call would wait does wait, in a
thread of its own, and the script goes on. A signal ends its process, as where no handler is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from writewatch.errors import UsageError
from writewatch.observe.simulate.line import Line
from writewatch.observe.simulate.parts import MAIN
from writewatch.observe.simulate.places import Places
from writewatch.observe.simulate.statements import Statements


@dataclass(frozen=True, slots=True)
class Step:
    """One line that does something.

    Attributes:
        number: Of the line.
        text: As written.
        process: Name of the process that it runs in.
        operation: Method of ``operations.Actor``, or ``fork`` or ``exit``.
        arguments: Of that method; plain data.
    """

    number: int
    text: str
    process: str
    operation: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """A script that was read.

    Attributes:
        steps: Its lines.
        places: Where its memory is.
    """

    steps: tuple[Step, ...]
    places: Places


def parse(text: str, page_size: int = 4096) -> Script:
    """Read a script.

    Raises:
        UsageError: A line cannot be understood; the sentence names the line and the mend.
    """
    reader = _Reader(page_size)
    for number, line in enumerate(text.splitlines(), 1):
        reader.read(number, line)
    if not reader.steps:
        raise UsageError("the script has no operation; write one a line, such as: a = mmap 16 pages")
    return Script(tuple(reader.steps), reader.places)


class _Reader(Statements):
    """Finds the method that reads a line."""

    def __init__(self, page_size: int) -> None:
        super().__init__(page_size)
        self.steps: list[Step] = []

    def read(self, number: int, text: str) -> None:
        """One line of the script."""
        line = Line(number, text)
        if not line:
            return
        makes = line.peek(1) == "="
        name = self._new_name(line) if makes else ""
        kind, prefix = ("maker", "_make_") if makes else ("operation", "_do_")
        known = {n.removeprefix(prefix): n for n in dir(self) if n.startswith(prefix)}
        word = line.take("what to make, such as: mmap 16 pages")
        if word not in known:
            self._refuse_verb(line, word, kind, known)
        process = self._process
        method: Callable[..., tuple[Any, ...] | None] = getattr(self, known[word])
        step = method(line, name) if makes else method(line)
        line.end()
        if step is not None:
            self._need_process(line, process)
            self.steps.append(Step(number, line.text, process, step[0], step[1:]))
        if word == "exit":
            self._processes[process] = False

    def _refuse_verb(self, line: Line, word: str, kind: str, known: dict[str, str]) -> None:
        if kind == "operation" and hasattr(self, f"_make_{word}"):
            line.refuse(f"name what {word} makes, as in: a = {word} …")
        line.refuse_word(word, kind, known)

    def _need_process(self, line: Line, process: str) -> None:
        if not self._processes[process]:
            line.refuse(f"{process} has ended; go to another process first, as in: in {MAIN}")

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
from typing import Any, Final

from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.abi.pagemap import PM_SCAN_CHECK_WPASYNC, PM_SCAN_WP_MATCHING
from writewatch.errors import UsageError
from writewatch.observe.simulate import words
from writewatch.observe.simulate.line import Line
from writewatch.observe.simulate.places import MOST_BYTES, Places

#: The process that a script begins in.
MAIN: Final = "main"
_VEC: Final = 512  # a vec of at most this length never meets the kernel's restart of its walk


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


class _Reader:
    """Names and processes so far. A method ``make_X`` or ``do_X`` reads what follows the word X."""

    def __init__(self, page_size: int) -> None:
        self.steps: list[Step] = []
        self.places = Places(page_size)
        self._files = Places(page_size)
        self._contexts: set[str] = set()
        self._processes = {MAIN: True}
        self._process = MAIN

    def read(self, number: int, text: str) -> None:
        line = Line(number, text)
        if not line:
            return
        makes = line.peek(1) == "="
        name = self._new_name(line) if makes else ""
        kind, prefix = ("maker", "make_") if makes else ("operation", "do_")
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
        if kind == "operation" and hasattr(self, f"make_{word}"):
            line.refuse(f"name what {word} makes, as in: a = {word} …")
        line.refuse_word(word, kind, known)

    def _need_process(self, line: Line, process: str) -> None:
        if not self._processes[process]:
            line.refuse(f"{process} has ended; go to another process first, as in: in {MAIN}")

    def _new_name(self, line: Line) -> str:
        name = line.take("a name")
        if not name.isidentifier():
            line.refuse(f'"{name}" is no name; begin it with a letter')
        if any(name in known for known in (self.places, self._files, self._contexts, self._processes)):
            line.refuse(f'"{name}" is taken; choose another name')
        line.take('"="')
        return name

    # ---- parts of a line -------------------------------------------------------------------------

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

    # ---- what is made ----------------------------------------------------------------------------

    def make_mmap(self, line: Line, name: str) -> tuple[Any, ...]:
        length = self._size(line)
        prot: int | None = None
        flags, file, at = 0, ("", 0), None
        choices = {
            "shared": mman.MAP_SHARED,
            "private": mman.MAP_PRIVATE,
            "hugetlb": mman.MAP_HUGETLB,
            "populate": mman.MAP_POPULATE,
        }
        while line.peek():
            if line.accept("at"):
                at = self.places.take(line).start
            elif line.accept("file"):
                file = self._file_range(line)[:2]
            elif line.peek() in words.PROTECTIONS:
                prot = (prot or 0) | line.choose("protection", words.PROTECTIONS)
            else:
                flags |= line.choose("word of mmap", {**choices, **words.PROTECTIONS, "at": 0, "file": 0})
        if not flags & mman.MAP_SHARED:
            flags |= mman.MAP_PRIVATE
        start = self.places.new_slot(name, length) if at is None else at
        self.places.put(name, start, length)
        prot = words.PROTECTIONS["write"] if prot is None else prot
        return "mmap", start, length, prot, flags, *file, at is not None

    def make_mremap(self, line: Line, name: str) -> tuple[Any, ...]:
        start, length = self._range(line)
        size = self._size(line)
        flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
        flags |= line.flags("word of mremap", {"dontunmap": mman.MREMAP_DONTUNMAP})
        return "mremap", start, length, size, flags, self.places.new_slot(name, size)

    def make_memfd(self, line: Line, name: str) -> tuple[Any, ...]:
        length = self._size(line)
        self._files.put(name, 0, length)
        return "memfd", name, length, line.flags("word of memfd", {"hugetlb": mman.MFD_HUGETLB})

    def make_file(self, line: Line, name: str) -> tuple[Any, ...]:
        length = self._size(line)
        self._files.put(name, 0, length)
        return "file", name, length

    def make_userfaultfd(self, line: Line, name: str) -> tuple[Any, ...]:
        user_mode_only = 1 << 63
        bits = line.flags("feature", {**words.FEATURES, "user_mode_only": user_mode_only})
        self._contexts.add(name)
        return "context", name, bits & ~user_mode_only, uf.UFFD_USER_MODE_ONLY if bits & user_mode_only else 0

    def make_fork(self, _line: Line, name: str) -> tuple[Any, ...]:
        self._processes[name] = True
        return "fork", name

    # ---- memory ----------------------------------------------------------------------------------

    def do_read(self, line: Line) -> tuple[Any, ...]:
        return "read", *self._range(line), line.accept("kernel")

    def do_write(self, line: Line) -> tuple[Any, ...]:
        place = self._range(line)
        return "write", *place, self._text(line), line.accept("kernel")

    def _text(self, line: Line) -> bytes:
        text = line.take('a text, such as "x"').encode()
        if not 0 < len(text) <= self.places.page_size:
            line.refuse(f"a text has 1 to {self.places.page_size} bytes")
        return text

    def do_munmap(self, line: Line) -> tuple[Any, ...]:
        return "munmap", *self._range(line)

    def do_mprotect(self, line: Line) -> tuple[Any, ...]:
        return "mprotect", *self._range(line), self._protection(line)

    def _protection(self, line: Line) -> int:
        first = line.choose("protection", words.PROTECTIONS)
        return first | line.flags("protection", words.PROTECTIONS)

    def do_madvise(self, line: Line) -> tuple[Any, ...]:
        return "madvise", *self._range(line), line.choose("advice", words.ADVICE)

    def do_drop(self, line: Line) -> tuple[Any, ...]:
        return "madvise", *self._range(line), mman.MADV_DONTNEED

    def do_mremap(self, line: Line) -> tuple[Any, ...]:
        start, length = self._range(line)
        return "mremap", start, length, self._size(line), 0, 0

    # ---- files -----------------------------------------------------------------------------------

    def do_truncate(self, line: Line) -> tuple[Any, ...]:
        return "truncate", self._file_range(line)[0], self._size(line)

    def do_punch(self, line: Line) -> tuple[Any, ...]:
        return "punch", *self._file_range(line)

    def do_pwrite(self, line: Line) -> tuple[Any, ...]:
        name, offset, _ = self._file_range(line)
        return "pwrite", name, offset, self._text(line)

    # ---- userfaultfd -----------------------------------------------------------------------------

    def do_register(self, line: Line) -> tuple[Any, ...]:
        name, place = self._context(line), self._range(line)
        first = line.choose("mode", words.REGISTER_MODES)
        return "register", name, *place, first | line.flags("mode", words.REGISTER_MODES)

    def do_unregister(self, line: Line) -> tuple[Any, ...]:
        return "unregister", self._context(line), *self._range(line)

    def do_protect(self, line: Line) -> tuple[Any, ...]:
        return "writeprotect", self._context(line), *self._range(line), uf.UFFDIO_WRITEPROTECT_MODE_WP

    def do_unprotect(self, line: Line) -> tuple[Any, ...]:
        name, place = self._context(line), self._range(line)
        mode = line.flags("word of unprotect", {"dontwake": uf.UFFDIO_WRITEPROTECT_MODE_DONTWAKE})
        return "writeprotect", name, *place, mode

    def do_wake(self, line: Line) -> tuple[Any, ...]:
        return "wake", self._context(line), *self._range(line)

    def do_copy(self, line: Line) -> tuple[Any, ...]:
        name, ranges = self._context(line), self._two_ranges(line)
        return "copy", name, *ranges, line.flags("mode of copy", words.FILL_MODES)

    def do_move(self, line: Line) -> tuple[Any, ...]:
        name, ranges = self._context(line), self._two_ranges(line)
        return "move", name, *ranges, line.flags("mode of move", words.MOVE_MODES)

    def do_zeropage(self, line: Line) -> tuple[Any, ...]:
        return self._fill(line, "zeropage", words.DONTWAKE)

    def do_continue(self, line: Line) -> tuple[Any, ...]:
        return self._fill(line, "resume", words.FILL_MODES)

    def do_poison(self, line: Line) -> tuple[Any, ...]:
        return self._fill(line, "poison", words.DONTWAKE)

    def _fill(self, line: Line, operation: str, modes: dict[str, int]) -> tuple[Any, ...]:
        name, place = self._context(line), self._range(line)
        return operation, name, *place, line.flags("mode", modes)

    def do_messages(self, line: Line) -> tuple[Any, ...]:
        return "messages", self._context(line)

    def do_close(self, line: Line) -> tuple[Any, ...]:
        name = line.take("the name of a userfaultfd or of a file")
        if name not in self._contexts and name not in self._files:
            line.refuse_word(name, "userfaultfd or file", sorted(self._contexts))
        return "close", name

    # ---- /proc -----------------------------------------------------------------------------------

    def do_scan(self, line: Line) -> tuple[Any, ...]:
        start, length = self._range(line)
        flags, most, vec = PM_SCAN_CHECK_WPASYNC, 0, _VEC
        masks = dict.fromkeys(("", "not", "any", "return"), 0)
        kind = ""
        while word := line.peek():
            if line.accept("protect"):
                flags |= PM_SCAN_WP_MATCHING
            elif line.accept("unchecked"):
                flags &= ~PM_SCAN_CHECK_WPASYNC
            elif line.accept("max"):
                most = self._count(line, "a number of pages")
            elif line.accept("vec"):
                vec = self._count(line, "a number of regions")
            elif word in masks:
                kind = line.take("a category")
            else:
                masks[kind] |= line.choose("category", words.CATEGORY_WORDS)
        mask = masks[""] | masks["not"]
        returned = masks["return"] or mask | masks["any"] or words.ALL_CATEGORIES
        return "scan", start, length, flags, mask, masks["any"], masks["not"], returned, vec, most

    def do_clear_refs(self, _line: Line) -> tuple[Any, ...]:
        return ("clear_refs",)

    # ---- processes -------------------------------------------------------------------------------

    def do_in(self, line: Line) -> None:
        name = line.take("the name of a process")
        if name not in self._processes:
            line.refuse_word(name, "process", self._processes)
        self._process = name

    def do_exit(self, _line: Line) -> tuple[Any, ...]:
        return ("exit",)

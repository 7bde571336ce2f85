"""What each word of the language reads from its line: a method ``_make_X`` or ``_do_X`` for the word X.

Each returns an operation, the name of a method of ``operations.Actor`` (or ``fork`` or ``exit``) and its arguments; or
None where nothing is to be done.
"""

from __future__ import annotations

from typing import Any, Final

from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.abi.pagemap import PM_SCAN_CHECK_WPASYNC, PM_SCAN_WP_MATCHING
from writewatch.observe.simulate import words
from writewatch.observe.simulate.line import Line
from writewatch.observe.simulate.parts import Parts

_VEC: Final = 512  # a vec of at most this length never meets the kernel's restart of its walk


class Statements(Parts):
    """The words of the language, in the order of the grammar in ``language.py``."""

    # ---- what is made ----------------------------------------------------------------------------

    def _make_mmap(self, line: Line, name: str) -> tuple[Any, ...]:
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

    def _make_mremap(self, line: Line, name: str) -> tuple[Any, ...]:
        start, length = self._range(line)
        size = self._size(line)
        flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
        flags |= line.flags("word of mremap", {"dontunmap": mman.MREMAP_DONTUNMAP})
        return "mremap", start, length, size, flags, self.places.new_slot(name, size)

    def _make_memfd(self, line: Line, name: str) -> tuple[Any, ...]:
        length = self._size(line)
        self._files.put(name, 0, length)
        return "memfd", name, length, line.flags("word of memfd", {"hugetlb": mman.MFD_HUGETLB})

    def _make_file(self, line: Line, name: str) -> tuple[Any, ...]:
        length = self._size(line)
        self._files.put(name, 0, length)
        return "file", name, length

    def _make_userfaultfd(self, line: Line, name: str) -> tuple[Any, ...]:
        user_mode_only = 1 << 63
        bits = line.flags("feature", {**words.FEATURES, "user_mode_only": user_mode_only})
        self._contexts.add(name)
        return "context", name, bits & ~user_mode_only, uf.UFFD_USER_MODE_ONLY if bits & user_mode_only else 0

    def _make_fork(self, _line: Line, name: str) -> tuple[Any, ...]:
        self._processes[name] = True
        return "fork", name

    # ---- memory ----------------------------------------------------------------------------------

    def _do_read(self, line: Line) -> tuple[Any, ...]:
        return "read", *self._range(line), line.accept("kernel")

    def _do_write(self, line: Line) -> tuple[Any, ...]:
        place = self._range(line)
        return "write", *place, self._text(line), line.accept("kernel")

    def _do_munmap(self, line: Line) -> tuple[Any, ...]:
        return "munmap", *self._range(line)

    def _do_mprotect(self, line: Line) -> tuple[Any, ...]:
        return "mprotect", *self._range(line), self._protection(line)

    def _do_madvise(self, line: Line) -> tuple[Any, ...]:
        return "madvise", *self._range(line), line.choose("advice", words.ADVICE)

    def _do_drop(self, line: Line) -> tuple[Any, ...]:
        return "madvise", *self._range(line), mman.MADV_DONTNEED

    def _do_mremap(self, line: Line) -> tuple[Any, ...]:
        start, length = self._range(line)
        return "mremap", start, length, self._size(line), 0, 0

    # ---- files -----------------------------------------------------------------------------------

    def _do_truncate(self, line: Line) -> tuple[Any, ...]:
        return "truncate", self._file_range(line)[0], self._size(line)

    def _do_punch(self, line: Line) -> tuple[Any, ...]:
        return "punch", *self._file_range(line)

    def _do_pwrite(self, line: Line) -> tuple[Any, ...]:
        name, offset, _ = self._file_range(line)
        return "pwrite", name, offset, self._text(line)

    # ---- userfaultfd -----------------------------------------------------------------------------

    def _do_register(self, line: Line) -> tuple[Any, ...]:
        name, place = self._context(line), self._range(line)
        first = line.choose("mode", words.REGISTER_MODES)
        return "register", name, *place, first | line.flags("mode", words.REGISTER_MODES)

    def _do_unregister(self, line: Line) -> tuple[Any, ...]:
        return "unregister", self._context(line), *self._range(line)

    def _do_protect(self, line: Line) -> tuple[Any, ...]:
        return "writeprotect", self._context(line), *self._range(line), uf.UFFDIO_WRITEPROTECT_MODE_WP

    def _do_unprotect(self, line: Line) -> tuple[Any, ...]:
        name, place = self._context(line), self._range(line)
        mode = line.flags("word of unprotect", {"dontwake": uf.UFFDIO_WRITEPROTECT_MODE_DONTWAKE})
        return "writeprotect", name, *place, mode

    def _do_wake(self, line: Line) -> tuple[Any, ...]:
        return "wake", self._context(line), *self._range(line)

    def _do_copy(self, line: Line) -> tuple[Any, ...]:
        name, ranges = self._context(line), self._two_ranges(line)
        return "copy", name, *ranges, line.flags("mode of copy", words.FILL_MODES)

    def _do_move(self, line: Line) -> tuple[Any, ...]:
        name, ranges = self._context(line), self._two_ranges(line)
        return "move", name, *ranges, line.flags("mode of move", words.MOVE_MODES)

    def _do_zeropage(self, line: Line) -> tuple[Any, ...]:
        return self._fill(line, "zeropage", words.DONTWAKE)

    def _do_continue(self, line: Line) -> tuple[Any, ...]:
        return self._fill(line, "resume", words.FILL_MODES)

    def _do_poison(self, line: Line) -> tuple[Any, ...]:
        return self._fill(line, "poison", words.DONTWAKE)

    def _fill(self, line: Line, operation: str, modes: dict[str, int]) -> tuple[Any, ...]:
        name, place = self._context(line), self._range(line)
        return operation, name, *place, line.flags("mode", modes)

    def _do_messages(self, line: Line) -> tuple[Any, ...]:
        return "messages", self._context(line)

    def _do_close(self, line: Line) -> tuple[Any, ...]:
        name = line.take("the name of a userfaultfd or of a file")
        if name not in self._contexts and name not in self._files:
            line.refuse_word(name, "userfaultfd or file", sorted(self._contexts))
        return "close", name

    # ---- /proc -----------------------------------------------------------------------------------

    def _do_scan(self, line: Line) -> tuple[Any, ...]:
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

    def _do_clear_refs(self, _line: Line) -> tuple[Any, ...]:
        return ("clear_refs",)

    # ---- processes -------------------------------------------------------------------------------

    def _do_in(self, line: Line) -> None:
        name = line.take("the name of a process")
        if name not in self._processes:
            line.refuse_word(name, "process", self._processes)
        self._process = name

    def _do_exit(self, _line: Line) -> tuple[Any, ...]:
        return ("exit",)

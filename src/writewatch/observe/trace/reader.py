"""``Trace``: a trace that was recorded, segment by segment, and what of it is not whole.

Reading changes nothing. What cannot be read is left out and said in ``Trace.damage``; only when nothing is
left is it an error.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from writewatch.errors import TraceError
from writewatch.observe.trace import files
from writewatch.observe.trace.blocks import Block, Words
from writewatch.observe.trace.schema import Meta, NewerFormatError, arrow
from writewatch.observe.trace.writer import settled

_ONLY_BEGUN: Final = "the trace {} is being recorded and holds no epoch yet; ask again when its first is over"


@dataclass(slots=True)
class Trace:
    """A trace.

    Attributes:
        path: Its directory.
        meta: What is said once.
        is_open: Whether it is still being recorded.
        damage: A sentence for everything that is missing or cannot be read. Reading the blocks may add to it.
        words: Of its blocks.
    """

    path: Path
    meta: Meta
    is_open: bool
    damage: list[str]
    words: Words
    _finished: list[Path] = field(repr=False)
    _open_block: Block | None = field(repr=False)

    def blocks(self) -> Iterator[Block]:
        """What is whole, in the order of time, a segment at once.

        Raises:
            TraceError: Nothing is.
        """
        n_whole = 0
        for path in self._finished:
            try:
                block, _ = files.read_segment(path, self.words)
            except TraceError as error:
                self._note(f"{error}; its epochs are left out")
                continue
            n_whole += 1
            yield block
        if self._open_block is not None:
            yield self._open_block
        elif not n_whole:
            raise nothing_whole(self.path)

    @property
    def n_segments(self) -> int:
        """How many blocks there are at most."""
        return len(self._finished) + (self._open_block is not None)

    @property
    def n_bytes(self) -> int:
        """Size of its files."""
        return sum(path.stat().st_size for path in self.path.iterdir())

    def _note(self, sentence: str) -> None:
        if sentence not in self.damage:
            self.damage.append(sentence)


def open_trace(path: Path) -> Trace:
    """Open a trace.

    Raises:
        TraceError: It is not a trace, of a newer format, or nothing of it can be read.
    """
    arrow()  # says so when it is missing, before anything is said about the trace
    _check_directory(path)
    words = Words()
    whole, metas, damage = _finished(path)
    block, meta, is_open = _open(path, max((meta.last for meta in metas), default=0), words, damage)
    metas += [meta] if meta else []
    if not metas:
        raise TraceError(_ONLY_BEGUN.format(path)) if is_open else nothing_whole(path)
    return Trace(path, metas[0], is_open, damage + _missing(metas), words, whole, block)


def nothing_whole(path: Path) -> TraceError:
    """What is said of a trace that holds nothing to be shown."""
    return TraceError(f"nothing of the trace {path} is whole; record it again")


def _check_directory(path: Path) -> None:
    if not path.exists():
        raise TraceError(
            f"there is no trace {path}; make one with: writewatch record PID -o {shlex.quote(str(path))}"
        )
    if not path.is_dir():
        raise TraceError(f"{path} is not a trace but a file; name a directory that writewatch record made")
    if not files.segments_in(path) and not files.open_segments_in(path):
        raise TraceError(f"{path} is not a trace; name a directory that writewatch record made")


def _finished(trace: Path) -> tuple[list[Path], list[Meta], list[str]]:
    """Finished segments, what they say of themselves, and sentences about those that say nothing."""
    whole: list[Path] = []
    metas: list[Meta] = []
    damage = []
    for number, path in files.segments_in(trace):
        if metas and number <= metas[-1].last:
            continue  # its content is in the one before: the writer was killed before it removed this
        try:
            metas.append(files.read_meta(path))
            whole.append(path)
        except NewerFormatError:
            raise
        except TraceError as error:
            damage.append(f"{error}; its epochs are left out")
    return whole, metas, damage


def _open(
    trace: Path, covered: int, words: Words, damage: list[str]
) -> tuple[Block | None, Meta | None, bool]:
    """The open segment, what it says of itself, and whether somebody writes it. Adds to the damage."""
    for number, path in files.open_segments_in(trace):
        if number <= covered:
            continue  # finished already: the writer was killed before it removed the stream
        is_open = files.is_being_written(path)
        block, meta = files.read_open(path, words)
        if not is_open:
            damage.append(_cut_off(block))
        return (None if block is None else settled(block)), meta, is_open
    return None, None, False


def _missing(metas: list[Meta]) -> list[str]:
    """Sentences about segments of which there is no readable file, between those that are whole."""
    found = []
    expected = 1
    for meta in metas:
        if meta.first > expected:
            which = f"{expected} to {meta.first - 1}" if meta.first > expected + 1 else f"{expected}"
            found.append(f"segment {which} is missing; its epochs are left out")
        expected = meta.last + 1
    return found


def _cut_off(block: Block | None) -> str:
    if block is None:
        return "the recording was cut off; it is whole up to its last finished segment"
    seconds = block.end_ns / 1e9
    return f"the recording was cut off; it is whole up to its last finished epoch, at {seconds:.1f} s"

"""The files of a trace: finished segments as Parquet, and the open one as an Arrow IPC stream.

A Parquet file is complete or does not exist: it is written under a name that readers pass over, synced, and
renamed. The open segment is a stream because a stream can be read up to its last whole batch after its
writer was killed; Parquet keeps its index at the end and cannot. A batch holds all that was collected in
one round, so an epoch is there or not.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import numpy as np

from writewatch.errors import TraceError
from writewatch.observe.trace.blocks import MAPPING, Block, Words, each_once, joined
from writewatch.observe.trace.from_arrow import from_table
from writewatch.observe.trace.schema import Meta, arrow, meta_of, schema
from writewatch.observe.trace.to_arrow import to_table

_SEGMENT: Final = re.compile(r"segment-(\d{6})\.parquet")
# Addresses ascend: half the size of the default, a dictionary. What repeats is best left to that one.
_ENCODINGS: Final = dict.fromkeys(("start", "end"), "DELTA_BINARY_PACKED") | {"text": "PLAIN"}
# Readers of Parquet directories pass over names that begin with an underscore.
_OPEN: Final = re.compile(r"_open-(\d{6})\.arrows")


def segment_path(trace: Path, number: int) -> Path:
    """Where a finished segment is."""
    return trace / f"segment-{number:06}.parquet"


def open_path(trace: Path, number: int) -> Path:
    """Where an open segment is."""
    return trace / f"_open-{number:06}.arrows"


def segments_in(trace: Path) -> list[tuple[int, Path]]:
    """The finished segments, ascending."""
    return _matching(trace, _SEGMENT)


def open_segments_in(trace: Path) -> list[tuple[int, Path]]:
    """The open segments, ascending: one at most, or two when a writer was killed between two of its steps."""
    return _matching(trace, _OPEN)


def unfinished_in(trace: Path) -> list[Path]:
    """Segments that their writer did not get to finish; what they were made of is still there."""
    return sorted(trace.glob("_segment-*.parquet.unfinished"))


def _matching(trace: Path, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    found = ((pattern.fullmatch(path.name), path) for path in trace.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


# ---- finished ------------------------------------------------------------------------------------


def write_segment(trace: Path, block: Block, meta: Meta) -> Path:
    """Write a finished segment, or take the place of the one that has its number; all of it or nothing."""
    path = segment_path(trace, meta.first)
    unfinished = path.with_name(f"_{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            _write_parquet(to_table(block, meta), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_directory(trace)
    return path


def _write_parquet(table: Any, file: IO[bytes]) -> None:
    arrow().parquet.write_table(
        table,
        file,
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=[name for name in table.column_names if name not in _ENCODINGS],
        column_encoding=_ENCODINGS,
    )


def sync_directory(path: Path) -> None:
    """Let the names in a directory survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_segment(path: Path, words: Words) -> tuple[Block, Meta]:
    """A finished segment.

    Raises:
        TraceError: It is damaged, newer, or not of a trace.
    """
    parquet = arrow().parquet
    try:
        # Opened here: Arrow takes names that are text, and to Linux they are bytes.
        with path.open("rb") as file:
            meta = meta_of(parquet.read_schema(file), str(path))
            return from_table(parquet.read_table(file, page_checksum_verification=True), words), meta
    except (arrow().ArrowException, OSError, ValueError) as error:
        raise TraceError(f"{path.name} is damaged ({_first_line(error)})") from error


def read_meta(path: Path) -> Meta:
    """What a finished segment says about itself; raises as ``read_segment`` does."""
    try:
        with path.open("rb") as file:
            return meta_of(arrow().parquet.read_schema(file), str(path))
    except (arrow().ArrowException, OSError) as error:
        raise TraceError(f"{path.name} is damaged ({_first_line(error)})") from error


# ---- open ----------------------------------------------------------------------------------------


class OpenSegment:
    """The segment that is being written.

    Args:
        trace: The trace's directory.
        meta: With the number of the segment as ``first``.
    """

    def __init__(self, trace: Path, meta: Meta) -> None:
        self.path = open_path(trace, meta.first)
        self._meta = meta
        self._named = np.zeros(0, MAPPING)
        self._file = self.path.open("xb", buffering=1 << 20)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        options = arrow().ipc.IpcWriteOptions(compression="lz4")
        self._stream = arrow().ipc.new_stream(self._file, schema(meta), options=options)

    def write(self, block: Block) -> None:
        """Add a block as one batch. When this returns the kernel has it, and it stays if this process is killed."""
        if len(block.mappings):
            self._named = each_once(np.concatenate((self._named, block.mappings)))
        for batch in to_table(block, self._meta, self._named).to_batches():
            self._stream.write_batch(batch)
        self._file.flush()

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._file.tell()

    def end(self) -> None:
        """End the stream. The file stays, and locked, until ``close()``."""
        self._stream.close()
        self._file.flush()

    def close(self) -> None:
        """End the stream if it is not, and let go of the file, which stays."""
        self._stream.close()
        self._file.close()

    def __enter__(self) -> OpenSegment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def is_being_written(path: Path) -> bool:
    """Whether the writer of an open segment lives: it holds a lock on it."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_open(path: Path, words: Words) -> tuple[Block | None, Meta | None]:
    """The whole batches of an open segment, as one block; None when there is none.

    Raises:
        TraceError: It is newer, or not of a trace.
    """
    with path.open("rb") as file:
        try:
            stream = arrow().ipc.open_stream(file)
        except (arrow().ArrowException, OSError):
            return None, None  # killed while its head was written
        meta = meta_of(stream.schema, str(path))
        blocks = [from_table(arrow().Table.from_batches([batch]), words) for batch in _whole(stream)]
    return (joined(blocks) if blocks else None), meta


def _whole(stream: Any) -> Iterator[Any]:
    while True:
        try:
            yield stream.read_next_batch()
        except (StopIteration, arrow().ArrowException, OSError):
            return


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")

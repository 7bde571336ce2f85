"""The columns of a trace and what is said once about it: one table, one row a fact, each complete in itself.

What each kind of row puts into the columns is in ``docs/trace-format.md``.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from mmap import PAGESIZE
from typing import Any, Final

from writewatch.errors import TraceError

#: Of the format; what a reader does not know it refuses.
VERSION: Final = 1
#: Keys of the schema's metadata.
VERSION_KEY: Final = b"writewatch.trace.version"
META_KEY: Final = b"writewatch.trace"

#: ``how`` of a range, by number.
HOW: Final = ("written", "assumed", "discarded")
#: ``what`` of the rows that are no event.
ROWS: Final = ("epoch", "write", "mapping")

#: Name -> type; ``word`` is a dictionary of strings.
COLUMNS: Final = (
    ("what", "word"),
    ("pid", "int32"),
    ("program", "int32"),
    ("command", "word"),
    ("epoch", "int64"),
    ("n_epochs", "int32"),
    ("from_ns", "int64"),
    ("to_ns", "int64"),
    ("start", "int64"),
    ("end", "int64"),
    ("n_pages", "int64"),
    ("n_reported", "int64"),
    ("page_size", "int32"),
    ("exact", "bool"),
    ("how", "word"),
    ("mapping_id", "int32"),
    ("mapping", "word"),
    ("kind", "word"),
    ("perms", "word"),
    ("tracked", "bool"),
    ("backend", "word"),
    ("text", "string"),
)


class NewerFormatError(TraceError):
    """The trace was recorded by a newer version."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What is said once about a trace; kept as JSON in the schema of each of its files.

    Attributes:
        began: Wall clock at the trace's time 0, ISO 8601 in UTC.
        target: What was recorded: a command line, or a name and a process id.
        interval_s: Wanted seconds between two collects.
        page_size: Bytes.
        kernel: Release of the kernel.
        recorder: Version of writewatch.
        max_bytes: Bound on the size of the trace.
        epoch_ranges: Most ranges that an epoch may have before it is coarsened.
        first, last: Numbers of the segments whose time this file covers.
    """

    began: str
    target: str
    interval_s: float
    page_size: int
    kernel: str
    recorder: str
    max_bytes: int
    epoch_ranges: int
    first: int = 0
    last: int = 0


def described(target: str, interval_s: float, max_bytes: int) -> Meta:
    """What is said once about a trace that begins now, here."""
    began = datetime.now(UTC).isoformat(timespec="milliseconds")
    recorder = version("writewatch")
    return Meta(began, target, interval_s, PAGESIZE, platform.release(), recorder, max_bytes, epoch_ranges=0)


def arrow() -> Any:
    """The module ``pyarrow``; TraceError with the way to install it where it is missing."""
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise TraceError('traces need pyarrow; install it with: pip install "writewatch[trace]"') from error
    return pa


def schema(meta: Meta) -> Any:
    """The Arrow schema of a file."""
    pa = arrow()
    word = pa.dictionary(pa.int32(), pa.string())
    kinds = {"word": word, "bool": pa.bool_()}
    fields = [(name, kinds[kind] if kind in kinds else getattr(pa, kind)()) for name, kind in COLUMNS]
    metadata = {VERSION_KEY: str(VERSION).encode(), META_KEY: json.dumps(asdict(meta)).encode()}
    return pa.schema(fields, metadata=metadata)


def meta_of(found: Any, where: str) -> Meta:
    """What a schema that was read says of its trace.

    Raises:
        TraceError: It is not of a trace, or of a newer format.
    """
    metadata = found.metadata or {}
    try:
        version = int(metadata[VERSION_KEY])
        if version > VERSION:
            raise NewerFormatError(
                f"{where} has format {version} and this writewatch reads formats up to {VERSION}; "
                f"install a newer writewatch"
            )
        values = json.loads(metadata[META_KEY])
        return Meta(**{name: values[name] for name in Meta.__dataclass_fields__})
    except (KeyError, ValueError, TypeError) as error:
        raise TraceError(
            f"{where} is not part of a trace; name a directory that writewatch record made"
        ) from error

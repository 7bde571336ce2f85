"""A block from an Arrow table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from writewatch.errors import TraceError
from writewatch.observe.trace.blocks import ALIVE, EPOCH, MAPPING, Block, Event, Records, Words, each_once
from writewatch.observe.trace.ranges import Ranges, ranges_of
from writewatch.observe.trace.schema import COLUMNS, HOW, ROWS, arrow


def from_table(table: Any, words: Words) -> Block:
    """The block that a table was made of; mappings each once.

    Raises:
        TraceError: A column is missing or holds something else.
    """
    missing = [name for name, _ in COLUMNS if name not in table.column_names]
    if missing:
        raise TraceError(f"a part of the trace lacks the column {missing[0]}; record it again")
    pa = arrow()
    what = table["what"].cast(pa.string())
    rows = {word: table.filter(pa.compute.equal(what, word)) for word in ROWS}
    epochs = _records(rows["epoch"], EPOCH, words)
    others = table.filter(pa.compute.invert(pa.compute.is_in(what, pa.array(ROWS))))
    return Block(
        words, epochs, _ranges(rows["write"], epochs), _mappings(rows["mapping"], words), _events(others)
    )


def _values(table: Any, name: str, words: Words) -> NDArray[Any]:
    """A column as numbers: a word by its number, -1 or False for null."""
    pa = arrow()
    chunks = table[name].chunks
    column = pa.concat_arrays(chunks) if chunks else pa.array([], table.schema.field(name).type)
    if pa.types.is_dictionary(column.type):
        numbers = np.append(words.numbers(column.dictionary.to_pylist()), np.int32(-1))
        words_of: NDArray[Any] = numbers[column.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
        return words_of
    empty = False if pa.types.is_boolean(column.type) else -1
    values: NDArray[Any] = column.fill_null(empty).to_numpy(zero_copy_only=False)
    return values


def _records(table: Any, dtype: np.dtype[Any], words: Words) -> Records:
    rows = np.zeros(table.num_rows, dtype)
    for name in dtype.names or ():
        rows[name] = _values(table, name, words)
    return rows


def _ranges(table: Any, epochs: Records) -> Ranges:
    words = Words()
    hows = words.numbers(HOW)
    rows = ranges_of(table.num_rows)
    keys = [_values(table, name, words) for name in ("pid", "epoch")]
    rows["epoch"] = _rows_of(keys[0], keys[1], epochs)
    page_size = _values(table, "page_size", words)
    rows["start"], rows["end"] = (_values(table, name, words) // page_size for name in ("start", "end"))
    rows["reported"] = _values(table, "n_reported", words)
    rows["mapping"] = _values(table, "mapping_id", words)
    rows["exact"] = _values(table, "exact", words)
    rows["how"] = np.searchsorted(hows, _values(table, "how", words))
    return rows


def _rows_of(pids: NDArray[Any], numbers: NDArray[Any], epochs: Records) -> NDArray[np.intp]:
    """The row of the epoch that each write names."""
    # A process id has at most 22 bits (PID_MAX_LIMIT); so 40 are left for the epoch.
    keys = epochs["pid"].astype(np.int64) << 40 | epochs["epoch"]
    order = np.argsort(keys)
    wanted = pids.astype(np.int64) << 40 | numbers
    places = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    if len(wanted) and (not len(keys) or (keys[order][places] != wanted).any()):
        raise TraceError("a part of the trace has writes of an epoch that it does not list; record it again")
    found: NDArray[np.intp] = order[places]
    return found


def _mappings(table: Any, words: Words) -> Records:
    rows = np.zeros(table.num_rows, MAPPING)
    renamed = {"id": "mapping_id", "name": "mapping"}
    for name in MAPPING.names or ():
        if name != "unseen":
            rows[name] = _values(table, renamed.get(name, name), words)
    rows["to_ns"][rows["to_ns"] < 0] = ALIVE
    texts = table["text"].to_pylist()
    rows["unseen"] = [-1 if text is None else words.number(text) for text in texts]
    return each_once(rows)


def _events(table: Any) -> tuple[Event, ...]:
    columns = (table[name].to_pylist() for name in ("what", "pid", "from_ns", "to_ns", "text"))
    return tuple(Event(*values) for values in zip(*columns, strict=True))

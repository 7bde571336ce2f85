"""A block as an Arrow table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.trace.blocks import ALIVE, EPOCH, Block, Records, Words
from writewatch.observe.trace.schema import HOW, Meta, arrow, schema


def to_table(block: Block, meta: Meta, named: Records | None = None) -> Any:
    """A block as one table: its epochs, writes, mappings and events, in this order.

    Args:
        block: What to write.
        meta: Of the file.
        named: Mappings that its writes may be in, ascending by id; None: those of the block. A block of an open
            segment lists only what is new in it.
    """
    pa = arrow()
    to = schema(meta)
    parts = (
        _epoch_columns(block),
        _write_columns(block, block.mappings if named is None else named),
        _mapping_columns(block),
        _event_columns(block),
    )
    tables = [_filled(columns, to, block.words) for columns in parts]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _filled(columns: dict[str, Any], to: Any, words: Words) -> Any:
    """A table with all columns of the schema; null where the rows have nothing to say."""
    pa = arrow()
    n = len(columns["pid"])
    arrays = []
    for field in to:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(n, field.type))
        elif pa.types.is_dictionary(field.type):
            arrays.append(_worded(np.asarray(values), words))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.table(arrays, schema=to)


def _worded(numbers: NDArray[Any], words: Words) -> Any:
    """Words as a dictionary array that holds no others; null for -1."""
    pa = arrow()
    used, places = np.unique(numbers, return_inverse=True)
    nulls = used < 0
    texts = pa.array([words.texts[number] for number in used[~nulls].tolist()], pa.string())
    places = places.reshape(-1) - nulls.sum()
    indices = pa.array(np.maximum(places, 0).astype(np.int32), mask=places < 0)
    return pa.DictionaryArray.from_arrays(indices, texts)


def _what(word: str, n: int, words: Words) -> NDArray[np.int32]:
    return np.full(n, words.number(word), np.int32)


def _epoch_columns(block: Block) -> dict[str, Any]:
    rows = block.epochs
    return {name: rows[name] for name in EPOCH.names or ()} | {
        "what": _what("epoch", len(rows), block.words),
    }


def _write_columns(block: Block, named: Records) -> dict[str, Any]:
    rows = block.ranges
    epochs = block.epochs[rows["epoch"]]
    same = ("pid", "program", "command", "epoch", "n_epochs", "from_ns", "to_ns", "page_size", "backend")
    hows = block.words.numbers(HOW)
    names, kinds = (_of_mappings(rows["mapping"], named, column) for column in ("name", "kind"))
    return {name: epochs[name] for name in same} | {
        "what": _what("write", len(rows), block.words),
        "start": rows["start"] * epochs["page_size"],
        "end": rows["end"] * epochs["page_size"],
        "n_pages": rows["end"] - rows["start"],
        "n_reported": rows["reported"],
        "exact": rows["exact"],
        "how": hows[rows["how"]],
        "mapping_id": np.ma.masked_less(rows["mapping"], 0),
        "mapping": names,
        "kind": kinds,
    }


def _of_mappings(ids: NDArray[Any], named: Records, column: str) -> NDArray[np.int32]:
    """A word of the mapping of each range; -1 where it has none."""
    found = np.full(len(ids), -1, np.int32)
    inside = ids >= 0
    rows = np.searchsorted(named["id"], ids[inside])
    assert (named["id"][rows] == ids[inside]).all(), "a segment names every mapping that its writes are in"
    found[inside] = named[column][rows]
    return found


def _mapping_columns(block: Block) -> dict[str, Any]:
    rows = block.mappings
    same = ("pid", "program", "from_ns", "start", "end", "kind", "perms", "tracked")
    return {name: rows[name] for name in same} | {
        "what": _what("mapping", len(rows), block.words),
        "mapping_id": rows["id"],
        "mapping": rows["name"],
        "to_ns": np.ma.masked_equal(rows["to_ns"], ALIVE),
        "text": [block.text(number) or None for number in rows["unseen"].tolist()],
    }


def _event_columns(block: Block) -> dict[str, Any]:
    events = block.events
    return {
        "what": block.words.numbers(event.what for event in events),
        "pid": [event.pid for event in events],
        "from_ns": [event.from_ns for event in events],
        "to_ns": [event.to_ns for event in events],
        "text": [event.text for event in events],
    }

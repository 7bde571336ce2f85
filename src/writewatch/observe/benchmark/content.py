"""Finding changes by looking at all the content: hashes, comparison with a copy, and the copy itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.benchmark.memory import PAGE, Memory
from writewatch.observe.benchmark.peers import Peers
from writewatch.observe.benchmark.timing import Effort, Spread, Subject, interleave, timed

HASH_WHOLE: Final = "XXH3, whole"
HASH_PAGES: Final = "XXH3, page by page"
COMPARE: Final = "memcmp, page by page"
COPY: Final = "full copy"


@dataclass(frozen=True, slots=True)
class BruteForce:
    """One way to look at everything.

    Attributes:
        name: One of the names above.
        ns: One pass over the memory, nanoseconds.
    """

    name: str
    ns: Spread


def brute_force(
    peers: Peers | None, memory: Memory, effort: Effort | None = None
) -> tuple[tuple[BruteForce, ...], tuple[str, ...]]:
    """Measure every way that is possible here, in turn, over the same memory.

    Returns:
        The ways, and one sentence for each that is missing.
    """
    copy = memory.buffer.copy()
    subjects, missing = _hashes(memory)
    subjects |= _comparisons(peers, memory, copy)
    taken = interleave(subjects, effort or Effort(least=3, most=15, seconds=1.5))
    return tuple(BruteForce(name, Spread.of(ns)) for name, ns in taken.items()), missing


def _hashes(memory: Memory) -> tuple[dict[str, Subject], tuple[str, ...]]:
    try:
        xxhash = importlib.import_module("xxhash")
    except ImportError:
        return {}, ("XXH3 is skipped: xxhash is not installed; pip install 'writewatch[fast]'.",)
    whole = partial(xxhash.xxh3_64_intdigest, memory.buffer)
    pages = partial(_hash_pages, xxhash.xxh3_64_intdigest, memory.buffer.data)
    return {HASH_WHOLE: partial(timed, whole), HASH_PAGES: partial(timed, pages)}, ()


def _hash_pages(digest: Callable[[Any], int], view: memoryview) -> list[int]:
    return [digest(view[at : at + PAGE]) for at in range(0, len(view), PAGE)]


def _comparisons(peers: Peers | None, memory: Memory, copy: NDArray[np.uint8]) -> dict[str, Subject]:
    if peers is None:
        return {COPY: partial(timed, partial(np.copyto, copy, memory.buffer))}
    return {COMPARE: partial(peers.compare, memory, copy), COPY: partial(peers.copy, memory, copy)}

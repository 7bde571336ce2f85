"""Which parts of a range are so hot that protecting them again would cost more than it tells.

The first write to a protected page costs its program about 0.9 µs (a fault), once in an epoch. A program that
rewrites all of 1 GiB pays that 262,144 times and learns that it rewrote all of 1 GiB. So a **chunk** (a huge page's
worth of pages, aligned) that was written from end to end in three epochs running is left unprotected:
it costs nothing and is reported as written without being looked at, *assumed*.

Whether a hot chunk is still hot is found by **probing**: a few hot chunks are protected again at each harvest, one
in 256, which costs 0.4 % of what protecting all would. A probe that comes back not wholly written has cooled, and
is tracked again. Once probes find cold chunks the number of probes doubles each time, so that
a program that changes its ways is followed in a handful of epochs.

All sets are runs of chunk numbers (page number / pages of a chunk). Pure bookkeeping: the backend scans.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from writewatch.pages import Runs, difference, expand, intersection, no_runs, normalise, total, union

#: Chunks that have to be hot before any is left unprotected: 16 of 2 MiB save 7 ms an epoch.
MINIMUM_CHUNKS: Final = 16
#: One in so many hot chunks is probed at each harvest.
PROBE_SHARE: Final = 256


class HotChunks:
    """Which chunks are hot, nearly hot, or being probed.

    Args:
        chunk_pages: Pages of a chunk.
    """

    def __init__(self, chunk_pages: int) -> None:
        self._chunk_pages = chunk_pages
        self._full_once = no_runs()  # written from end to end in the last epoch
        self._full_twice = no_runs()  # … and in the one before
        self._hot = no_runs()
        self._probing = no_runs()  # hot, but protected again: the next harvest tells
        self._n_probes = 1
        self._next_probe = 0

    @property
    def is_watching(self) -> bool:
        """Whether any chunk was written from end to end lately."""
        return bool(len(self._full_once)) or self.is_any

    @property
    def is_any(self) -> bool:
        """Whether any chunk is hot or may become so at the next harvest."""
        return bool(len(self._hot) or len(self._full_twice))

    @property
    def hot(self) -> Runs:
        """Page runs that are left unprotected."""
        return difference(self._hot, self._probing) * self._chunk_pages

    def doubtful(self, unit: Runs) -> Runs:
        """Page runs of a unit that shall be looked at before they are protected: nearly hot, or probed."""
        return intersection(union(self._full_twice, self._probing) * self._chunk_pages, unit)

    def stays_hot(self, written: Runs) -> Runs:
        """Of doubtful pages found written: the page runs that need not be protected again."""
        chunks = intersection(self._full_chunks(written), union(self._full_twice, self._probing))
        if total(union(chunks, self._hot)) < MINIMUM_CHUNKS:
            return no_runs()
        return chunks * self._chunk_pages

    def learn(self, unit: Runs, written: Runs, left_hot: Runs) -> Runs:
        """Take in a harvest; return page runs to protect now, as probes.

        Args:
            unit: Page runs that were harvested.
            written: Page runs found written in it, hot ones not among them unless they were doubtful.
            left_hot: What ``stays_hot`` allowed to stay unprotected.
        """
        full = self._full_chunks(written)
        if not len(full) and not len(self._full_once) and not len(self._hot):
            return no_runs()
        chunks = self._full_chunks(unit)
        probed = intersection(self._probing, chunks)
        stayed = left_hot // self._chunk_pages
        cooled = difference(probed, stayed)
        full = difference(full, stayed)
        self._full_twice = union(difference(self._full_twice, chunks), intersection(full, self._full_once))
        self._full_once = union(difference(self._full_once, chunks), full)
        self._hot = difference(union(self._hot, stayed), cooled)
        self._probing = difference(self._probing, chunks)
        return self._choose_probes(intersection(self._hot, chunks), any_cooled=bool(len(cooled)))

    def forget(self, pages: Runs) -> None:
        """Drop everything known of page runs: they are not tracked any more, or protected anew."""
        if not len(self._full_once) and not len(self._hot):
            return
        chunks = normalise(
            np.stack((pages[:, 0] // self._chunk_pages, -(-pages[:, 1] // self._chunk_pages)), axis=1)
        )
        self._full_once = difference(self._full_once, chunks)
        self._full_twice = difference(self._full_twice, chunks)
        self._hot = difference(self._hot, chunks)
        self._probing = difference(self._probing, chunks)

    def _choose_probes(self, hot: Runs, *, any_cooled: bool) -> Runs:
        n_hot = total(hot)
        if not n_hot:
            return no_runs()
        least = max(1, n_hot // PROBE_SHARE)
        self._n_probes = min(2 * max(self._n_probes, least), n_hot) if any_cooled else least
        places = (np.arange(self._n_probes) + self._next_probe) % n_hot
        self._next_probe = (self._next_probe + self._n_probes) % n_hot
        chosen = np.sort(expand(hot)[places])
        probes = normalise(np.stack((chosen, chosen + 1), axis=1))
        self._probing = union(self._probing, probes)
        return probes * self._chunk_pages

    def _full_chunks(self, pages: Runs) -> Runs:
        """Chunks that single runs cover from end to end."""
        lengths = pages[:, 1] - pages[:, 0]
        if not len(lengths) or lengths.max() < self._chunk_pages:
            return no_runs()
        long = pages[lengths >= self._chunk_pages]
        chunks = np.stack((-(-long[:, 0] // self._chunk_pages), long[:, 1] // self._chunk_pages), axis=1)
        return normalise(chunks)

"""One tracked training run: tables, text, tracker and truth, epoch by epoch."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np
from skipgram import Corpus, SkipGram
from witness import Witness, fastest_digest

import writewatch as ww

N_DIMENSIONS = 128  # a row of 512 bytes, eight to a page of 4 KiB
N_PROBED_WORDS = 512


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch was like; times in seconds."""

    loss: float
    agreement: float
    n_reported: int
    n_assumed: int
    n_missed: int
    n_extra: int
    train_s: float
    collect_s: float
    compare_s: float


class Run:
    """Tables, training and truth of one run.

    Attributes:
        n_writes: For each table (n_pages,): in how many epochs each page was reported.
        hash_s: Seconds to hash every page, each time it was tried.
    """

    def __init__(self, n_words: int, n_sentences: int, seed: int) -> None:
        shape = (n_words, N_DIMENSIONS)
        # Mappings of their own: whole pages, which nothing else shares.
        self.tables = {"words": ww.allocate(shape, "f4"), "contexts": ww.allocate(shape, "f4")}
        self.model = SkipGram(self.tables["words"], self.tables["contexts"])
        self.model.start(seed)
        self.corpus = Corpus(n_words, seed)
        self.n_sentences = n_sentences
        self.page_size = os.sysconf("SC_PAGE_SIZE")
        self.witnesses = {name: Witness(table, self.page_size) for name, table in self.tables.items()}
        self.n_writes = {name: np.zeros(len(w.now), np.int64) for name, w in self.witnesses.items()}
        self.n_pages = sum(map(len, self.n_writes.values()))
        self.hash_s: list[float] = []

    def epoch(self, tracker: ww.Tracker) -> Epoch:
        """Train, ask the tracker, then look for oneself."""
        start = time.perf_counter()
        loss = self.model.train(self.corpus, self.n_sentences)
        trained = time.perf_counter()
        dirty = tracker.collect()
        collected = time.perf_counter()
        truth = {name: witness.changed_pages() for name, witness in self.witnesses.items()}
        compared = time.perf_counter()
        n_missed = n_extra = 0
        for name, changed in truth.items():
            reported = dirty.pages(self.tables[name])
            n_missed += len(np.setdiff1d(changed, reported, assume_unique=True))
            n_extra += len(np.setdiff1d(reported, changed, assume_unique=True))
            self.n_writes[name][reported] += 1
            self.witnesses[name].follow(changed)
        return Epoch(
            loss,
            self.model.topic_agreement(N_PROBED_WORDS),
            dirty.n_pages,
            int((dirty.assumed["end"] - dirty.assumed["start"]).sum()) // self.page_size,
            n_missed,
            n_extra,
            trained - start,
            collected - trained,
            compared - collected,
        )

    def time_hashing(self) -> None:
        """Hash every page once, for the sake of the clock."""
        _name, digest = fastest_digest()
        start = time.perf_counter()
        for witness in self.witnesses.values():
            witness.hash_pages(digest)
        self.hash_s.append(time.perf_counter() - start)

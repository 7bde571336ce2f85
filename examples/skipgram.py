"""Skip-gram with negative sampling (Mikolov et al., 2013) in NumPy, and text with planted topics to learn.

The text is made up, so that what is learnt can be checked. A sentence has a topic; each of its words is of
that topic with probability 0.8, else of any. Inside a topic, words follow Zipf's law, as words do: few are
frequent, nearly all are rare. Words are numbered from the most frequent down, and word ``w`` is of topic
``w % N_TOPICS``. Training is told nothing of topics; words of one topic end up close to each other in the
table because they keep each other company.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_TOPICS = 16
SENTENCE_LENGTH = 12
TOPIC_SHARE = 0.8
ZIPF_EXPONENT = 1.1
WINDOW = 2
BATCH = 512
N_NEGATIVES = 48
LEARNING_RATE = np.float32(0.08)

Words = NDArray[np.intp]
Table = NDArray[np.float32]


class Corpus:
    """An endless text over ``n_words`` words."""

    def __init__(self, n_words: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        ranks = np.arange(1, n_words // N_TOPICS + 1)
        weights = ranks**-ZIPF_EXPONENT
        self._cumulative = np.cumsum(weights / weights.sum())

    def sentences(self, n_sentences: int) -> Words:
        """Return the next ``(n_sentences, SENTENCE_LENGTH)`` words."""
        shape = (n_sentences, SENTENCE_LENGTH)
        topic = self._random.integers(N_TOPICS, size=(n_sentences, 1))
        of_topic = self._random.random(shape) < TOPIC_SHARE
        return self._ranks(shape) * N_TOPICS + np.where(
            of_topic, topic, self._random.integers(N_TOPICS, size=shape)
        )

    def pairs(self, n_sentences: int) -> tuple[Words, Words]:
        """Return ``(centres, contexts)``: words at most ``WINDOW`` apart in the next sentences, shuffled."""
        text = self.sentences(n_sentences)
        centres = np.concatenate([text[:, :-gap].ravel() for gap in range(1, WINDOW + 1)])
        contexts = np.concatenate([text[:, gap:].ravel() for gap in range(1, WINDOW + 1)])
        order = self._random.permutation(len(centres))
        return centres[order], contexts[order]

    def noise(self, n_words: int) -> Words:
        """Return words drawn by frequency alone, whatever their topic."""
        return self._ranks((n_words,)) * N_TOPICS + self._random.integers(N_TOPICS, size=n_words)

    def _ranks(self, shape: tuple[int, ...]) -> Words:
        # Rounding may leave the last cumulative weight a hair under 1.
        drawn = np.searchsorted(self._cumulative, self._random.random(shape))
        return np.minimum(drawn, len(self._cumulative) - 1)


@dataclass(slots=True)
class SkipGram:
    """Two tables, (n_words, n_dimensions) each: a word as centre, and a word as context."""

    centre: Table
    context: Table

    def start(self, seed: int) -> None:
        """Small random centres, contexts of zero, as word2vec starts."""
        rows_at_once = 16_384  # so that no second table is made on the way
        random = np.random.default_rng(seed)
        for row in range(0, len(self.centre), rows_at_once):
            block = self.centre[row : row + rows_at_once]
            random.random(dtype=np.float32, out=block)
            block -= 0.5
            block *= 2.0 / self.centre.shape[1] ** 0.5
        self.context[:] = 0

    def train(self, corpus: Corpus, n_sentences: int) -> float:
        """One pass over the next sentences; return the mean loss of a pair."""
        centres, contexts = corpus.pairs(n_sentences)
        losses = [
            self._step(centres[at : at + BATCH], contexts[at : at + BATCH], corpus.noise(N_NEGATIVES))
            for at in range(0, len(centres), BATCH)
        ]
        return float(np.mean(losses))

    def _step(self, centres: Words, contexts: Words, noise: Words) -> float:
        """Pull each centre towards its context and away from the noise, which the whole batch shares."""
        v, u, n = self.centre[centres], self.context[contexts], self.context[noise]
        seen = _sigmoid(np.einsum("ij,ij->i", v, u))
        unseen = _sigmoid(v @ n.T)
        pull = (LEARNING_RATE * (1 - seen))[:, None]
        push = LEARNING_RATE * np.float32(5 / len(noise)) * unseen
        _add_rows(self.centre, centres, pull * u - push @ n)
        _add_rows(self.context, contexts, pull * v)
        _add_rows(self.context, noise, -(push.T @ v))
        tiny = 1e-7
        return float(-np.log(seen + tiny).mean() - 5 * np.log(1 - unseen + tiny).mean())

    def topic_agreement(self, n_words: int, n_neighbours: int = 10) -> float:
        """Return how many of the nearest neighbours of the ``n_words`` most frequent words share their topic.

        A share of 1; ``1 / N_TOPICS`` is what chance gives.
        """
        nearest = self._neighbours(n_words, n_neighbours)
        return float((nearest % N_TOPICS == np.arange(n_words)[:, None] % N_TOPICS).mean())

    def _neighbours(self, n_words: int, n_neighbours: int) -> Words:
        """(n_words, n_neighbours) most similar words, by cosine, among the ``n_words`` most frequent."""
        v = self.centre[:n_words]
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        similarity = v @ v.T
        np.fill_diagonal(similarity, -np.inf)
        return np.argpartition(-similarity, n_neighbours, axis=1)[:, :n_neighbours]


def _sigmoid(x: Table) -> Table:
    result: Table = np.reciprocal(1 + np.exp(-x))
    return result


def _add_rows(table: Table, rows: Words, values: NDArray[np.floating[Any]]) -> None:
    """``table[rows] += values``, where a row named twice gets both: the sparse update."""
    order = np.argsort(rows, kind="stable")
    unique, starts = np.unique(rows[order], return_index=True)
    table[unique] += np.add.reduceat(values[order], starts, axis=0)

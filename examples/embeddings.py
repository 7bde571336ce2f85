"""Train word embeddings in NumPy while writewatch tells which pages each epoch wrote.

``make demo``, or ``python examples/embeddings.py --help``. Two tables of 256 MiB are trained on made-up text
(``skipgram.py``). After each epoch the tracker is asked which pages were written, and a full comparison with
a copy of the epoch before says which really changed (``witness.py``). Every changed page has to be reported;
a page reported without having changed is counted. The exit status is 1 if one changed page was missed.
"""

from __future__ import annotations

import argparse
import os
import sys

from report import ProgressLine, opening, summary
from room import available_bytes
from training import N_DIMENSIONS, Run

import writewatch as ww

N_WORDS = 1 << 19
FEWEST_WORDS = 1 << 13
HASHED_EPOCHS = 3  # hashing is only here to be timed

MISSED, REFUSED, INTERRUPTED = 1, 2, 130


def words_that_fit(n_words: int, room_bytes: int) -> int:
    """Halve the tables until they, their copies and a fifth to spare fit into the memory there is."""
    while n_words > FEWEST_WORDS and needed_bytes(n_words) > room_bytes:
        n_words //= 2
    return n_words


def needed_bytes(n_words: int) -> int:
    """Two tables, a copy of each, and a fifth for all the rest."""
    return 4 * n_words * N_DIMENSIONS * 4 * 6 // 5


def main() -> int:
    """Run the demonstration; return its exit status."""
    options = parse_options()
    room = available_bytes()
    n_words = words_that_fit(options.words, room)
    if needed_bytes(n_words) > room:
        print(
            f"embeddings: {room >> 20} MiB of memory are free; {needed_bytes(n_words) >> 20} are needed.",
            file=sys.stderr,
        )
        return REFUSED
    run = Run(n_words, options.sentences, options.seed)
    with ww.track(*run.tables.values(), backend=options.backend) as tracker:
        print(opening(run, tracker, options.words, room))
        progress = ProgressLine(options.epochs, sys.stdout)
        epochs = []
        for number in range(options.epochs):
            epochs.append(run.epoch(tracker))
            progress.show(number, epochs[-1], run.n_pages)
            if number < HASHED_EPOCHS:
                run.time_hashing()
        progress.close()
    print(summary(run, tracker, epochs))
    return MISSED if any(epoch.n_missed for epoch in epochs) else 0


def parse_options() -> argparse.Namespace:
    """Read the command line; an impossible value ends the program with status 2."""
    parser = argparse.ArgumentParser(description="Train embeddings and watch which pages are written.")
    parser.add_argument(
        "--words", type=int, default=N_WORDS, help="rows of each table, 512 bytes each (%(default)s)"
    )
    parser.add_argument(
        "--epochs", type=int, default=40, help="how often to collect and compare (%(default)s)"
    )
    parser.add_argument("--sentences", type=int, default=400, help="sentences of an epoch (%(default)s)")
    parser.add_argument(
        "--backend", default="auto", help="how to track (%(default)s: the best that works here)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="of the text and of the first table (%(default)s)"
    )
    options = parser.parse_args()
    if options.words < FEWEST_WORDS or options.words.bit_count() != 1:
        parser.error(f"--words takes powers of two from {FEWEST_WORDS}, such as {N_WORDS}")
    if min(options.epochs, options.sentences) < 1:
        parser.error("--epochs and --sentences have to be at least 1")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ww.WriteWatchError as error:
        print(f"embeddings: {error}.", file=sys.stderr)
        sys.exit(REFUSED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read this has gone (`| head`). What is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(INTERRUPTED)

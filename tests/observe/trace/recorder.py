"""Records made-up epochs until it is killed, and says after each that it is finished: ``recorder.py TRACE``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.observe.trace.made_up import heap_page, meta, writes
from writewatch.observe.trace.writer import LEAST_BYTES, TraceWriter


def pages_of(epoch: int) -> list[int]:
    """The pages of an epoch; some epochs have many."""
    return [heap_page((epoch * 7 + n * 2) % 1000) for n in range(1 + epoch % 40)]


def main() -> None:
    with TraceWriter(Path(sys.argv[1]), meta(max_bytes=LEAST_BYTES), 0) as writer:
        epoch = 0
        while True:
            writer.add([writes(epoch, pages_of(epoch))])
            print(epoch, flush=True)
            epoch += 1


if __name__ == "__main__":
    main()

"""Reports against the truth: a program whose every write is known, and one that is copied by its reports alone.

``WRITEWATCH_EPOCHS=1000`` runs the first over as many epochs.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import IO, cast

import numpy as np
import pytest

import writewatch as ww
from tests.tracker.process.targets import PAGE, compiled, reported
from writewatch.pages import clip, expand

pytestmark = pytest.mark.kernel("uffd_wp_async")

N_PAGES = 2048
N_THREADS = 4
N_EPOCHS = int(os.environ.get("WRITEWATCH_EPOCHS", "50"))


class Writer:
    """The C program."""

    def __init__(self) -> None:
        program = compiled(pathlib.Path(__file__).with_name("writer.c"))
        self.process = subprocess.Popen(
            [program, str(N_PAGES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.regions = [int(word) for word in self._answer().split()]

    def do(self, command: str) -> None:
        stdin = cast(IO[str], self.process.stdin)
        stdin.write(command + "\n")
        stdin.flush()
        assert self._answer() == "done\n"

    def _answer(self) -> str:
        return cast(IO[str], self.process.stdout).readline()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def writer() -> Iterator[Writer]:
    made = Writer()
    yield made
    made.close()


def mix(x: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """The same as in ``writer.c``."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def truth(epoch: int, region: int, n_writes: int) -> list[int]:
    """Pages of a region that the threads write in an epoch."""
    keys = [
        np.uint64(epoch << 32 ^ thread << 28 ^ region << 24) ^ np.arange(n_writes, dtype=np.uint64)
        for thread in range(N_THREADS)
    ]
    chosen = np.unique(mix(np.concatenate(keys)) % np.uint64(N_PAGES))
    return [int(page) for page in chosen]


def test_every_page_that_was_written_is_reported_and_no_other(writer: Writer) -> None:
    with ww.attach(writer.process.pid) as tracker:
        for epoch in range(N_EPOCHS):
            n_writes = 1 + epoch * 37 % 200
            writer.do(f"epoch {epoch} {n_writes}")
            writes = tracker.collect()
            assert writes.exact
            for region, start in enumerate(writer.regions):
                assert reported(writes, start, N_PAGES) == truth(epoch, region, n_writes), (epoch, region)


def test_a_copy_kept_by_reports_alone_is_the_memory_in_the_end(writer: Writer) -> None:
    pid = writer.process.pid
    with ww.attach(pid) as tracker, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        copies = []
        for start in writer.regions:
            memory.seek(start)
            copies.append(bytearray(memory.read(N_PAGES * PAGE)))

        def update(writes: ww.ProcessWrites) -> None:
            for start, copy in zip(writer.regions, copies, strict=True):
                for page in expand(clip(writes.page_runs, start // PAGE, start // PAGE + N_PAGES)).tolist():
                    memory.seek(page * PAGE)
                    at = page * PAGE - start
                    copy[at : at + PAGE] = memory.read(PAGE)

        writer.do("run")
        for _ in range(15):
            update(tracker.collect())
        writer.do("stop")
        update(tracker.collect())
        for start, copy in zip(writer.regions, copies, strict=True):
            memory.seek(start)
            assert memory.read(N_PAGES * PAGE) == copy

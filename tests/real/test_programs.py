"""Programs that people run go on as if nobody had watched, and what they write is told."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Iterator

import pytest

from tests.real.programs import PROGRAMS, Program
from writewatch import capabilities
from writewatch.kernel.maps import read_smaps
from writewatch.tracker.process.api import attach

EPOCHS = 10
CYCLES = 5


@pytest.fixture(scope="module")
def directory() -> Iterator[pathlib.Path]:
    # Not pytest's: that one is closed to the account of PostgreSQL.
    with tempfile.TemporaryDirectory() as name:
        pathlib.Path(name).chmod(0o755)
        yield pathlib.Path(name)


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest, directory: pathlib.Path) -> Iterator[Program]:
    found = capabilities()
    for name in ("uffd_wp_async", "ptrace"):
        if not found[name].works:
            pytest.skip(f"needs {name}: {found[name].detail}")
    place = directory / request.param
    place.mkdir()
    with PROGRAMS[request.param](place) as running:
        running.ask()
        yield running


def untouched(pid: int) -> bool:
    """Not registered, not traced, not stopped."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    is_free = "TracerPid:\t0\n" in status and "State:\tT" not in status and "State:\tt" not in status
    return is_free and not any(vma.is_registered_wp for vma in read_smaps(pid))


def test_what_it_writes_is_told_epoch_by_epoch(program: Program) -> None:
    with attach(program.pid, budget=None) as tracker:
        assert tracker.backend == "uffd-wp"
        epochs = []
        for _ in range(EPOCHS):
            program.ask()
            epochs.append(tracker.collect())
        assert sum(writes.n_pages > 0 for writes in epochs) > EPOCHS // 2
        for writes in epochs:
            assert sum(part.n_pages for part in writes.by_mapping()) == writes.n_pages
    program.ask()


def test_nothing_of_the_watching_is_left(program: Program) -> None:
    n_files = len(os.listdir(f"/proc/{program.pid}/fd"))
    for _ in range(CYCLES):
        attach(program.pid, budget=None).close()
        program.ask()
        assert untouched(program.pid)
    # The program opens and closes connections of its own meanwhile.
    assert len(os.listdir(f"/proc/{program.pid}/fd")) < n_files + CYCLES

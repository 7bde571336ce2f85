"""What a launched program writes last of all is reported: it was held for a last look."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

import writewatch as ww
from tests.tracker.process.targets import pages_in
from writewatch.pages import Runs, no_runs, union
from writewatch.tracker.process import launching, session

pytestmark = pytest.mark.kernel("uffd_wp_async")

N_PAGES: Final = 512

#: Tells where its memory is, waits for a line, writes the pages that this names, and ends in the way that it was told.
WRITER: Final = """
import ctypes, mmap, os, signal, sys, threading, time
memory = mmap.mmap(-1, {n_pages} * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:] = b"x" * len(memory)
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
for _ in range(4):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
os.write(1, b"%d\\n" % at)
pages = os.read(0, 1 << 16)
for page in pages.split():
    memory[int(page) * mmap.PAGESIZE] = 1
{ending}
"""


@dataclass
class Writer:
    """A program that runs ``WRITER``."""

    tracker: ww.ProcessTracker
    start: int
    to_it: int

    def write(self, pages: Sequence[int]) -> None:
        """These are the last pages that it writes."""
        os.write(self.to_it, (" ".join(map(str, pages)) + "\n").encode())

    def pages(self, runs: Runs) -> list[int]:
        return pages_in(runs, self.start, N_PAGES)


@contextlib.contextmanager
def writer(ending: str, *, shell: bool = False, **keywords: Any) -> Iterator[Writer]:
    """Launched and at its input; by a shell that execs it, or directly."""
    code = WRITER.format(n_pages=N_PAGES, ending=ending)
    argv = [sys.executable, "-I", "-S", "-c", code]
    if shell:
        argv = ["sh", "-c", 'exec "$@"', "sh", *argv]
    theirs_in, to_it = os.pipe()
    from_it, theirs_out = os.pipe()
    with contextlib.ExitStack() as stack:
        for fd in (theirs_in, to_it, from_it, theirs_out):
            stack.callback(os.close, fd)
        tracker = ww.launch(argv, stdin=theirs_in, stdout=theirs_out, **keywords)
        with tracker:
            yield Writer(tracker, int(os.read(from_it, 100)), to_it)


FOLLOWED: Final = [{"follow_forks": True}, {"follow_exec": True}]


@pytest.mark.parametrize("keywords", FOLLOWED, ids=["forks", "exec"])
@pytest.mark.parametrize(
    "ending",
    ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGTERM)"],
    ids=["exit", "SIGKILL", "SIGTERM"],
)
def test_the_last_report_has_the_last_pages_and_no_others(ending: str, keywords: dict[str, Any]) -> None:
    with writer(ending, **keywords) as target:
        tracker = target.tracker
        assert not tracker.collect().is_last
        target.write([3, 100, 511])
        assert tracker.wait(60)
        last = tracker.collect()
        assert target.pages(last.written) == [3, 100, 511]
        assert last.is_last
        assert any(one.name == "[stack]" for one in last.mappings), (
            "it was named when nobody was there any more"
        )
        with pytest.raises(ww.TrackingLostError, match=r"has exited$"):
            tracker.collect()
        assert tracker.exit_status in (3, -signal.SIGKILL, -signal.SIGTERM)


def test_of_a_program_that_nobody_collected_everything_is_reported() -> None:
    with writer("os._exit(0)", shell=True, follow_forks=True, follow_exec=True) as target:
        target.write([7])
        assert target.tracker.wait(60)
        last = target.tracker.collect()
        assert target.pages(last.page_runs) == list(range(N_PAGES))
        assert last.is_last
        assert "exec: now python" in " ".join(last.notes)
        assert "what sh wrote between its last look and that exec was not seen" in last.notes


def test_collecting_all_the_time_loses_nothing_at_the_end() -> None:
    for seed in range(12):
        pages = sorted(random.Random(seed).sample(range(N_PAGES), 40))
        with writer("os._exit(0)", follow_forks=True) as target:
            target.tracker.collect()
            target.write(pages)
            found, reports = no_runs(), []
            with pytest.raises(ww.TrackingLostError, match=r"has exited$"):  # noqa: PT012
                while True:
                    reports.append(target.tracker.collect())
                    found = union(found, reports[-1].page_runs)
            assert target.tracker.exit_status == 0
        assert target.pages(found) == pages, seed
        assert [one.is_last for one in reports] == [False] * (len(reports) - 1) + [True]


def test_what_is_not_followed_is_not_held_and_that_is_said() -> None:
    with writer("os._exit(0)") as target:
        target.tracker.collect()
        target.write([3])
        assert target.tracker.wait(60)
        with pytest.raises(ww.TrackingLostError, match="what it wrote after the last look was not seen"):
            target.tracker.collect()


def test_who_looks_too_long_misses_the_end_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_END_S", 0.05)
    with writer("os._exit(3)", follow_forks=True) as target:
        target.tracker.collect()
        with target.tracker._session.lock:  # as if a look took that long
            target.write([3])
            assert target.tracker.wait(60)
        with pytest.raises(ww.TrackingLostError, match="what it wrote after the last look was not seen"):
            target.tracker.collect()
        assert target.tracker.exit_status == 3


def test_children_that_nobody_saw_alive_are_reported() -> None:
    code = (
        "import os\n"
        "for n in range(5):\n"
        "    if os.fork() == 0: x = bytearray(b'x') * (1 << 20); os._exit(n)\n"
        "    os.wait()\n"
    )
    with ww.launch([sys.executable, "-I", "-S", "-c", code], follow_forks=True) as tracker:
        assert tracker.wait(60)
        assert tracker.collect().is_last
        reports = [child.collect() for child in tracker.children]
        assert len(reports) == 5
        assert all(one.is_last and one.n_bytes >= 1 << 20 for one in reports)
        assert [child.exit_status for child in tracker.children] == list(range(5))


def test_of_a_child_that_was_not_held_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.Session, "look_last", lambda *_: False)
    theirs, to_it = os.pipe()
    script = "sh -c 'exit 3'; read line"
    with ww.launch(["sh", "-c", script], follow_forks=True, follow_exec=True, stdin=theirs) as tracker:
        notes: tuple[str, ...] = ()
        while not any("wrote after the last look was not seen" in note for note in notes):
            notes = tracker.collect().notes
        os.close(to_it)
        assert tracker.wait(60)
        with pytest.raises(ww.TrackingLostError, match="what it wrote after the last look was not seen"):
            tracker.collect()
    os.close(theirs)


def test_closing_while_programs_end_leaves_them_alone() -> None:
    script = "for n in 1 2 3 4 5 6 7 8; do true & /bin/true; done; wait; echo done"
    for _ in range(5):
        reader, theirs = os.pipe()
        tracker = ww.launch(["sh", "-c", script], follow_forks=True, stdout=theirs)
        os.close(theirs)
        tracker.collect()
        tracker.close()
        with os.fdopen(reader) as file:
            assert file.read() == "done\n"


@pytest.mark.parametrize("backend", ["soft-dirty", "content-hash"])
def test_the_fallbacks_look_a_last_time_too(backend: str) -> None:
    try:
        launched = writer("os._exit(0)", backend=backend, follow_forks=True)
        with launched as target:
            target.tracker.collect()
            target.write([3, 100])
            assert target.tracker.wait(60)
            last = target.tracker.collect()
            assert {3, 100} <= set(target.pages(last.page_runs))
            assert last.is_last
    except ww.KernelUnsupportedError as error:
        pytest.skip(str(error))

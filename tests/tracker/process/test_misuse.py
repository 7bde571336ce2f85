"""What is given or done wrongly: one sentence, and nothing lost or left behind."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest

import writewatch as ww
from tests.tracker.process.targets import Target, reported

pytestmark = pytest.mark.kernel("uffd_wp_async")


@pytest.mark.parametrize("pid", [-1, 0, 1 << 31, 1 << 70])
def test_a_number_that_no_process_can_have_is_no_process(pid: int) -> None:
    with pytest.raises(ww.AttachError, match=f"^no process {pid}$"):
        ww.attach(pid)


@pytest.mark.parametrize(
    ("argv", "keywords", "sentence"),
    [
        ([], {}, "name a program to launch"),
        ([""], {}, "name a program to launch"),
        ("sleep 1", {}, "'sleep 1' is one string; give a list of words"),
        (["true", 1], {}, "the argument 1 is not text"),
        ([None], {}, "name a program to launch"),
        (["true", "a\0b"], {}, "holds a NUL byte"),
        (["true"], {"env": {"A": 1}}, "the value 1 is not text"),
        (["true"], {"env": {"A=B": "1"}}, "no environment variable can be named 'A=B'"),
        (["true"], {"stdout": subprocess.PIPE}, "make a pipe"),
    ],
)
def test_what_no_program_can_be_given_is_refused_in_a_sentence(
    argv: Any, keywords: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ww.UsageError, match=sentence):
        ww.launch(argv, **keywords)


def test_a_working_directory_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/folder"):
        ww.launch(["true"], cwd="/no/such/folder")


def test_a_program_may_be_named_in_bytes() -> None:
    with ww.launch([b"true"]) as tracker:  # type: ignore[list-item] # as subprocess takes it
        assert tracker.wait(10)
        assert tracker.exit_status == 0


def test_a_tracker_that_nobody_closed_leaves_no_descriptor(target: Target) -> None:
    ww.attach(target.pid).close()  # what is kept for all trackers
    before = len(os.listdir("/proc/self/fd"))
    tracker = ww.attach(target.pid)
    tracker.collect()
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        del tracker
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_tracker_that_is_closed_while_it_waits_does_not_say_that_the_process_ended(target: Target) -> None:
    tracker = ww.attach(target.pid)
    said: list[object] = []

    def wait() -> None:
        try:
            said.append(tracker.wait(0.2))
        except ww.TrackerClosedError as error:
            said.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    tracker.close()
    waiting.join()
    assert isinstance(said[0], ww.TrackerClosedError)


def in_a_fork(tracker: ww.ProcessTracker) -> None:
    """Collect and close in a forked child, which must not be able to."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            tracker.collect()
        except ww.TrackingLostError as error:
            status = 0 if "was forked from" in str(error) else 2
        finally:
            tracker.close()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_fork_of_ours_takes_no_report_away_and_ends_no_watching(target: Target) -> None:
    at = target.memory(64)
    target.run(f"poke({at}, *range(64))")
    with ww.attach(target.pid) as tracker:
        tracker.collect()
        target.run(f"poke({at}, 5, 6)")
        in_a_fork(tracker)
        assert reported(tracker.collect(), at, 64) == [5, 6]
        target.run(f"poke({at}, 7)")
        assert reported(tracker.collect(), at, 64) == [7]


def test_a_fork_of_ours_that_closes_a_launched_tracker_leaves_the_launcher_at_work() -> None:
    ends = os.pipe()
    with ww.launch(["sh", "-c", "read line; true; true"], follow_forks=True, stdin=ends[0]) as tracker:
        tracker.collect()
        in_a_fork(tracker)
        os.close(ends[1])
        assert tracker.wait(10)
        assert tracker.exit_status == 0
    os.close(ends[0])


#: Watches its own parent, and all the children of that.
_WATCHES_ITS_PARENT = """
import os, writewatch
with writewatch.attach(os.getppid(), follow_forks=True) as tracker:
    print(*tracker.collect().notes, sep="\\n")
"""


def test_one_who_watches_its_parent_is_left_out_of_the_children() -> None:
    # The first Python is the parent: nothing but a process of its own may be watched by the second.
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    done = subprocess.run(
        [sys.executable, "-c", parent, _WATCHES_ITS_PARENT], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "is the process that watches: it is not watched" in done.stdout


def test_what_a_launcher_follows_is_not_attached_to_and_who_follows_it_is_said() -> None:
    with ww.launch(["sleep", "1000"], follow_forks=True) as tracker:
        try:
            with pytest.raises(ww.AttachError, match=r"is followed by another writewatch .*; end that first"):
                ww.attach(tracker.pid)
        finally:
            os.kill(tracker.pid, signal.SIGKILL)


def test_a_launcher_that_is_followed_says_why_it_cannot_follow() -> None:
    inner = "import writewatch; writewatch.launch(['true'])"
    ends = os.pipe()
    with ww.launch([sys.executable, "-c", inner], follow_forks=True, stderr=ends[1]) as tracker:
        os.close(ends[1])
        with open(ends[0]) as complaints:
            assert "true is traced already, as this process is, by writewatch" in complaints.read()
        assert tracker.wait(10)
        assert tracker.exit_status == 1


def test_reports_can_be_compared_and_kept_in_sets(target: Target) -> None:
    with ww.attach(target.pid) as tracker:
        first, second = tracker.collect(), tracker.collect()
    assert first == first
    assert first != second
    assert len({first, second}) == 2
    copy = pickle.loads(pickle.dumps(first))
    assert (copy.n_pages, copy.mappings, copy.notes) == (first.n_pages, first.mappings, first.notes)

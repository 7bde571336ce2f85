"""Exit, exec, fork; detaching, and being killed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

import writewatch as ww
from tests.tracker.process.targets import PAGE, Target, is_running, n_armed, pages_in, reported
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.maps import read_smaps
from writewatch.tracker.process.family import children_of
from writewatch.tracker.process.select import Taken, take_by_ptrace
from writewatch.tracker.unregistering import Unregistering

pytestmark = pytest.mark.kernel("uffd_wp_async")


def state_of(tracker: ww.ProcessTracker) -> str:
    return tracker.state


# ---- the end -------------------------------------------------------------------------------------


def test_a_process_that_exited_is_told_from_one_that_ran_another_program(target: Target) -> None:
    with ww.attach(target.pid) as tracker:
        assert state_of(tracker) == "running"
        target.process.kill()
        assert tracker.wait(10)
        with pytest.raises(ww.TrackingLostError, match=f"{target.pid} .* has exited"):
            tracker.collect()
        assert state_of(tracker) == "exited"
        with pytest.raises(ww.TrackingLostError, match="has exited"):
            tracker.collect()


def exec_sleep(target: Target) -> None:
    """Have the child become ``sleep``, and wait until it is."""
    stdin = target.process.stdin
    assert stdin is not None
    stdin.write("os.execvp('sleep', ['sleep', '1000'])\n")
    stdin.flush()
    comm = pathlib.Path(f"/proc/{target.pid}/comm")
    while comm.read_text() != "sleep\n":
        os.sched_yield()


def test_a_program_that_comes_while_it_is_attached_to_is_watched(target: Target) -> None:
    def take(pid: int) -> Taken:
        if not taken:
            exec_sleep(target)
        taken.append(take_by_ptrace(pid))
        return taken[-1]

    taken: list[Taken] = []
    with ww.attach(target.pid, take=take) as tracker:
        assert tracker.command == "sleep"
        assert tracker.backend == "uffd-wp"
        tracker.collect()
    assert len(taken) == 2


def test_another_program_that_is_not_followed_ends_it(target: Target) -> None:
    with ww.attach(target.pid) as tracker:
        exec_sleep(target)
        assert not tracker.wait(0)
        with pytest.raises(
            ww.TrackingLostError, match="is now sleep; attach again, or with follow_exec=True"
        ):
            tracker.collect()
        assert tracker.state == "replaced"
    assert is_running(target.process)


def test_another_program_that_is_followed_starts_a_new_count(target: Target) -> None:
    with ww.attach(target.pid, follow_exec=True) as tracker:
        tracker.collect()
        exec_sleep(target)
        writes = tracker.collect()
        assert (writes.epoch, writes.command, tracker.command) == (0, "sleep", "sleep")
        assert any(note.startswith("exec: now sleep") for note in writes.notes)
        stack = next(mapping for mapping in writes.mappings if mapping.name == "[stack]")
        assert pages_in(writes.assumed, stack.start, (stack.end - stack.start) // writes.page_size)
        assert tracker.collect().epoch == 1


def test_what_was_found_before_the_end_is_reported_after_it(target: Target) -> None:
    with ww.attach(target.pid) as tracker:
        start = target.memory(8)
        target.run(f"poke({start}, 3)")
        tracker._session.backend.look()  # as by a collect that could not deliver
        target.process.kill()
        assert tracker.wait(10)
        assert reported(tracker.collect(), start, 8) == [3]
        assert tracker.state == "exited"
        with pytest.raises(ww.TrackingLostError):
            tracker.collect()


def collect_for_ever(tracker: ww.ProcessTracker) -> None:
    while True:
        tracker.collect()
        tracker.wait(0.01)


def test_a_process_that_ends_while_it_is_collected_is_lost_and_nothing_worse(target: Target) -> None:
    with ww.attach(target.pid) as tracker:
        start = target.memory(4096)
        target.run(f"poke({start}, *range(4096))")
        killer = threading.Thread(target=target.process.kill)
        killer.start()
        with pytest.raises(ww.TrackingLostError, match="has exited"):
            collect_for_ever(tracker)
        killer.join()


# ---- no trace ------------------------------------------------------------------------------------


def test_closing_leaves_nothing_registered(target: Target) -> None:
    descriptors = set(os.listdir(f"/proc/{target.pid}/fd"))
    tracker = ww.attach(target.pid)
    assert n_armed(target.pid) > 10
    tracker.collect()
    tracker.close()
    assert n_armed(target.pid) == 0
    assert set(os.listdir(f"/proc/{target.pid}/fd")) == descriptors
    assert target.run("answer = 6 * 7") == 42
    with pytest.raises(ww.TrackerClosedError):
        tracker.collect()
    tracker.close()


def test_closing_unregisters_though_a_copy_of_the_descriptor_stays_open(target: Target) -> None:
    with ww.attach(target.pid, take=target.take) as tracker:
        backend = tracker._session.backend
        copy = os.dup(backend._uffd.fileno())  # type: ignore[attr-defined]
    armed = [entry.vma for entry in read_smaps(target.pid) if entry.is_registered_wp]
    os.close(copy)
    # On kernels that stumble over mappings of files, these stay until the copy is closed.
    assert not list(filter(Unregistering(LinuxCalls()).is_safe, armed))
    assert n_armed(target.pid) == 0


def test_a_second_watcher_is_refused_and_the_first_goes_on(target: Target) -> None:
    with ww.attach(target.pid) as first:
        with pytest.raises(ww.AttachError, match=f"already tracked.*pid {os.getpid()}"):
            ww.attach(target.pid)
        start = target.memory(8)
        target.run(f"poke({start}, 3)")
        assert reported(first.collect(), start, 8) == [3]
    with ww.attach(target.pid):
        assert n_armed(target.pid)


_KILLED = """
import os, signal, sys
import writewatch as ww
from writewatch.kernel.default import default_calls
calls, pid, name, at = default_calls(), int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
tracker = ww.attach(pid)
print("attached", flush=True)
call, count = getattr(calls, name), 0
def dies(*arguments):
    global count
    count += 1
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        return call(*arguments)
    finally:
        if count == -at:
            os.kill(os.getpid(), signal.SIGKILL)
setattr(calls, name, dies)
for _ in range(8):
    tracker.collect()
print("survived", flush=True)
"""


@pytest.mark.parametrize(
    ("name", "at"), [(name, at) for name in ("uffdio", "pagemap_scan") for at in (1, -1, 3, -3, 7)]
)
def test_a_watcher_that_is_killed_leaves_the_target_running_and_ready_to_be_watched_again(
    target: Target, name: str, at: int
) -> None:
    start = target.memory(64)
    target.run(f"poke({start}, *range(64))")
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(target.pid), name, str(at)], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout == "attached\n"
    assert is_running(target.process)
    assert n_armed(target.pid) == 0
    target.run(f"poke({start}, 5)")
    with ww.attach(target.pid) as tracker:
        target.run(f"poke({start}, 6)")
        assert reported(tracker.collect(), start, 64) == [6]


# ---- children ------------------------------------------------------------------------------------


def pids_of(tracker: ww.ProcessTracker) -> list[int]:
    return [child.pid for child in tracker.children]


def test_children_that_are_there_and_children_that_come_are_followed(target: Target) -> None:
    start = target.memory(64)
    fork = f"""
p = os.fork()
if not p:
    poke({start}, 3)
    signal.pause()
answer = p
"""
    target.run(f"poke({start}, *range(8))")
    first = target.run(fork)
    with ww.attach(target.pid, follow_forks=True) as tracker:
        assert pids_of(tracker) == [first]
        assert reported(tracker.children[0].collect(), start, 64) in ([], [3])
        second = target.run(fork)
        tracker.collect()
        assert pids_of(tracker) == [first, second]
        writes = tracker.children[1].collect()
        assert pages_in(writes.assumed, start, 64) == list(range(8))
        assert any("what it wrote before it was attached to is assumed" in note for note in writes.notes)
        os.kill(first, signal.SIGKILL)
        assert tracker.children[0].wait(10)
        with pytest.raises(ww.TrackingLostError):
            tracker.children[0].collect()
        tracker.collect()
        assert pids_of(tracker) == [second]
    assert n_armed(second) == 0
    os.kill(second, signal.SIGKILL)


def test_children_of_every_thread_are_found(target: Target) -> None:
    target.run(
        "pids = []\n"
        "def work():\n    p = os.fork()\n    if not p: signal.pause()\n    pids.append(p); hold.wait()\n"
        "hold = threading.Event(); t = threading.Thread(target=work, daemon=True); t.start()\n"
        "while not pids: pass"
    )
    (child,) = target.run("answer = pids")
    assert children_of(target.pid) == (child,)
    os.kill(child, signal.SIGKILL)


# ---- launch --------------------------------------------------------------------------------------


@pytest.fixture
def launched() -> Iterator[list[ww.ProcessTracker]]:
    made: list[ww.ProcessTracker] = []
    yield made
    for tracker in made:
        tracker.close()


def status_of(tracker: ww.ProcessTracker) -> int | None:
    return tracker.exit_status


def finished(tracker: ww.ProcessTracker) -> list[ww.ProcessWrites]:
    """All reports until the program has ended."""
    found = []
    with contextlib.suppress(ww.TrackingLostError):  # it may end between a wait and a collect
        while not tracker.wait(0.05):
            found.append(tracker.collect())
    assert tracker.wait(10)
    return found


def test_a_launched_program_keeps_its_status(launched: list[ww.ProcessTracker]) -> None:
    launched.append(ww.launch([sys.executable, "-c", "raise SystemExit(7)"]))
    finished(launched[0])
    assert launched[0].exit_status == 7


def test_a_launched_program_is_watched_from_its_first_instruction(
    launched: list[ww.ProcessTracker],
) -> None:
    code = "x = bytearray(32 << 20); input()"
    reader, writer = os.pipe()
    launched.append(ww.launch([sys.executable, "-c", code], stdin=reader))
    tracker = launched[0]
    assert status_of(tracker) is None
    n_pages = 0
    while n_pages < (32 << 20) // PAGE:
        n_pages += tracker.collect().n_pages
    os.write(writer, b"\n")
    finished(tracker)
    assert tracker.exit_status == 0
    os.close(reader)
    os.close(writer)


def test_all_that_descends_from_a_launched_program_is_followed(launched: list[ww.ProcessTracker]) -> None:
    reader, writer = os.pipe()
    code = (
        "import os, subprocess, sys; subprocess.run([sys.executable, '-c', 'import os; os.read(0, 1)']); "
        "os.execvp('cat', ['cat'])"
    )
    launched.append(
        ww.launch([sys.executable, "-c", code], stdin=reader, follow_forks=True, follow_exec=True)
    )
    tracker = launched[0]
    while not tracker.children:
        tracker.collect()
    (child,) = tracker.children
    while not child.collect().n_pages:  # it has to run first
        os.sched_yield()
    assert n_armed(child.pid)
    os.write(writer, b"x")
    with pytest.raises(ww.TrackingLostError, match="has exited"):
        collect_for_ever(child)
    while (writes := tracker.collect()).command != "cat":
        pass
    assert writes.epoch == 0
    assert "exec: now cat" in writes.notes  # held until it was watched: nothing had to be assumed
    os.close(writer)
    with pytest.raises(ww.TrackingLostError, match=f"{tracker.pid} .cat. has exited"):
        collect_for_ever(tracker)
    assert tracker.exit_status == 0
    os.close(reader)


def test_a_program_that_is_not_there_is_an_error_of_the_system() -> None:
    with pytest.raises(FileNotFoundError):
        ww.launch(["/nowhere/at/all"])

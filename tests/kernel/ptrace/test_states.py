"""Targets that are stopped, frozen, waiting for a vfork child, without a leader, without a vdso."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.ptrace.target import SIGCONT, SIGSTOP, Target, request
from writewatch.errors import AttachError
from writewatch.kernel.ptrace.asking import HelperGoneError
from writewatch.kernel.ptrace.attaching import Taken, take_userfaultfd
from writewatch.kernel.ptrace.registers import machine_of
from writewatch.kernel.ptrace.visiting import visit

pytestmark = pytest.mark.usefixtures("attachable")


def take(pid: int) -> Taken:
    taken = take_userfaultfd(pid, deadline_s=10)
    os.close(taken.fd)
    return taken


def lives_on(target: Target) -> None:
    target.is_untraced()
    target.say()
    assert target.line() == "alive 0"


def test_a_stopped_process_stays_stopped() -> None:
    with Target("states", "asleep") as target:
        target.send(SIGSTOP)
        target.await_state("T")
        take(target.pid)
        target.await_state("T")
        target.send(SIGCONT)
        lives_on(target)


def test_a_storm_of_stops_and_continues(soak: int) -> None:
    with Target("states", "asleep") as target:
        for number in range(60 * soak):
            target.send(SIGSTOP if number % 2 else SIGCONT)
            take(target.pid)
        target.send(SIGCONT)
        lives_on(target)


def test_a_thread_that_runs_exec_while_it_is_seized_is_let_go() -> None:
    """It has the number of its process then, and Linux stops it under that."""
    machine = machine_of()
    assert machine is not None
    with Target("states", "execs") as target:
        assert target.tid != target.pid
        tasks = Path(f"/proc/{target.pid}/task")

        def have_it_run_exec(point: str) -> None:
            if point == "seized":
                target.say()
                while any(tasks.glob(str(target.tid))):
                    pass

        request = {"do": "take", "pid": target.pid, "tid": target.tid, "deadline_s": 5.0, "mine": -1}
        assert visit(request, machine, have_it_run_exec) == ({"failed": "ended"}, -1)
        target.is_untraced()
        assert target.line().startswith("ready")
        lives_on(target)


def test_a_leader_that_has_ended_leaves_its_threads() -> None:
    with Target("states", "leaderless") as target:
        target.await_state("Z")
        taken = take(target.pid)
        assert taken.tid == target.tid != target.pid
        assert "goroutine" not in " ".join(taken.notes)
        target.say()
        assert target.line() == "alive 0"


def test_a_thread_with_files_of_its_own() -> None:
    with Target("states", "unshared") as target:
        answer, fd = request(target.pid, target.tid)
        assert "failed" not in answer
        os.close(fd)
        lives_on(target)


@pytest.mark.parametrize("spins", [False, True])
def test_a_process_without_a_vdso(spins: bool) -> None:
    with Target("states", "vdsoless", *["spins"] * spins) as target:
        take(target.pid)
        assert target.is_alive
        if not spins:
            lives_on(target)


def test_a_parent_that_waits_for_its_vfork_child() -> None:
    with Target("states", "vfork") as target:
        child = target.tid
        with pytest.raises(AttachError, match=rf"no thread of {target.pid} .*vfork child {child}\)"):
            take_userfaultfd(target.pid, deadline_s=0.05)
        with pytest.raises(HelperGoneError):
            request(target.pid, target.pid, deadline_s=0.05)
        lives_on(target)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of version 2 that may be frozen."""
    for mount in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
        directory = mount / f"writewatch-test-{os.getpid()}"
        try:
            directory.mkdir()
        except OSError:
            continue
        can_freeze = (directory / "cgroup.freeze").exists()
        if can_freeze:
            yield directory
        directory.rmdir()
        if can_freeze:
            return
    pytest.skip("no cgroup of version 2 can be made here")


@contextlib.contextmanager
def frozen(cgroup: Path, pid: int, file: str, words: tuple[str, str]) -> Iterator[None]:
    """A process is in a frozen cgroup inside, and where it was after: a frozen one could not even be killed."""
    home = cgroup.parent / "cgroup.procs"
    (cgroup / "cgroup.procs").write_text(str(pid))
    (cgroup / file).write_text(words[0])
    try:
        yield
    finally:
        (cgroup / file).write_text(words[1])
        home.write_text(str(pid))


def frozen_v2(cgroup: Path, pid: int) -> contextlib.AbstractContextManager[None]:
    return frozen(cgroup, pid, "cgroup.freeze", ("1", "0"))


def await_frozen(cgroup: Path) -> None:
    while "frozen 1" not in (cgroup / "cgroup.events").read_text():
        pass


def test_a_frozen_process_is_refused(cgroup: Path) -> None:
    with Target("states", "asleep") as target:
        with frozen_v2(cgroup, target.pid):
            await_frozen(cgroup)
            with pytest.raises(
                AttachError, match=f"^{target.pid} is frozen by cgroup /{cgroup.name}; thaw it first$"
            ):
                take(target.pid)
        lives_on(target)


def test_a_process_that_freezes_late_is_put_back(cgroup: Path) -> None:
    with Target("states", "asleep") as target:
        before = target.signals()
        with frozen_v2(cgroup, target.pid):
            await_frozen(cgroup)
            answer, _ = request(target.pid, target.pid, deadline_s=0.1)
            assert answer["failed"] == "frozen"
            assert target.signals() == before
        lives_on(target)


def test_a_process_frozen_by_a_cgroup_of_version_1_is_refused() -> None:
    directory = Path(f"/sys/fs/cgroup/freezer/writewatch-test-{os.getpid()}")
    try:
        directory.mkdir()
    except OSError:
        pytest.skip("no cgroup of version 1 can be made here")
    with Target("states", "asleep") as target:
        with frozen(directory, target.pid, "freezer.state", ("FROZEN", "THAWED")):
            with pytest.raises(
                AttachError, match=f"^{target.pid} is frozen by cgroup /{directory.name}; thaw it"
            ):
                take(target.pid)
            with pytest.raises(HelperGoneError):  # one that freezes late does not stop
                request(target.pid, target.pid, deadline_s=0.05)
        directory.rmdir()
        lives_on(target)

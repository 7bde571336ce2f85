"""A program that is followed is held where it can write no more, for a moment, and ends as it would have."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.ptrace.target import program
from writewatch.kernel.ptrace.launching import Ended, Ending, Event, Launched, NewMemory, launch

pytestmark = pytest.mark.usefixtures("attachable")

_LONG_S = 60.0


def start(argv: Sequence[str], *, patience_s: float = _LONG_S, **keywords: Any) -> Launched:
    """A launched program of which everything is followed."""
    return launch(argv, **{"follow_forks": True, "end_patience_s": patience_s, **keywords})


def release(launched: Launched, event: Event) -> None:
    """What a watcher does with an event, without looking."""
    if isinstance(event, NewMemory):
        assert event.taken is not None, event.reason
        os.close(event.taken.fd)
        launched.release(event.pid)
    elif isinstance(event, Ending):
        launched.let_end(event.pid)


def until_the_end_of(launched: Launched, pid: int) -> list[Event]:
    """Events until a process is held at its end."""
    seen: list[Event] = []
    while (event := launched.next_event(_LONG_S)) != Ending(pid):
        assert event is not None
        seen.append(event)
        release(launched, event)
    return seen


def all_events(launched: Launched) -> list[Event]:
    """Events until the program has ended; what was held looked whole then."""
    seen: list[Event] = []
    while (event := launched.next_event(_LONG_S)) is not None:
        seen.append(event)
        if isinstance(event, Ending):
            assert has_memory(event.pid)
        release(launched, event)
        if isinstance(event, Ended) and event.pid == launched.pid:
            break
    return seen


def has_memory(pid: int) -> bool:
    """Whether a thread of it has an mm; the first may have ended long ago."""
    return any("VmRSS" in path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status"))


def helper_of(launched: Launched) -> int:
    status = Path(f"/proc/{launched.pid}/status").read_text()
    return int(status.split("PPid:\t")[1].split()[0])


def await_end(pid: int) -> None:
    """Until a process that is no child of ours has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], _LONG_S)[0], "it hangs"
    finally:
        os.close(pidfd)


PYTHON = [sys.executable, "-I", "-S", "-c"]
THREADS = (
    "import os, signal, threading, time\n"
    "for n in range(8): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
)
LEADERLESS = (
    "import ctypes, os, threading\n"
    "def stay():\n"
    "    while 'State:\\tZ' not in open(f'/proc/{os.getpid()}/status').read(): pass\n"
    "    os._exit(6)\n"
    "threading.Thread(target=stay).start()\n"
    "ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)\n"
)


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], -9),
        (["sh", "-c", "kill -TERM $$"], -15),
        ([*PYTHON, THREADS + "os._exit(5)"], 5),
        ([*PYTHON, THREADS + "os.kill(os.getpid(), signal.SIGKILL)"], -9),
        ([*PYTHON, THREADS + "os.kill(os.getpid(), signal.SIGTERM)"], -15),
        ([*PYTHON, LEADERLESS], 6),
    ],
    ids=["true", "exit", "kill", "term", "threads", "threads-kill", "threads-term", "leaderless"],
)
@pytest.mark.parametrize("followed", ["follow_forks", "follow_exec"])
def test_it_is_held_once_and_keeps_its_status(followed: str, argv: Sequence[str], status: int) -> None:
    keywords = {"follow_forks": False, followed: True}
    with start(argv, **keywords) as launched:
        seen = all_events(launched)
    assert [event for event in seen if not isinstance(event, NewMemory)] == [
        Ending(launched.pid),
        Ended(launched.pid, status),
    ]


def test_by_a_signal_of_another_process_too() -> None:
    with start(["sleep", "1000"]) as launched:
        release(launched, launched.next_event() or pytest.fail("there is no program"))
        while "State:\tS" not in Path(f"/proc/{launched.pid}/status").read_text():
            os.sched_yield()
        os.kill(launched.pid, signal.SIGKILL)
        assert all_events(launched) == [Ending(launched.pid), Ended(launched.pid, -signal.SIGKILL)]


def test_a_thousand_threads_end_without_being_held() -> None:
    code = (
        "import threading\n"
        "threading.stack_size(65536)\n"
        "threads = [threading.Thread(target=str) for _ in range(1000)]\n"
        "[one.start() for one in threads]; [one.join() for one in threads]\n"
    )
    with start([*PYTHON, code]) as launched:
        seen = all_events(launched)
    assert [type(event) for event in seen] == [NewMemory, Ending, Ended]
    assert launched.exit_status == 0


def test_every_process_is_held_that_has_memory_of_its_own() -> None:
    script = "import os, subprocess\nif os.fork() == 0: os._exit(3)\nos.wait()\nsubprocess.run(['true'])"
    with start([*PYTHON, script]) as launched:
        seen = all_events(launched)
    with_memory = {event.pid for event in seen if isinstance(event, NewMemory)}
    assert sorted(event.pid for event in seen if isinstance(event, Ending)) == sorted(with_memory)
    assert len(with_memory) == 3


def test_a_vfork_child_is_not_held_while_it_has_the_memory_of_its_parent() -> None:
    with start([program("states"), "vfork"], stdin=subprocess.DEVNULL) as launched:
        seen = all_events(launched)
    assert [event for event in seen if isinstance(event, Ending)] == [Ending(launched.pid)]


@pytest.mark.parametrize("mode", ["exec", "exec-in-thread"])
def test_exec_with_threads_running_holds_nobody(mode: str) -> None:
    with start([program("ending"), mode, "0"], stdout=subprocess.DEVNULL) as launched:
        seen = all_events(launched)
    assert [type(event) for event in seen] == [NewMemory, NewMemory, Ending, Ended]
    assert launched.exit_status == 5


def test_a_program_that_cannot_be_executed_is_an_error_as_before() -> None:
    with pytest.raises(FileNotFoundError):
        start(["no-such-program"])


# ---- nobody hangs --------------------------------------------------------------------------------


def test_whoever_is_not_let_go_ends_after_a_while() -> None:
    with start(["sh", "-c", "exit 4"], patience_s=0.01) as launched:
        until_the_end_of(launched, launched.pid)
        assert launched.next_event(_LONG_S) == Ended(launched.pid, 4)


def test_closing_lets_it_end() -> None:
    with start(["true"]) as launched:
        until_the_end_of(launched, launched.pid)
    await_end(launched.pid)


def test_when_the_helper_is_killed_it_ends() -> None:
    with start(["true"]) as launched:
        until_the_end_of(launched, launched.pid)
        os.kill(helper_of(launched), signal.SIGKILL)
        await_end(launched.pid)
        assert launched.next_event(_LONG_S) is None


def test_signals_that_come_too_late_change_nothing() -> None:
    with start(["sh", "-c", "exit 4"], patience_s=0.1) as launched:
        until_the_end_of(launched, launched.pid)
        for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
            os.kill(launched.pid, number)
        assert launched.next_event(_LONG_S) == Ended(launched.pid, 4)


def test_when_its_watcher_is_killed_it_ends() -> None:
    script = (
        "import os, signal\n"
        "from writewatch.kernel.ptrace.launching import Ending, launch\n"
        "launched = launch(['sh', '-c', 'true'], follow_forks=True, end_patience_s=1000)\n"
        "while not isinstance(event := launched.next_event(60), Ending):\n"
        "    launched.release(event.pid)\n"
        "print(launched.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    await_end(int(done.stdout))


def test_killed_before_its_first_instruction_it_is_held_at_its_end() -> None:
    with start(["true"]) as launched:
        first = launched.next_event()
        os.kill(launched.pid, signal.SIGKILL)
        assert launched.next_event(_LONG_S) == Ending(launched.pid)
        assert first is not None
        release(launched, first)  # is no word about its end
        assert launched.next_event(0.05) is None
        launched.let_end(launched.pid)
        assert launched.next_event(_LONG_S) == Ended(launched.pid, -signal.SIGKILL)


def test_its_parent_waits_for_it_as_ever() -> None:
    script = 'for n in 1 2 3 4 5 6 7 8; do sh -c "exit $n" & wait $!; test $? = $n || exit 1; done; exit 9'
    with start(["sh", "-c", script]) as launched:
        seen = all_events(launched)
    assert launched.exit_status == 9
    assert {event.status for event in seen if isinstance(event, Ended)} == {*range(1, 10)}


def test_a_stopped_group_that_is_killed_ends() -> None:
    with start(["sh", "-c", "kill -STOP $$; exit 3"]) as launched:
        release(launched, launched.next_event() or pytest.fail("there is no program"))
        while "(tracing stop)" not in Path(f"/proc/{launched.pid}/status").read_text():
            os.sched_yield()
        os.kill(launched.pid, signal.SIGKILL)
        # It may be held once more or not: the stop may be the one before that of its group, from which it goes on.
        assert all_events(launched)[-1] == Ended(launched.pid, -signal.SIGKILL)

"""A program that is launched is held before its first instruction, and is none the wiser."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.ptrace.target import program
from writewatch.errors import UsageError
from writewatch.kernel.ptrace import packets
from writewatch.kernel.ptrace.launching import Ended, Ending, Launched, NewMemory, launch

pytestmark = pytest.mark.usefixtures("attachable")


@contextlib.contextmanager
def running(argv: Sequence[str], **keywords: Any) -> Iterator[Launched]:
    """A launched program that does not outlive the test."""
    with launch(argv, **keywords) as launched:
        try:
            yield launched
        finally:
            if launched.exit_status is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(launched.pid, signal.SIGKILL)


def events(launched: Launched) -> list[NewMemory | Ended]:
    """All events to the end; what is held is released."""
    seen: list[NewMemory | Ended] = []
    while (event := launched.next_event(60)) is not None:
        assert not isinstance(event, Ending)  # nobody watches the memory here, so nobody is held
        seen.append(event)
        if isinstance(event, NewMemory):
            assert event.taken is not None, event.reason
            os.close(event.taken.fd)
            launched.release(event.pid)
        elif event.pid == launched.pid:
            break
    return seen


def causes(seen: list[NewMemory | Ended]) -> list[str]:
    return [event.cause for event in seen if isinstance(event, NewMemory)]


@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("true", 0), ("kill -9 $$", -9), ("kill -TERM $$", -15)]
)
@pytest.mark.parametrize("follow", [False, True])
def test_its_exit_status_is_told(script: str, status: int, follow: bool) -> None:
    with running(["sh", "-c", script], follow_forks=follow) as launched:
        seen = events(launched)
        assert seen[-1] == Ended(launched.pid, status)
        assert launched.exit_status == status


def test_it_is_held_before_its_first_instruction() -> None:
    reader, writer = os.pipe()
    with running(["echo", "hello"], stdout=writer) as launched:
        os.close(writer)
        assert "t (tracing stop)" in Path(f"/proc/{launched.pid}/status").read_text()
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 10)
        os.set_blocking(reader, True)
        events(launched)
        assert os.read(reader, 10) == b"hello\n"
        assert os.read(reader, 10) == b"", "somebody else still has the stream open"
    os.close(reader)


def test_it_is_not_traced_any_more_when_nothing_is_followed() -> None:
    with running(
        [program("states"), "asleep"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as launched:
        seen = events(launched)
        assert causes(seen) == ["exec"]
    with running(["sleep", "60"]) as launched:
        first = launched.next_event()
        assert isinstance(first, NewMemory)
        assert first.taken is not None
        os.close(first.taken.fd)
        launched.release(first.pid)
        while "State:\tS" not in (status := Path(f"/proc/{launched.pid}/status").read_text()):
            pass
        assert "TracerPid:\t0" in status
        os.kill(launched.pid, signal.SIGTERM)
        assert events(launched) == [Ended(launched.pid, -signal.SIGTERM)]


def test_every_process_that_descends_from_it_is_held_too() -> None:
    script = "import os, subprocess\nif os.fork() == 0: os._exit(3)\nos.wait()\nsubprocess.run(['true'])"
    with running([sys.executable, "-I", "-S", "-c", script], follow_forks=True) as launched:
        seen = events(launched)
    memories = [event for event in seen if isinstance(event, NewMemory)]
    assert [one.cause for one in memories] in (["exec", "fork", "exec"], ["exec", "fork", "fork", "exec"])
    assert {one.parent for one in memories[1:]} == {launched.pid}
    assert Ended(memories[1].pid, 3) in seen


def test_a_vfork_child_has_no_memory_of_its_own() -> None:
    with running([program("states"), "vfork"], follow_forks=True, stdin=subprocess.DEVNULL) as launched:
        assert causes(events(launched)) == ["exec"]


def test_threads_are_no_processes() -> None:
    with running(
        [program("ending"), "exit", "100"], follow_forks=True, stdout=subprocess.DEVNULL
    ) as launched:
        seen = events(launched)
    assert causes(seen) == ["exec"]
    assert launched.exit_status == 5


@pytest.mark.parametrize(("follow", "expected"), [(False, ["exec"]), (True, ["exec", "exec", "exec"])])
def test_what_it_becomes_by_exec(follow: bool, expected: list[str]) -> None:
    with running(["sh", "-c", "exec sh -c 'exec true'"], follow_exec=follow) as launched:
        assert causes(events(launched)) == expected


@pytest.mark.parametrize("follow", ["follow_exec", "follow_forks"])
def test_exec_by_a_thread_that_is_not_the_leader(follow: str) -> None:
    command = [program("ending"), "exec-in-thread", "0"]
    keywords: dict[str, Any] = {follow: True}
    with running(command, stdout=subprocess.DEVNULL, **keywords) as launched:
        assert causes(events(launched)) == ["exec", "exec"]
        assert launched.exit_status == 5


def test_children_are_left_alone_where_only_exec_is_followed() -> None:
    script = "import os\nif os.fork() == 0: os._exit(3)\nos.wait()\nos.execvp('true', ['true'])"
    with running([sys.executable, "-I", "-S", "-c", script], follow_exec=True) as launched:
        seen = events(launched)
    assert causes(seen) == ["exec", "exec"]
    assert {event.pid for event in seen} == {launched.pid}


def test_signals_pass_through_and_stops_work() -> None:
    script = "trap 'exit 9' USR1; echo here; kill -STOP $$; while :; do :; done"
    reader, writer = os.pipe()
    with running(["sh", "-c", script], follow_forks=True, stdout=writer) as launched:
        first = launched.next_event()
        assert isinstance(first, NewMemory)
        assert first.taken is not None
        os.close(first.taken.fd)
        launched.release(first.pid)
        assert os.read(reader, 10) == b"here\n"
        status = Path(f"/proc/{launched.pid}/status")
        while "State:\tt" not in status.read_text():  # LISTEN keeps a traced group in t
            pass
        os.kill(launched.pid, signal.SIGUSR1)
        os.kill(launched.pid, signal.SIGCONT)
        assert events(launched)[-1] == Ended(launched.pid, 9)
    os.close(reader)
    os.close(writer)


_STOPS_ITS_CHILD = """
import os, select, signal
r, w = os.pipe()
child = os.fork()
if not child:
    os.write(w, b"ran")
    signal.pause()
os.kill(child, signal.SIGSTOP)
os.waitpid(child, os.WUNTRACED)
ran = bool(select.select([r], [], [], 0.1)[0])
os.kill(child, signal.SIGCONT)
went_on = os.read(r, 3) == b"ran"
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
os._exit(ran + 2 * went_on)
"""


def test_a_child_that_is_stopped_while_it_is_held_stays_stopped() -> None:
    with running([sys.executable, "-I", "-S", "-c", _STOPS_ITS_CHILD], follow_forks=True) as launched:
        seen = events(launched)
    assert causes(seen) == ["exec", "fork"]
    assert seen[-1] == Ended(launched.pid, 2)


def test_dispositions_of_signals_are_those_of_a_program_that_a_shell_starts() -> None:
    command = ["grep", "Sig[BIC]", "/proc/self/status"]
    reader, writer = os.pipe()
    with running(command, stdout=writer) as launched:
        os.close(writer)
        events(launched)
    with os.fdopen(reader) as file:
        assert file.read() == subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_environment_directory_and_descriptors_are_those_asked_for(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    command = ["sh", "-c", f"echo $WORD; pwd; echo kept > /proc/self/fd/{writer}"]
    env = {"WORD": "näh\udce9", "PATH": os.environ["PATH"]}
    with running(command, env=env, cwd=tmp_path, stdout=writer, pass_fds=[writer]) as launched:
        os.close(writer)
        events(launched)
    with os.fdopen(reader, errors="surrogateescape") as file:
        assert file.read().split("\n")[:3] == [env["WORD"], str(tmp_path.resolve()), "kept"]


@pytest.mark.parametrize("name", ["no-such-program", "/"])
def test_a_program_that_cannot_be_executed(name: str) -> None:
    with pytest.raises(OSError, match=name):
        launch([name])


def test_misuse_is_refused() -> None:
    with pytest.raises(UsageError):
        launch([])
    with pytest.raises(UsageError, match="PIPE"):
        launch(["true"], stdout=subprocess.PIPE)


def test_what_is_typed_at_the_terminal_reaches_the_program_alone() -> None:
    script = (
        "import os, signal\n"
        "from writewatch.kernel.ptrace.launching import launch\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "with launch(['sleep', '60'], follow_forks=True) as launched:\n"
        "    os.close(launched.next_event().taken.fd)\n"
        "    launched.release(launched.pid)\n"
        "    print(launched.pid, flush=True)\n"
        "    print(launched.next_event(60).status)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as owner:
        assert owner.stdout is not None
        assert int(owner.stdout.readline())
        os.killpg(owner.pid, signal.SIGINT)
        assert owner.stdout.read() == f"{-signal.SIGINT}\n"


def test_closing_lets_everything_run() -> None:
    reader, writer = os.pipe()
    with launch(["sh", "-c", "echo one; sh -c 'echo two'"], follow_forks=True, stdout=writer):
        os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == "one\ntwo\n"


def test_an_owner_that_is_killed_leaves_the_program_running() -> None:
    script = (
        "import os, signal\n"
        "from writewatch.kernel.ptrace.launching import launch\n"
        "launched = launch(['sh', '-c', 'echo alive'], follow_forks=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-9, "alive\n")


def test_the_end_is_heard_though_the_helper_left_a_word_unread() -> None:
    ours, theirs = packets.pair()
    with Launched(ours) as launched:
        packets.send(theirs, {"event": "ended", "pid": 5, "status": 3})
        launched.let_end(5)
        theirs.close()  # with that unread: Linux resets the connection
        assert launched.next_event(0) == Ended(5, 3)
        assert launched.next_event(0) is None

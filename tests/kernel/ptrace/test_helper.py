"""The helper process: nobody's child, without NumPy, replaced when it has died, not shared with a forked child."""

from __future__ import annotations

import ast
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import writewatch
from tests.kernel.ptrace.target import Target, kill_helper_at, request
from writewatch.errors import AttachError
from writewatch.kernel.ptrace import asking, helper, packets
from writewatch.kernel.ptrace.attaching import take_userfaultfd

SOURCE = Path(writewatch.__file__).parent


def test_what_it_imports_needs_the_standard_library_alone() -> None:
    program = (
        f"import runpy, sys; helper = runpy.run_path({helper.__file__!r}); helper['import_without_numpy']()\n"
        "import writewatch.kernel.ptrace.visiting, writewatch.kernel.ptrace.following\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(answer.stdout.split()) - {"writewatch", "__main__"}
    assert loaded <= sys.stdlib_module_names | {"__mp_main__"}


def test_no_module_imports_it() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            assert not any(f"{module}.{name}".endswith("ptrace.helper") for name in names), path


pytestmark = pytest.mark.usefixtures("attachable")


def take(pid: int) -> None:
    os.close(take_userfaultfd(pid, deadline_s=10).fd)


def test_it_is_no_child_of_ours() -> None:
    with Target("states", "asleep") as target:
        take(target.pid)
        with pytest.raises(ChildProcessError):
            os.waitpid(-target.pid, os.WNOHANG)  # a group that does not exist
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in children:
            assert "helper.py" not in Path(f"/proc/{child}/cmdline").read_text()


def test_no_descriptor_is_left_over() -> None:
    with Target("states", "asleep") as target:
        take(target.pid)
        before = sorted(os.listdir("/proc/self/fd"))
        theirs = sorted(os.listdir(f"/proc/{target.pid}/fd"))
        for _ in range(5):
            take(target.pid)
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert sorted(os.listdir(f"/proc/{target.pid}/fd")) == theirs


def test_the_descriptor_closes_with_exec() -> None:
    with Target("states", "asleep") as target:
        taken = take_userfaultfd(target.pid, deadline_s=10)
        assert not os.get_inheritable(taken.fd)
        assert not os.get_blocking(taken.fd)
        os.close(taken.fd)


def test_another_one_is_started_when_it_was_killed() -> None:
    with Target("states", "asleep") as target:
        kill_helper_at("stopped", target.pid, target.tid)
        take(target.pid)


def test_one_that_ended_while_it_was_idle_is_replaced() -> None:
    with Target("states", "asleep") as target:
        take(target.pid)
        idle = asking._idle
        assert idle is not None
        signal.pidfd_send_signal(idle._process, signal.SIGKILL)
        idle._await_end()
        take(target.pid)
        assert asking._idle is not idle


def test_one_with_other_rights_than_ours_is_not_used() -> None:
    with Target("states", "asleep") as target:
        take(target.pid)
        idle = asking._idle
        assert idle is not None
        idle.rights = ("somebody else",)
        take(target.pid)
        assert asking._idle is not idle


def test_threads_take_turns() -> None:
    with Target("states", "asleep") as target:
        threads = [threading.Thread(target=take, args=(target.pid,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        target.is_untraced()


def test_a_forked_child_has_one_of_its_own() -> None:
    program = (
        "import os, sys\n"
        "from writewatch.kernel.ptrace import asking\n"
        "from writewatch.kernel.ptrace.attaching import take_userfaultfd\n"
        "pid = int(sys.argv[1])\n"
        "os.close(take_userfaultfd(pid, deadline_s=10).fd)\n"
        "mine = asking._idle\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    assert asking._idle is None\n"
        "    os.close(take_userfaultfd(pid, deadline_s=10).fd)\n"
        "    os._exit(3)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3\n"
        "os.close(take_userfaultfd(pid, deadline_s=10).fd)\n"
        "assert asking._idle is mine\n"
    )
    with Target("states", "asleep") as target:
        subprocess.run([sys.executable, "-c", program, str(target.pid)], check=True, timeout=60)


def test_it_ends_with_its_owner() -> None:
    ours, theirs = packets.pair()
    with theirs:
        command = [sys.executable, "-I", "-S", helper.__file__, str(theirs.fileno())]
        subprocess.run(command, pass_fds=[theirs.fileno()], check=True)
    process = os.pidfd_open(packets.receive(ours)[0]["pid"])
    ours.close()
    assert select.select([process], [], [], 60)[0], "it lives on"
    os.close(process)


def test_a_thread_that_has_ended_is_told_from_a_refusal() -> None:
    with Target("states", "asleep") as target:
        assert request(target.pid, 4194304)[0] == {"failed": "ended"}


def test_a_traced_process_names_its_tracer() -> None:
    with Target("states", "asleep") as target:
        program = (
            "import sys\nfrom writewatch.kernel.ptrace.tracing import Patience, Tracee\n"
            f"Tracee({target.pid}, Patience()).seize(0)\nprint(flush=True)\ninput()"
        )
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as tracer:
            assert tracer.stdout is not None
            tracer.stdout.readline()
            with pytest.raises(AttachError, match=rf"is being traced by .* \(pid {tracer.pid}\); detach it"):
                take(target.pid)
            tracer.communicate(b"\n")
        take(target.pid)


def test_a_program_that_attached_ends_without_a_complaint() -> None:
    with Target("states", "asleep") as target:
        program = (
            "import os; from writewatch.kernel.ptrace.attaching import take_userfaultfd\n"
            f"os.close(take_userfaultfd({target.pid}, deadline_s=10).fd)"
        )
        words = [sys.executable, "-X", "dev", "-W", "error", "-c", program]
        done = subprocess.run(words, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_helper_whose_owner_has_gone_ends_without_a_complaint() -> None:
    ours, theirs = packets.pair()
    ours.close()
    with theirs:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(asking._HELPER), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.PIPE,  # read to its end: until the helper has ended too
        )
    assert done.stderr == b""

"""What a careless injection takes from its target, and this one leaves: signals, sequences, filters, registers."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.kernel.ptrace.target import Target, request
from writewatch.kernel.ptrace.facts import read_observer
from writewatch.kernel.ptrace.registers import machine_of
from writewatch.kernel.ptrace.visiting import visit

pytestmark = pytest.mark.usefixtures("attachable")


def attach(target: Target, times: int = 3) -> list[str]:
    """Attach to the thread that said it was ready; notes of the last time."""
    notes = []
    for _ in range(times):
        answer, fd = request(target.pid, target.tid)
        assert "failed" not in answer, answer
        os.close(fd)
        notes = answer["notes"]
    target.is_untraced()
    return notes


@pytest.mark.parametrize("spins", [False, True])
@pytest.mark.parametrize("how", ["ignored", "blocked", "handled"])
def test_what_a_program_does_about_sigtrap_stays(how: str, spins: bool) -> None:
    with Target("sigtrap", how, *["spins"] * spins) as target:
        before = target.signals()
        attach(target)
        assert target.signals() == before


@pytest.mark.parametrize("spins", [False, True])
def test_no_queued_signal_is_lost(spins: bool, soak: int) -> None:
    n_signals = 20
    with Target("signals", *["spins"] * spins) as target:
        for _ in range(30 * soak):
            for _ in range(n_signals):
                target.send(signal.SIGRTMIN)
            attach(target, 1)
        target.say()
        assert int(target.line()) == n_signals * 30 * soak


def test_a_restartable_sequence_stays_atomic(soak: int) -> None:
    with Target("rseq", awaits_ready=False) as target:
        target.tid = int(target.line())
        if not target.tid:
            pytest.skip("this C library registers no restartable sequences")
        assert target.line().startswith("ready")
        attach(target, 100 * soak)
        target.say()
        done, counted = target.line().split()
        assert done == counted


def test_vector_registers_keep_their_values() -> None:
    with Target("spinning") as target:
        target.await_running()
        attach(target, 20)
        target.send(signal.SIGUSR1)
        assert target.line() == "0 1"


def test_what_is_below_the_stack_pointer_stays() -> None:
    """A signal handler on an alternate stack may have the locals of a function there that it interrupted."""
    with Target("states", "asleep") as target:
        target.await_syscall()
        before = whole_stack(target.pid)
        attach(target)
        assert whole_stack(target.pid) == before


def whole_stack(pid: int) -> bytes:
    maps = Path(f"/proc/{pid}/maps").read_text()
    match = re.search(r"^(\w+)-(\w+) .*\[stack\]$", maps, re.MULTILINE)
    assert match is not None
    start, end = (int(word, 16) for word in match.groups())
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        return os.pread(memory.fileno(), end - start, start)


@pytest.mark.parametrize("blocks", [False, True])
def test_system_calls_are_dispatched_again_afterwards(blocks: bool) -> None:
    with Target("dispatch", *["blocks"] * blocks, awaits_ready=False) as target:
        if target.line().startswith("unknown"):
            pytest.skip("this kernel has no syscall user dispatch")
        before = target.signals()
        notes = attach(target)
        assert any("dispatched" in note for note in notes) == blocks
        assert target.signals() == before
        target.send(signal.SIGUSR1)
        assert target.line() == "1"


#: What the target says when it makes the call itself afterwards; nothing where the filter kills it.
FILTERS = {"errno": "errno 38", "trap": "trapped 31", "trace": "errno 38", "kill": "", "strict": ""}


@pytest.mark.parametrize("kind", FILTERS)
def test_a_filter_of_system_calls_stands_again_afterwards(kind: str) -> None:
    if not read_observer().suspends_filters:
        pytest.skip("suspending a filter takes CAP_SYS_ADMIN and no filter of our own")
    with Target("filtered", kind) as target:
        assert target.line() == "filtered 0"
        attach(target)
        target.say()
        assert target.line() == FILTERS[kind]


def test_a_filter_stands_until_the_thread_is_stopped() -> None:
    said = []
    with Target("filtered", "errno") as target:
        assert target.line() == "filtered 0"

        def make_the_call(point: str) -> None:
            if point == "seized":
                target.say()
                said.append(target.line())

        request = {"do": "take", "pid": target.pid, "tid": target.tid, "deadline_s": 5.0, "mine": -1}
        machine = machine_of()
        assert machine is not None
        _, fd = visit(request, machine, make_the_call)
        if fd >= 0:  # else it has ended, or filters may not be lifted
            os.close(fd)
    assert said == [FILTERS["errno"]]


def test_a_process_without_room_for_a_descriptor_says_so() -> None:
    import resource

    with Target("states", "asleep") as target:
        limits = resource.prlimit(target.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(target.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        answer, fd = request(target.pid, target.tid)
        assert (answer["failed"], answer["errno"], fd) == ("call", 24, -1)
        resource.prlimit(target.pid, resource.RLIMIT_NOFILE, limits)
        attach(target)
        target.say()
        assert target.line() == "alive 0"

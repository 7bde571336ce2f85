"""Where no frame can be written the thread is held without one, and a note says so; what cannot be held is let go."""

from __future__ import annotations

import os

import pytest

from tests.kernel.ptrace.target import Target, request
from writewatch.errors import AttachError
from writewatch.kernel.ptrace.attaching import take_userfaultfd

pytestmark = pytest.mark.usefixtures("attachable", "x86_64")


def attach(target: Target) -> tuple[str, ...]:
    taken = take_userfaultfd(target.pid, deadline_s=10)
    os.close(taken.fd)
    assert not taken.restores_itself
    return taken.notes


@pytest.mark.parametrize("spins", [False, True])
def test_a_program_of_go(spins: bool) -> None:
    with Target("goroutine", *["spins"] * spins) as target:
        before = target.signals()
        for _ in range(3):
            assert "a goroutine's stack may be too small" in attach(target)[0]
        assert target.signals() == before
        target.say()
        assert target.line() == "alive 0"


def test_the_stack_of_a_coroutine() -> None:
    with Target("states", "coroutine") as target:
        assert "there is no room on its stack" in attach(target)[0]
        target.say()
        assert target.line() == "alive 0"


def test_code_of_32_bits_is_let_go() -> None:
    with Target("states", "foreign") as target:
        target.await_running()
        answer, fd = request(target.pid, target.pid)
        assert (answer["failed"], fd) == ("foreign", -1)
        with pytest.raises(AttachError, match=f"^{target.pid} runs 32-bit code: not supported$"):
            take_userfaultfd(target.pid)
        target.is_untraced()
        assert target.state() == "R"

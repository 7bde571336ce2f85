"""Children that are forked between the two calls inherit the descriptor; they are found, and made to close it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.kernel.ptrace.target import Target, request
from writewatch.kernel.ptrace.attaching import take_userfaultfd
from writewatch.kernel.ptrace.facts import children_of
from writewatch.kernel.ptrace.holders import (
    Holder,
    already_tracked,
    copies_in_children,
    held_by,
    holders,
    is_copy,
)
from writewatch.kernel.ptrace.leaks import close_copies

pytestmark = pytest.mark.usefixtures("attachable")

#: A parent and a child with the same userfaultfd, like one that forked in between.
_PARENT = """
import ctypes, os, platform
fd = ctypes.CDLL(None).syscall(323 if platform.machine() == "x86_64" else 282, 1)
child = os.fork()
if child:
    print(child, fd, flush=True)
input()
"""


@pytest.fixture
def family() -> object:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdout is not None
        child, fd = map(int, parent.stdout.readline().split())
        yield parent.pid, child, fd
        parent.communicate("\n\n")


def _copy(pid: int, number: int) -> int:
    from writewatch.kernel import libc

    pidfd = os.pidfd_open(pid)
    try:
        return libc.syscall("pidfd_getfd", pidfd, number, 0)
    finally:
        os.close(pidfd)


def test_a_copy_in_a_child_is_told_from_another_userfaultfd(family: tuple[int, int, int]) -> None:
    parent, child, number = family
    mine = _copy(parent, number)
    other = take_userfaultfd(parent).fd
    try:
        assert copies_in_children(mine, parent, number) == (Holder(child, number),)
        assert copies_in_children(other, parent, number) == ()
        assert held_by(parent) == (Holder(parent, number),)
    finally:
        os.close(mine)
        os.close(other)


def test_a_child_is_made_to_close_its_copy(family: tuple[int, int, int]) -> None:
    parent, child, number = family
    mine = _copy(parent, number)
    try:
        answer, _ = request(child, child, do="close", fd=number, beside=mine)
        assert answer["result"] == 0
        assert held_by(child) == ()
        assert is_copy(mine, Holder(parent, number))
    finally:
        os.close(mine)


def test_a_descriptor_that_is_another_file_stays_open(family: tuple[int, int, int]) -> None:
    parent, child, number = family
    other = take_userfaultfd(parent).fd
    try:
        answer, _ = request(child, child, do="close", fd=number, beside=other)
        assert answer["result"] < 0
        assert held_by(child) == (Holder(child, number),)
    finally:
        os.close(other)


def test_who_holds_a_userfaultfd_is_named(family: tuple[int, int, int]) -> None:
    parent, child, number = family
    mine = take_userfaultfd(parent).fd
    try:
        sentence = already_tracked(mine)
        assert f"pid {parent} fd {number}" in sentence
        assert f"pid {child} fd {number}" in sentence
        assert f"pid {os.getpid()} fd {mine}" not in sentence
        assert Holder(os.getpid(), mine) in holders()
    finally:
        os.close(mine)


def test_no_child_keeps_a_copy_when_another_thread_forks_all_the_time(soak: int) -> None:
    with Target("forking") as target:
        for _ in range(30 * soak):
            taken = take_userfaultfd(target.pid, deadline_s=10)
            children = children_of(target.pid)
            left = [one for pid in children for one in held_by(pid) if is_copy(taken.fd, one)]
            if left:  # a fork took longer than usual
                close_copies(target.pid, taken.fd, taken.number)
            assert not [one for one in left if is_copy(taken.fd, one)]
            os.close(taken.fd)

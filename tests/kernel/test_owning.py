"""Descriptors are kept, or closed, whatever a signal handler raises in between."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from types import FrameType

import pytest

from writewatch.kernel import libc, owning
from writewatch.kernel.owning import Pipe, close_all, opened


def n_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def interrupted(operation: Callable[[], object]) -> int:
    """Run an operation interrupted at its first point where Python looks for signals, at its second, …: how many."""
    for n in range(100):
        remaining = n

        def strike(frame: FrameType, event: str, _: object) -> None:
            nonlocal remaining
            code = frame.f_code
            callers = code, frame.f_back.f_code if frame.f_back else code
            is_last_resort = any(
                one.co_name == "__del__" for one in callers
            )  # Python drops what is raised there
            if event in {"call", "c_return"} and code.co_filename == owning.__file__ and not is_last_resort:
                remaining -= 1
                if remaining == -1:
                    raise KeyboardInterrupt

        before = sys.getprofile()
        sys.setprofile(strike)
        try:
            operation()
        except KeyboardInterrupt:
            continue
        finally:
            sys.setprofile(before)
        return n
    raise AssertionError("it never came to its end")


def test_a_descriptor_is_closed_when_opening_it_was_interrupted() -> None:
    before = n_open()
    assert interrupted(lambda: os.close(opened(os.open, "/dev/null", os.O_RDONLY))) > 1
    assert n_open() == before


def test_both_ends_of_a_pipe_are_closed_when_it_was_interrupted() -> None:
    def use() -> None:
        with Pipe() as (reader, writer):
            os.write(writer, b"x")
            assert os.read(reader, 9) == b"x"

    before = n_open()
    assert interrupted(use) > 1
    assert n_open() == before


def test_opening_raises_what_the_function_raises() -> None:
    before = n_open()
    with pytest.raises(FileNotFoundError):
        opened(os.open, "/nowhere", os.O_RDONLY)
    assert n_open() == before


def test_a_function_of_the_c_library_says_by_a_negative_number_that_nothing_was_opened() -> None:
    assert opened(libc.ioctl_by_value, 1 << 20, 0, 0) == -1
    assert libc.error("ioctl").errno == errno.EBADF


def test_all_are_closed() -> None:
    before = n_open()
    close_all([os.dup(0) for _ in range(5)])
    assert n_open() == before

"""Skips all of attaching where it cannot work, in a sentence."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys

import pytest

from writewatch.errors import AttachError
from writewatch.kernel.probe import capabilities
from writewatch.kernel.ptrace.attaching import take_userfaultfd
from writewatch.kernel.ptrace.registers import machine_of


@functools.cache
def why_not() -> str | None:
    """Why a child of our own cannot be attached to here; None when it can."""
    if machine_of() is None:
        return "attaching is not written for this architecture"
    found = capabilities()["ptrace"]
    if not found.works:
        return f"ptrace does not work here: {found.detail}"
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        os.close(take_userfaultfd(child.pid, deadline_s=10).fd)
    except AttachError as error:
        return f"a child cannot be attached to: {error}"
    finally:
        child.kill()
        child.communicate()
    return None


@pytest.fixture(scope="session")  # before what a module prepares for its tests
def attachable() -> None:
    """Everything that the tests of this directory need."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def soak() -> int:
    """How many times longer than usual to go on (``WRITEWATCH_SOAK``)."""
    return int(os.environ.get("WRITEWATCH_SOAK", "1"))


@pytest.fixture
def x86_64() -> None:
    """Skip what is written for x86-64 alone."""
    if ctypes.sizeof(ctypes.c_void_p) != 8 or os.uname().machine != "x86_64":
        pytest.skip("this is about x86-64")

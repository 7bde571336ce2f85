"""Limits of a process, each met in a process of its own: said in a sentence that names the limit to raise."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(program: str, *, timeout: float = 60) -> str:
    """What a Python program prints that begins with these few words."""
    prelude = """
import errno, mmap, os, resource, sys
import numpy as np
import writewatch as ww
from writewatch.kernel.default import default_calls
from writewatch.abi.mman import *

def tell(backend, *buffers):
    try:
        with ww.track(*buffers, backend=backend) as tracker:
            print(tracker.backend, "|", tracker.reason)
    except (ww.WriteWatchError, MemoryError) as error:
        print(type(error).__name__, "|", error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", prelude + program],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


NO_DESCRIPTOR = """
table = ww.allocate(100_000)
{before}
held = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
tell("{backend}", table)
"""


@pytest.mark.kernel("uffd_wp_async")
def test_no_free_descriptor_is_said_with_the_limit_to_raise() -> None:
    answer = run(NO_DESCRIPTOR.format(before="ww.capabilities()", backend="uffd-wp"))
    assert answer.startswith("KernelUnsupportedError | uffd-wp: ")
    assert "no descriptor is free; raise RLIMIT_NOFILE" in answer


@pytest.mark.kernel("uffd_wp_async")
@pytest.mark.parametrize("before", ["", "ww.capabilities()"], ids=["never probed", "probed before"])
def test_without_a_free_descriptor_another_backend_serves(before: str) -> None:
    answer = run(NO_DESCRIPTOR.format(before=before, backend="auto"))
    backend, reason = answer.split(" | ")
    # The content cannot be hashed where /proc/self/maps cannot tell what may be read.
    assert backend in {"content-hash", "every-page"}
    assert reason.startswith("uffd-wp: ")
    assert "raise" in reason


@pytest.mark.kernel("uffd_wp_async")
def test_what_failed_for_want_of_a_descriptor_works_once_there_is_one() -> None:
    program = NO_DESCRIPTOR.format(before="", backend="auto")
    answer = run(program + "for fd in held: os.close(fd)\ntell('auto', table)")
    assert answer.splitlines()[1].startswith("uffd-wp | ")


TOO_MANY_MAPPINGS = """
calls = default_calls()
page = calls.page_size
whole = calls.mmap(0, 100 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
ww.capabilities()
n_pages = 300_000
striped = calls.mmap(0, n_pages * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS)
try:
    for at in range(striped, striped + n_pages * page, 2 * page):
        calls.mprotect(at, page, PROT_READ | PROT_WRITE)
except OSError as error:
    assert error.errno == errno.ENOMEM
    tell("uffd-wp", ww.AddrRange(whole + 10 * page, whole + 20 * page))
else:
    print("no limit")
"""


@pytest.mark.kernel("uffd_wp_async")
def test_too_many_mappings_is_said_with_the_limit_to_raise() -> None:
    answer = run(TOO_MANY_MAPPINGS)
    if answer.startswith("no limit"):
        pytest.skip("vm.max_map_count is above 300,000 here")
    # Either the range cannot be split off its mapping, or there is no room for the tracker's own.
    assert answer.startswith(("RangeRefusedError | [0x", "KernelUnsupportedError | uffd-wp: "))
    assert "vm.max_map_count" in answer


NO_MEMORY = """
table = np.frombuffer(mmap.mmap(-1, 1 << 28, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), "u1")
size = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGESIZE")
resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
held = []
try:
    while True:
        held.append(bytearray(1 << 16))
except MemoryError:
    pass
try:
    ww.track(table, backend="content-hash")
except (MemoryError, ww.KernelUnsupportedError) as error:
    held.clear()
    print(type(error).__name__)
resource.setrlimit(resource.RLIMIT_AS, resource.getrlimit(resource.RLIMIT_AS)[1:] * 2)
tell("every-page", table)
tell("content-hash", table[:1000])
"""


def test_no_memory_for_the_digests_is_an_error_that_leaves_every_backend_to_serve() -> None:
    error, every_page, hashed = run(NO_MEMORY).splitlines()
    assert error in {"MemoryError", "_ArrayMemoryError", "KernelUnsupportedError"}
    assert every_page.startswith("every-page | ")
    assert hashed.startswith("content-hash | ")


def test_memory_that_cannot_be_read_is_refused_not_read() -> None:
    answer = run("""
calls = default_calls()
at = calls.mmap(0, 16 * calls.page_size, 0, MAP_PRIVATE | MAP_ANONYMOUS)
span = ww.AddrRange(at, at + 16 * calls.page_size)
tell("content-hash", span)
tell("auto", ww.AddrRange(0x10000, 0x20000))
""")
    refused, unmapped = answer.splitlines()
    assert refused.startswith("RangeRefusedError | [0x")
    # A mapping that appears there later is soft-dirty from its first moment, so that backend may serve.
    assert unmapped.startswith(("every-page | uffd-wp: ", "soft-dirty | uffd-wp: "))

"""Fixtures of the kernel tests: memory, counted descriptors, and skipping by the name of a capability."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from writewatch.kernel.default import default_calls
from writewatch.kernel.probe import capabilities


@pytest.fixture(autouse=True)
def _skip_without_capabilities(request: pytest.FixtureRequest) -> None:
    for marker in request.node.iter_markers("kernel"):
        for name in marker.args:
            found = capabilities()[name]
            if not found.works:
                pytest.skip(f"{name} does not work here: {found.detail}")


@pytest.fixture
def calls() -> KernelCalls:
    return default_calls()


@pytest.fixture
def page(calls: KernelCalls) -> int:
    return calls.page_size


@pytest.fixture
def memory(calls: KernelCalls) -> Iterator[Callable[..., int]]:
    """Map pages: ``memory(16)`` gives the address of 16 fresh private anonymous ones."""
    with ExitStack() as cleanup:

        def pages(count: int, flags: int = MAP_PRIVATE | MAP_ANONYMOUS, fd: int = -1) -> int:
            length = count * calls.page_size
            start = calls.mmap(0, length, PROT_READ | PROT_WRITE, flags, fd)
            cleanup.callback(calls.munmap, start, length)
            return start

        yield pages


@pytest.fixture
def in_thread() -> Iterator[Callable[..., threading.Thread]]:
    """Start a call that may block in Linux; it has to have ended when the test ends."""
    threads = []

    def start(call: Callable[..., object], *arguments: object) -> threading.Thread:
        threads.append(threading.Thread(target=call, args=arguments, daemon=True))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "a call is still blocked"


@pytest.fixture
def descriptors() -> Callable[[], frozenset[str]]:
    """What is open now. The descriptor that lists the directory is gone again when the list is made."""

    def now() -> frozenset[str]:
        names = os.listdir("/proc/self/fd")
        return frozenset(name for name in names if os.path.exists(f"/proc/self/fd/{name}"))

    return now

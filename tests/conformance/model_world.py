"""``ModelWorld``: a process of ``writewatch.model``, which needs no kernel.

What it expects of ``writewatch.model.calls.ModelCalls`` beyond ``KernelCalls``:

* ``ModelCalls()`` boots a machine with one process: 4 KiB pages, 2 MiB huge pages, 64 of them reserved for
  hugetlbfs, swap, THP on request for anonymous memory and shmem, all privileges.
* ``spawn(method, *arguments)`` runs one call, or ``fork``, as a task and returns an object with
  ``settle() -> bool`` (True: ended, False: blocked on a userfaultfd), ``result()`` and ``thread_id``. Nothing
  runs behind its back: a task goes on inside the call that wakes it, or in ``settle``.
* ``fork() -> ModelCalls`` for the child, ``exit()``, ``execve()``, ``pid``,
  ``send_descriptor(fd, other) -> int``.
* ``regular_file(length, writable) -> int``, ``mlock(addr, length)``, ``vm_flags(addr)``, ``seal(fd, seals)``,
  ``uffd_features(fd)``, ``drop_privileges()``, ``touch(addresses, value)``.
* A load or store that gets a signal raises an exception with attributes ``signal``, ``address``, ``code``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, cast

from tests.conformance.world import MemorySignal, Need, Task, Unavailable, World
from writewatch.abi import mman
from writewatch.abi.calls import KernelCalls

#: What the model does not have, with the reason that a skip shows.
MISSING: dict[Need, str] = {
    Need.COMPACTION: "the model has no compaction; frames never move",
}


def boot() -> ModelWorld:
    """A new machine with one process; ``Unavailable`` while there is no model to boot."""
    try:
        calls = importlib.import_module("writewatch.model.calls").ModelCalls()
    except (ImportError, AttributeError) as failure:
        raise Unavailable(f"needs writewatch.model: {failure}") from failure
    return ModelWorld(calls)


class _Calls:
    """The model's calls, whose signals become ``MemorySignal`` and whose gaps become skips."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.page_size: int = model.page_size
        self.huge_page_size: int = model.huge_page_size

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if not hasattr(self._model, method):
            raise Unavailable(f"the model has no {method}")
        return functools.partial(_translated, getattr(self._model, method))


def _translated(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except NotImplementedError as gap:
        raise Unavailable(f"the model cannot do this yet: {gap}") from gap
    except Exception as failure:
        facts: Any = failure
        if not hasattr(facts, "signal"):
            raise
        raise MemorySignal(facts.signal, facts.address, facts.code) from failure


class ModelTask(Task):
    """A task of the model's scheduler."""

    def __init__(self, task: Any, *, is_fork: bool) -> None:
        self._task = task
        self._is_fork = is_fork

    @property
    def thread_id(self) -> int:
        return int(self._task.thread_id)

    def settle(self) -> bool:
        return bool(self._task.settle())

    def result(self) -> Any:
        value = _translated(self._task.result)
        return ModelWorld(value) if self._is_fork else value


class ModelWorld(World):
    """A process of the model."""

    kind = "model"

    def __init__(self, model: Any) -> None:
        self._model = model
        self._own = _Calls(model)
        self.calls = cast(KernelCalls, self._own)

    def lacks(self, need: Need) -> str:
        return MISSING.get(need, "")

    @property
    def pid(self) -> int:
        return int(self._model.pid)

    def spawn(self, method: str, *arguments: Any) -> Task:
        return ModelTask(self._own.spawn(method, *arguments), is_fork=method == "fork")

    def fork(self) -> World:
        return ModelWorld(self._own.fork())

    def execute(self) -> None:
        self._own.execve()

    def drop_privileges(self) -> None:
        self._own.drop_privileges()

    def exit(self) -> None:
        self._own.exit()

    def send_descriptor(self, fd: int, other: World) -> int:
        assert isinstance(other, ModelWorld)
        return int(self._own.send_descriptor(fd, other._model))

    def regular_file(self, length: int, *, writable: bool = True) -> int:
        return int(self._own.regular_file(length, writable))

    def mlock(self, addr: int, length: int) -> None:
        self._own.mlock(addr, length)

    def memfd_secret(self) -> int:
        return int(self._own.memfd_secret())

    def seal(self, fd: int, seals: int) -> None:
        self._own.seal(fd, seals)

    def page_out(self, addr: int, length: int) -> None:
        self.calls.madvise(addr, length, mman.MADV_PAGEOUT)

    def compact_memory(self) -> None:
        self._own.compact_memory()

    def vm_flags(self, addr: int) -> frozenset[str]:
        return frozenset(self._own.vm_flags(addr))

    def store_faults(self, addr: int, data: bytes) -> int:
        before = self.calls.completed_faults()
        self.calls.store(addr, data)
        return self.calls.completed_faults() - before

    def touch(self, addresses: Sequence[int], value: int = 1) -> None:
        self._own.touch(list(addresses), value)

    def uffd_features(self, fd: int) -> int:
        return int(self._own.uffd_features(fd))

    def close(self) -> None:
        """The machine goes with its last reference."""

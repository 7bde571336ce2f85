"""The two sides of a comparison: processes of the running kernel, and processes of the model.

Most operations are the executor's and run in batches. Five belong to the side itself: ``fork``, ``switch``
and ``exit`` choose the process that the following ones run in; ``spawn`` starts an operation in a thread of its
own, because it may wait for a userfaultfd, and ``settle`` says what has become of the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.conformance import model_world
from tests.conformance.linux_world import LinuxWorld, Zygote
from tests.conformance.world import Task, World
from tests.differential import masks
from tests.differential.arena import HUGE_START, Operation, Outcome, address, as_call, attempt
from tests.differential.executor import Executor

OWN: Final = frozenset({"fork", "switch", "exit", "spawn", "settle"})

Perform = Callable[[Sequence[Operation]], list[Outcome]]


class Process:
    """One process: how operations are performed in it, and its threads that have not ended."""

    def __init__(self, world: World, perform: Perform, child: Callable[[], Process]) -> None:
        self.world, self.perform, self.child = world, perform, child
        self._tasks: list[tuple[Operation, Task]] = []
        self._pagemap: int | None = None

    def spawn(self, operation: Operation) -> Outcome:
        """Start a thread, unless one is running: with two, their order would be the scheduler's."""
        if self._tasks:
            return ("busy",)
        method, arguments = as_call(operation)
        if self._never_ends(method, arguments):
            return ("masked", method)
        self._tasks.append((operation, self.world.spawn(method, *arguments)))
        return self.settle()

    def _never_ends(self, method: str, arguments: tuple[Any, ...]) -> bool:
        calls = self.world.calls
        if method == "madvise":
            return masks.never_returns(calls, *arguments)
        if method != "store" or arguments[0] < address(HUGE_START):
            return False
        if self._pagemap is None:
            self._pagemap = calls.open_pagemap(None)
        return masks.faults_for_ever(calls, self._pagemap, arguments[0])

    def settle(self) -> Outcome:
        """What the thread is doing, or what came of it."""
        for operation, task in list(self._tasks):
            if task.is_blocked():
                return ("blocked", operation[0])
            self._tasks.clear()
            return attempt(lambda: _plain(task.result()))  # noqa: B023
        return ("idle",)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int) else list(value)


class Side:
    """All processes of one kernel, the first one at the start."""

    def __init__(self, name: str, first: Process) -> None:
        self.name = name
        self._first = first.world
        self._processes: dict[int, Process] = {0: first}
        self._current = 0

    def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        """One outcome for each operation; what lies between two of the side's own goes in one batch."""
        outcomes: list[Outcome] = []
        at = 0
        while at < len(operations):
            end = at
            while end < len(operations) and operations[end][0] not in OWN:
                end += 1
            if end > at:
                outcomes += self._processes[self._current].perform(operations[at:end])
            else:
                end = at + 1
                outcomes.append(getattr(self, f"_{operations[at][0]}")(*operations[at][1:]))
            at = end
        return outcomes

    def _fork(self) -> Outcome:
        number = max(self._processes) + 1
        self._processes[number] = self._processes[self._current].child()
        return ("ok", number)

    def _switch(self, number: int) -> Outcome:
        if number not in self._processes:
            return ("none", number)
        self._current = number
        return ("ok", number)

    def _exit(self, number: int) -> Outcome:
        if number == 0 or number not in self._processes:
            return ("none", number)
        self._processes.pop(number).world.exit()
        if self._current == number:
            self._current = 0
        return ("ok", number)

    def _spawn(self, operation: Operation) -> Outcome:
        return self._processes[self._current].spawn(operation)

    def _settle(self) -> Outcome:
        return self._processes[self._current].settle()

    def close(self) -> None:
        """End every process."""
        self._first.close()


def linux_side(zygote: Zygote) -> Side:
    """A fresh process of the running kernel."""
    world = zygote.world()
    world.request("begin_operations")
    return Side("linux", _linux_process(world))


def _linux_process(world: LinuxWorld) -> Process:
    def perform(operations: Sequence[Operation]) -> list[Outcome]:
        outcomes: list[Outcome] = world.request("run_operations", list(operations))
        return outcomes

    def child() -> Process:
        forked = world.fork()
        assert isinstance(forked, LinuxWorld)
        return _linux_process(forked)

    return Process(world, perform, child)


def model_side() -> Side:
    """A fresh machine of the model."""
    return Side("model", _model_process(model_world.boot(), {}))


def _model_process(
    world: World, descriptors: dict[str, int], regular: Sequence[tuple[int, int]] = ()
) -> Process:
    executor = Executor(_ModelCalls(world), descriptors, regular)

    def child() -> Process:
        return _model_process(world.fork(), executor.descriptors, executor.regular)

    return Process(world, executor.run, child)


class _ModelCalls:
    """The world's calls and the two that only a world has."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, method: str) -> Any:
        attribute = getattr(self._world.calls, method)
        setattr(self, method, attribute)
        return attribute

    def page_out(self, addr: int, length: int) -> None:
        self._world.page_out(addr, length)

    def differential_file(self, length: int) -> int:
        return self._world.regular_file(length)

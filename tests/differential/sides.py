"""The two sides of a comparison: a process of the running kernel, and one of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tests.conformance import model_world
from tests.conformance.linux_world import LinuxWorld, Zygote
from tests.conformance.world import World
from tests.differential.executor import Executor, Operation, Outcome


class Side(Protocol):
    """Performs operations somewhere."""

    name: str

    def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        """One outcome for each operation."""
        ...

    def close(self) -> None:
        """End its process."""
        ...


class LinuxSide:
    """The operations run in a world's process; one message carries many."""

    name = "linux"

    def __init__(self, zygote: Zygote) -> None:
        self._world: LinuxWorld = zygote.world()
        self._world.request("begin_operations")

    def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        outcomes: list[Outcome] = self._world.request("run_operations", list(operations))
        return outcomes

    def close(self) -> None:
        self._world.close()


class ModelSide:
    """The operations run here, on a machine of their own."""

    name = "model"

    def __init__(self) -> None:
        self._world: World = model_world.boot()
        self._executor = Executor(_ModelCalls(self._world))

    def run(self, operations: Sequence[Operation]) -> list[Outcome]:
        return self._executor.run(operations)

    def close(self) -> None:
        self._world.close()


class _ModelCalls:
    """The world's calls and the two that only a world has."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, method: str) -> object:
        attribute = getattr(self._world.calls, method)
        setattr(self, method, attribute)
        return attribute

    def page_out(self, addr: int, length: int) -> None:
        self._world.page_out(addr, length)

    def differential_file(self, length: int) -> int:
        return self._world.regular_file(length)

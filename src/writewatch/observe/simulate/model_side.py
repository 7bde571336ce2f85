"""Scripts on the model: processes of one machine, one task for each step, so that a step may sleep.

A task that sleeps goes on when a later step wakes it, in whatever process that is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from writewatch.model import pte as p
from writewatch.model.calls import ModelCalls
from writewatch.model.machine import Machine, Settings
from writewatch.model.signals import MemoryFault, NeverReturns
from writewatch.model.tasks import Task
from writewatch.model.waits import Steps
from writewatch.observe.simulate.language import Step
from writewatch.observe.simulate.observation import Observation, Observer
from writewatch.observe.simulate.operations import Actor, Calls
from writewatch.observe.simulate.outcome import Outcome, Resumed
from writewatch.observe.simulate.parts import MAIN
from writewatch.observe.simulate.places import Place
from writewatch.observe.simulate.tables import Snapshot, snapshot


class ModelSide:
    """A machine of the model, and its processes by the names that the script gives them.

    Args:
        settings: Of the machine.
        arena: Where the script's memory is.

    Attributes:
        machine: For its counters.
        processes: Those that live.
    """

    def __init__(self, settings: Settings, arena: Place) -> None:
        self.machine = Machine(settings)
        self._arena = arena
        self.processes = {MAIN: ModelCalls(self.machine)}
        self._actors = {MAIN: Actor(settings.page_size)}
        self._waiting: dict[int, tuple[Task, Step]] = {}

    def perform(self, step: Step) -> Outcome:
        """Do what a step says."""
        process = self.processes.get(step.process)
        if process is None:
            return Outcome("not run")
        if step.operation == "exit":
            self._end(step.process)
            return Outcome("ok")
        actor = self._actors[step.process]
        if step.operation == "fork":
            steps = self._fork(process, actor, step.arguments[0])
        else:
            steps = _drive(process, actor.perform(step.operation, step.arguments))
        task = Task(self.machine, steps)
        self.machine.tasks.append(task)
        outcome = self._settle(task, step)
        self.machine.run_ready()
        return outcome

    def _fork(self, parent: ModelCalls, actor: Actor, name: str) -> Steps[Any]:
        child = yield from parent.steps("fork")
        self.processes[name] = child
        self._actors[name] = Actor(actor.page_size, actor.descriptors)

    def _settle(self, task: Task, step: Step) -> Outcome:
        if not task.settle():
            self._waiting[step.number] = task, step
            return Outcome("waits")
        outcome = _outcome_of(task)
        if outcome.ends_process:
            self._end(step.process)
        return outcome

    def resumed(self) -> Resumed:
        """The steps that waited and have ended since."""
        ended = [(number, task, step) for number, (task, step) in self._waiting.items() if task.ended]
        for number, _, _ in ended:
            self._waiting.pop(number, None)
        return [(number, self._settle(task, step)) for number, task, step in ended]

    def _end(self, name: str) -> None:
        process = self.processes.pop(name, None)
        if process is None:
            return
        for number, (task, step) in list(self._waiting.items()):
            if step.process == name:
                del self._waiting[number]
                if task in self.machine.tasks:
                    self.machine.tasks.remove(task)
        process.exit()

    # ---- what there is to see --------------------------------------------------------------------

    def tables(self) -> dict[str, Snapshot]:
        """The page tables of every process that lives."""
        return {name: snapshot(process.mm, self._arena) for name, process in self.processes.items()}

    def n_faults(self, name: str) -> int:
        """Faults that a process has completed; 0 when it is gone."""
        return self.processes[name].n_minor_faults if name in self.processes else 0

    def look(self) -> dict[str, Observation]:
        """What every process sees; the counters do not count it."""
        with self._uncounted():
            return {
                name: Observer(process, self._arena, _Eyes(process).peek).look()
                for name, process in self.processes.items()
            }

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        counted = copy.deepcopy(self.machine.counters)
        yield
        self.machine.counters = counted


def _drive(process: ModelCalls, calls: Calls) -> Steps[Any]:
    """The calls of an operation, in steps."""
    result: Any = None
    error: OSError | None = None
    while True:
        try:
            method, arguments = calls.send(result) if error is None else calls.throw(error)
        except StopIteration as end:
            return end.value
        result, error = None, None
        try:
            result = yield from process.steps(method, *arguments)
        except OSError as failure:
            error = failure


def _outcome_of(task: Task) -> Outcome:
    try:
        return Outcome("ok", task.result())
    except OSError as failure:
        return Outcome.failed(failure)
    except MemoryFault as fault:
        return Outcome.killed(fault.signal)
    except NeverReturns:
        return Outcome("never returns")


class _Eyes:
    """Reads present pages of a process without touching their entries: a load would set "accessed"."""

    def __init__(self, process: ModelCalls) -> None:
        self._mm = process.mm

    def peek(self, addr: int, length: int) -> bytes:
        """Bytes of whole pages that are present."""
        machine = self._mm.machine
        return b"".join(
            machine.frames.read(self._frame(at), 0, machine.page_size)
            for at in range(addr, addr + length, machine.page_size)
        )

    def _frame(self, addr: int) -> int:
        leaf = self._mm.table.leaf(addr)
        return p.number(leaf) + self._mm.table.index(addr) if leaf else p.number(self._mm.table.pte(addr))

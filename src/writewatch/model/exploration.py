"""Every interleaving of a small program, or one of them.

A **scenario** is a machine with tasks: generators that yield wherever another task could run, made of
``Process.steps``. Setting it up happens before the first choice. ``explore`` runs a scenario again and again, by
another schedule each time, until every state that can be reached was reached; two schedules that lead to the same
state are followed up once (``fingerprint.py`` says when states are the same). In each state the scenario's own check is
asked, and the invariants of each mm are.

What is found can be replayed: a schedule is the names of the tasks in the order in which they took a step.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from writewatch.model.check import check
from writewatch.model.fingerprint import Namer, memory
from writewatch.model.machine import Machine
from writewatch.model.waits import Steps, Wait


@dataclass(slots=True)
class Scenario:
    """A machine and what runs on it.

    Attributes:
        machine: As set up.
        tasks: Name -> steps.
        notes: What the tasks have noted for the checks; part of the state.
        always: Says what is wrong in a state, or nothing.
        finally_: Says what is wrong when every task has ended, or nothing.
    """

    machine: Machine
    tasks: dict[str, Steps[Any]]
    notes: dict[str, Any] = field(default_factory=dict)
    always: Callable[[], str] = lambda: ""
    finally_: Callable[[], str] = lambda: ""


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, and by which schedule."""

    reason: str
    schedule: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exploration:
    """What was visited.

    Attributes:
        states: Different states.
        steps: Steps taken in all, repetitions included.
        schedules: Runs from the start.
        ends: States in which every task had ended.
        failures: One for each reason, by the first schedule that showed it.
        seconds: How long it took.
    """

    states: int
    steps: int
    schedules: int
    ends: int
    failures: tuple[Failure, ...]
    seconds: float

    def __str__(self) -> str:
        found = "; ".join(f.reason for f in self.failures) or "no failure"
        return f"{self.states} states, {self.steps} steps, {self.schedules} schedules, {self.seconds:.1f} s: {found}"


class Run:
    """One run of a scenario, step by step."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.schedule: list[str] = []
        self._sleeps: dict[str, Wait] = {}
        self._left = dict(scenario.tasks)
        self._ids = {name: scenario.machine.new_id() for name in scenario.tasks}

    def enabled(self) -> list[str]:
        """Tasks that can take a step, in the order in which they were given."""
        return [name for name in self._left if name not in self._sleeps or self._sleeps[name].done]

    @property
    def ended(self) -> bool:
        """Whether no task is left."""
        return not self._left

    def step(self, name: str) -> None:
        """Let a task run to its next yield. Preconditions: it is enabled."""
        self.schedule.append(name)
        self._sleeps.pop(name, None)
        self.scenario.machine.thread_id = self._ids[name]
        try:
            wait = next(self._left[name])
        except StopIteration:
            del self._left[name]
            return
        if wait is not None and not wait.done:
            self._sleeps[name] = wait

    def problem(self) -> str:
        """What is wrong now, or nothing."""
        found = check(self.scenario.machine) or self.scenario.always()
        if not found and self.ended:
            found = self.scenario.finally_()
        if not found and self._left and not self.enabled():
            found = f"deadlock: {', '.join(self._left)} sleep for ever"
        return found

    def fingerprint(self) -> bytes:
        """The state, for comparison with others of the same scenario: 128 bits of a cryptographic hash."""
        namer = Namer(self.scenario.machine)
        state = (
            memory(self.scenario.machine, namer),
            tuple((name, namer.value(steps)) for name, steps in self._left.items()),
            tuple((name, namer.value(wait)) for name, wait in sorted(self._sleeps.items())),
            namer.value(self.scenario.notes),
        )
        return hashlib.blake2b(repr((state, namer.described)).encode(), digest_size=16).digest()


def explore(
    program: Callable[[], Scenario],
    *,
    merge: bool = True,
    first_failure: bool = False,
    max_states: int = 1_000_000,
) -> Exploration:
    """Visit every state that a program can reach.

    Args:
        program: Sets up a fresh scenario; the same one each time.
        merge: Follow equal states up once. Without it every single schedule is run.
        first_failure: Stop at the first failure.
        max_states: RuntimeError beyond that many.

    Returns:
        What was visited and what was found. A state with a failure is not followed up.
    """
    search = _Search(program, merge=merge, max_states=max_states)
    search.run(first_failure=first_failure)
    return search.result()


class _Search:
    """Depth first. Schedules still to be tried are kept as (prefix, next task); a run follows one to its end."""

    def __init__(self, program: Callable[[], Scenario], *, merge: bool, max_states: int) -> None:
        self._program, self._merge, self._max_states = program, merge, max_states
        self._seen: set[bytes] = set()
        self._todo: list[tuple[str, ...]] = [()]
        self._failures: dict[str, Failure] = {}
        self._states = self._steps = self._schedules = self._ends = 0
        self._started = time.perf_counter()

    def run(self, *, first_failure: bool) -> None:
        while self._todo and not (first_failure and self._failures):
            prefix = self._todo.pop()
            run = replay(self._program, prefix)
            self._schedules += 1
            self._steps += len(prefix)
            self._follow(run)

    def _follow(self, run: Run) -> None:
        while self._is_new(run):
            if reason := run.problem():
                self._failures.setdefault(reason, Failure(reason, tuple(run.schedule)))
                return
            choices = run.enabled()
            if not choices:
                self._ends += 1
                return
            self._todo += [(*run.schedule, name) for name in choices[1:]]
            run.step(choices[0])
            self._steps += 1

    def _is_new(self, run: Run) -> bool:
        if self._states >= self._max_states:
            raise RuntimeError(f"more than {self._max_states} states: make the program smaller")
        if self._merge:
            state = run.fingerprint()
            if state in self._seen:
                return False
            self._seen.add(state)
        self._states += 1
        return True

    def result(self) -> Exploration:
        seconds = time.perf_counter() - self._started
        failures = tuple(self._failures.values())
        return Exploration(self._states, self._steps, self._schedules, self._ends, failures, seconds)


def replay(program: Callable[[], Scenario], schedule: Sequence[str]) -> Run:
    """Run a scenario by a given schedule; it may be a prefix."""
    run = Run(program())
    for name in schedule:
        run.step(name)
    return run


def run_at_random(program: Callable[[], Scenario], seed: int) -> tuple[Run, str]:
    """Run a scenario to its end by a schedule that a seed decides; returns the run and what went wrong, or nothing."""
    chooser = random.Random(seed)  # noqa: S311 - repeatable on purpose
    run = Run(program())
    while not (problem := run.problem()) and run.enabled():
        run.step(chooser.choice(run.enabled()))
    return run, problem

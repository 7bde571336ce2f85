"""Replays a script on the model, step by step, and on the running kernel beside it when that is asked for."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from writewatch.abi.pagemap import PM_SCAN_WP_MATCHING
from writewatch.errors import KernelUnsupportedError, UsageError
from writewatch.kernel.probe import capabilities
from writewatch.model.cost import Method, compare, work_of
from writewatch.model.counters import Counters
from writewatch.model.machine import Settings
from writewatch.observe.simulate import words
from writewatch.observe.simulate.here import settings_here
from writewatch.observe.simulate.language import Script, Step, parse
from writewatch.observe.simulate.linux_side import LinuxSide
from writewatch.observe.simulate.model_side import ModelSide
from writewatch.observe.simulate.observation import Observation
from writewatch.observe.simulate.outcome import Outcome, Resumed
from writewatch.observe.simulate.places import Places
from writewatch.observe.simulate.tables import Row, Snapshot
from writewatch.observe.simulate.tables import compare as compare_tables

#: What the kernel's side cannot do without.
_NEEDED: Final = ("userfaultfd", "pagemap", "pagemap_scan")


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in which the two sides differ after a step.

    Attributes:
        what: ``result``, or one of the fields of ``Observation``, with the process where there are several.
        model, linux: What each of them says.
    """

    what: str
    model: Any
    linux: Any


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did on the model.

    Attributes:
        step: The step.
        outcome: What came of it.
        resumed: Earlier steps that ended meanwhile.
        n_faults: Page faults of its process meanwhile.
        tables: Process -> its page tables afterwards; processes where nothing changed and nothing ran are left out.
        differences: From the running kernel, those that the step before did not have.
        n_old_differences: Those that it had.
    """

    step: Step
    outcome: Outcome
    resumed: Resumed
    n_faults: int
    tables: dict[str, tuple[Row, ...]]
    differences: tuple[Difference, ...]
    n_old_differences: int


@dataclass(frozen=True, slots=True)
class Tally:
    """The whole run.

    Attributes:
        counters: What the model's kernel counted.
        costs: Method of tracking -> nanoseconds that it would have taken; None when nothing was tracked.
        compared: Whether the running kernel did the same beside it.
        n_differences: Over all steps, one that stays counted once.
    """

    counters: Counters
    costs: dict[Method, float] | None
    compared: bool
    n_differences: int


@dataclass(slots=True)
class _Tracked:
    """What tracking in a script amounted to, for the estimate of its cost."""

    pages: set[int] = field(default_factory=set)
    reported: int = 0
    collections: int = 0

    def note(self, step: Step, outcome: Outcome, page_size: int) -> None:
        if outcome.kind != "ok":
            return
        if step.operation == "register" and step.arguments[3] & words.REGISTER_MODES["wp"]:
            start, length = step.arguments[1:3]
            self.pages.update(range(start, start + length, page_size))
        if step.operation == "scan" and step.arguments[2] & PM_SCAN_WP_MATCHING:
            self.collections += 1
            self.reported += sum(end - start for start, end, _ in outcome.value["regions"]) // page_size


class Replay:
    """One run of a script.

    Args:
        text: The script.
        against_kernel: Run it on the running kernel as well; the model is then given this machine's settings.

    Raises:
        UsageError: The script cannot be understood, or asks for what only the model can show.
        KernelUnsupportedError: The running kernel lacks what the comparison needs.

    Attributes:
        settings: Of the model.
        script: As read.
    """

    def __init__(self, text: str, *, against_kernel: bool = False) -> None:
        if against_kernel:
            _check_kernel()
        self.settings = settings_here() if against_kernel else Settings()
        self.script = parse(text, self.settings.page_size)
        self._against_kernel = against_kernel
        if against_kernel:
            _check_script(self.script)
        self._model = ModelSide(self.settings, self.script.places.arena)
        self._tracked = _Tracked()
        self._n_differences = 0
        self._last_differences: list[Difference] = []

    @property
    def places(self) -> Places:
        """The names of the script's memory."""
        return self.script.places

    def run(self) -> Generator[StepReport, None, None]:
        """Do one step after the other; closing it ends what runs on the kernel's side."""
        with ExitStack() as stack:
            linux = None
            if self._against_kernel:
                linux = stack.enter_context(LinuxSide(self.places.arena))
            for step in self.script.steps:
                yield self._one(step, linux)

    def _one(self, step: Step, linux: LinuxSide | None) -> StepReport:
        before, faults = self._model.tables(), self._model.n_faults(step.process)
        outcome = self._model.perform(step)
        resumed = self._model.resumed()
        self._tracked.note(step, outcome, self.settings.page_size)
        found = list(self._differences(step, outcome, resumed, linux)) if linux else []
        differences = tuple(one for one in found if one not in self._last_differences)
        self._last_differences = found
        self._n_differences += len(differences)
        return StepReport(
            step,
            outcome,
            resumed,
            max(self._model.n_faults(step.process) - faults, 0),
            _pictures(step, before, self._model.tables()),
            differences,
            len(found) - len(differences),
        )

    def _differences(
        self, step: Step, outcome: Outcome, resumed: Resumed, linux: LinuxSide
    ) -> Iterator[Difference]:
        theirs = linux.perform(step)
        if outcome != theirs:
            yield Difference("result", outcome, theirs)
        ended = linux.resumed()
        if _without_lines(resumed) != _without_lines(ended):
            yield Difference("what ended meanwhile", resumed, ended)
        ours, seen = self._model.look(), linux.look()
        if ours.keys() != seen.keys():
            yield Difference("processes that live", sorted(ours), sorted(seen))
        for name in ours.keys() & seen.keys():
            yield from _compare(name, ours[name], seen[name])

    def tally(self) -> Tally:
        """What the run amounts to so far."""
        counters, tracked = self._model.machine.counters, self._tracked
        costs = None
        if tracked.pages:
            n_pages = len(tracked.pages)
            work = work_of(
                counters, pages=n_pages, reported=tracked.reported, collections=tracked.collections
            )
            costs = compare(work)
        return Tally(counters, costs, self._against_kernel, self._n_differences)


def _check_kernel() -> None:
    found = capabilities()
    missing = tuple(name for name in _NEEDED if not found[name].works)
    if missing:
        raise KernelUnsupportedError(
            f"this kernel cannot be compared with: {', '.join(missing)} does not work here; "
            f"run without --against-kernel, or see: writewatch doctor",
            missing,
        )


def _check_script(script: Script) -> None:
    fork = words.FEATURES["event_fork"]
    for step in script.steps:
        if step.operation == "context" and step.arguments[1] & fork:
            raise UsageError(
                f"line {step.number}: event_fork is shown by the model alone, because a fork waits for who reads its "
                f"event; run without --against-kernel"
            )


def _pictures(
    step: Step, before: dict[str, Snapshot], after: dict[str, Snapshot]
) -> dict[str, tuple[Row, ...]]:
    pictures = {}
    for name, now in after.items():
        rows = compare_tables(before.get(name, Snapshot((), now.page_size)), now)
        if name == step.process or any(row.change != "same" for row in rows):
            pictures[name] = rows
    return pictures


def _without_lines(resumed: Resumed) -> list[tuple[int, Outcome]]:
    """A process that a signal ended does not tell which of its threads met it."""
    return sorted(
        ((0 if outcome.ends_process else number, outcome) for number, outcome in resumed),
        key=lambda one: one[0],
    )


def _compare(process: str, model: Observation, linux: Observation) -> Iterator[Difference]:
    for what in ("mappings", "entries", "categories", "contents"):
        ours, theirs = getattr(model, what), getattr(linux, what)
        if ours != theirs:
            only = [run for run in ours if run not in theirs], [run for run in theirs if run not in ours]
            yield Difference(f"{what} of {process}", *only)

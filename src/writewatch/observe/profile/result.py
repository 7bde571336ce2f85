"""``Profile``: a context manager while it runs, and afterwards the epochs, figures of them and two pictures."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from writewatch.errors import UsageError
from writewatch.observe.profile.own import OwnProcess
from writewatch.observe.profile.some import SomeBuffers
from writewatch.observe.reporters.profile import as_html, as_text
from writewatch.observe.watch.account import Account
from writewatch.observe.watch.figures import MappingFigures, ProcessFigures
from writewatch.tracker.process.writes import Mapping, ProcessWrites


class _Watcher(Protocol):
    def stop(self) -> list[ProcessWrites]:
        """The epochs."""
        ...


class Profile:
    """What this process wrote while the block ran. Made by ``profile()``.

    Attributes:
        interval_s: Wanted seconds of an epoch.
        epochs: One value each, oldest first; complete when the block is left.
    """

    def __init__(self, buffers: tuple[object, ...], interval_s: float, budget: float | None) -> None:
        if not interval_s > 0:
            raise UsageError(f"interval is {interval_s} seconds; give a number above 0")
        self.interval_s = interval_s
        self.epochs: tuple[ProcessWrites, ...] = ()
        self._buffers = buffers
        self._budget = budget
        self._watcher: _Watcher | None = None
        self._figures: ProcessFigures | None = None

    # ---- the block -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._watcher is not None or self.epochs:
            raise UsageError("a profile is of one block; make another one with profile()")
        if self._buffers:
            self._watcher = SomeBuffers(self._buffers, self.interval_s)
        else:
            self._watcher = OwnProcess(self.interval_s, self._budget)
        self._buffers = ()  # nothing is kept alive longer than by the watcher
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        watcher, self._watcher = self._watcher, None
        assert watcher is not None
        self.epochs = tuple(watcher.stop())

    # ---- what it found ---------------------------------------------------------------------------

    @property
    def figures(self) -> ProcessFigures:
        """Everything added up.

        Raises:
            UsageError: The block has not been left, or nothing was collected in it.
        """
        if self._figures is None:
            if not self.epochs:
                raise UsageError("the profile is complete when its block has been left")
            account = Account()
            for one in self.epochs:
                account.add(one)
            self._figures = account.figures()
        return self._figures

    @property
    def n_pages(self) -> int:
        """Pages written, summed over the epochs."""
        return sum(one.n_pages for one in self.epochs)

    @property
    def elapsed_s(self) -> float:
        """Seconds watched."""
        return (self.epochs[-1].ended_ns - self.epochs[0].started_ns) / 1e9 if self.epochs else 0.0

    @property
    def exact(self) -> bool:
        """Whether every page reported was written."""
        return all(one.exact and not len(one.assumed) for one in self.epochs)

    def by_mapping(self) -> tuple[MappingFigures, ...]:
        """The mappings that were written, or the buffers, most pages first."""
        return self.figures.mappings

    @property
    def not_included(self) -> tuple[Mapping, ...]:
        """Mappings that may be written without being seen here; ``unseen`` of each says why.

        Buffers of a ``Tracker`` that was there before are among them: it is the one that knows.
        """
        found = self.epochs[-1].mappings if self.epochs else ()
        return tuple(one for one in found if one.unseen is not None and _can_change(one))

    def __repr__(self) -> str:
        if not self.epochs:
            state = "running" if self._watcher is not None else "not begun"
            return f"<Profile, {state}>"
        return as_text(self.figures, self.not_included)

    def _repr_html_(self) -> str:
        if not self.epochs:
            return f"<pre>{self!r}</pre>".replace("<Profile", "&lt;Profile").replace("n>", "n&gt;")
        return as_html(self.figures, self.epochs, self.not_included)


def _can_change(mapping: Mapping) -> bool:
    """Not so what is private and not writable, such as [vsyscall]. Buffers have no VMAs."""
    return not mapping.vmas or any(vma.is_writable or vma.is_shared for vma in mapping.vmas)


def profile(*buffers: object, interval: float = 0.1, budget: float | None = 0.05) -> Profile:
    """Watch what this process writes while a block runs.

    ::

        with ww.profile() as p:
            work()
        p  # in a notebook: a heatmap and a table

    Without buffers it is the whole process, all its threads, watched from a helper process; a memory that
    another userfaultfd has registered, such as buffers of a ``Tracker``, is not seen and is listed in
    ``not_included``. While the block runs, ``track()`` finds memory of the process taken and uses another
    backend for it. With buffers it is these alone, by whatever backend works.

    Args:
        buffers: As ``track`` takes them.
        interval: Seconds of an epoch. It gets longer where the budget or the memory for epochs asks for it.
        budget: Share of one core that watching may cost the process; None: any. Not for buffers.

    Raises:
        UsageError: The interval is not above 0. On entry: a buffer cannot be tracked.
        KernelUnsupportedError: On entry: it does not work here, and why.
        AttachError: On entry: this process may not be looked at by another one of the same user.
    """
    return Profile(buffers, interval, budget)

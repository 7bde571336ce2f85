"""Programs that a command starts: watched from their first instruction, their status kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from writewatch.errors import TrackingLostError
from writewatch.observe.watch.face import Watched
from writewatch.observe.watch.programs import cannot_execute, find_program

#: wait() is given a number; any will do.
_LONG_S: Final = 3600.0


class Started(Watched, Protocol):
    """A program that was started by a command."""

    @property
    def exit_status(self) -> int | None:
        """Its status when it has ended, as ``subprocess`` has it; None before."""
        ...


def launch_program(command: Sequence[str], *, follow_forks: bool, budget: float) -> Started:
    """Start a program, with our standard streams; what it becomes by exec is followed.

    Raises:
        CannotRunError: There is no such program, or it cannot be executed.
        AttachError: It cannot be watched.
    """
    from writewatch.tracker.process.launching import launch

    program = find_program(command[0])
    try:
        return launch(command, follow_forks=follow_forks, follow_exec=True, budget=budget)
    except OSError as error:
        raise cannot_execute(program, error) from error


def wait_for_exit(program: Started) -> int:
    """Its status when it has ended, however long that takes.

    Raises:
        TrackingLostError: It has ended, and nobody knows how.
    """
    while not program.wait(_LONG_S):
        pass
    status = program.exit_status
    if status is None:
        raise TrackingLostError(
            f"{program.pid} has ended; its exit status was lost with the process that started it"
        )
    return status

"""Threads of the model: calls that sleep in the middle and go on when they are woken.

Nothing runs behind anybody's back: a task advances when it is started, when somebody asks for it, and at the end of
any call that may have woken it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from writewatch.model.machine import Machine
from writewatch.model.signals import MustWait, WouldBlock
from writewatch.model.waits import Steps

T = TypeVar("T")


def run(steps: Steps[T]) -> T:
    """Run a call to its end, outside a task.

    Raises:
        WouldBlock: It would sleep.
    """
    try:
        while True:
            wait = next(steps)
            if wait is not None and not wait.done:
                raise WouldBlock(wait)
    except StopIteration as end:
        result: T = end.value
        return result
    except MustWait as sleep:
        raise WouldBlock(sleep.wait) from None


class Task:
    """One call in a thread of its own.

    Attributes:
        thread_id: As ``UFFD_FEATURE_THREAD_ID`` reports it.
    """

    def __init__(self, machine: Machine, steps: Steps[Any]) -> None:
        self.thread_id = machine.new_id()
        self._machine = machine
        self._steps = steps
        self._outcome: Callable[[], Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether the call has returned or raised."""
        return self._outcome is not None

    def settle(self) -> bool:
        """Run until the call has ended (True) or sleeps (False)."""
        before, self._machine.thread_id = self._machine.thread_id, self.thread_id
        try:
            while self._outcome is None:
                wait = next(self._steps)
                if wait is not None and not wait.done:
                    return False
        except StopIteration as end:
            value = end.value
            self._outcome = lambda: value
        except Exception as error:
            failed = error
            self._outcome = lambda: _raise(failed)
        finally:
            self._machine.thread_id = before
        return True

    def result(self) -> Any:
        """What the call returned; raises what it raised.

        Raises:
            RuntimeError: It sleeps, and nobody is left to wake it.
        """
        if not self.settle():
            raise RuntimeError("the task sleeps: serve its fault or read its event first")
        assert self._outcome is not None
        return self._outcome()


def _raise(error: Exception) -> None:
    raise error

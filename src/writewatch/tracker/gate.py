"""The one door through which every public operation of a tracker goes: one at a time in the whole process.

Python may interrupt any operation between two instructions: another thread, a signal handler that calls ``collect()``
itself, the garbage collector that closes a tracker nobody holds any more. The gate makes each harmless. Another
thread waits. A second operation of the same thread cannot wait for the first, which it interrupted, and
would find its books half-written, so it is refused with a sentence. What must happen but need not happen now
(closing what was dropped, taking pages back) is put off to the next operation.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from writewatch.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")


class Gate:
    """A lock that knows when its holder comes again, and a list of things put off."""

    def __init__(self) -> None:
        # An RLock lets its holder in again, so that coming again can be told from waiting.
        self._lock = threading.RLock()
        self._holder = 0  # thread that is inside, 0 for none
        self._put_off: deque[tuple[Callable[[], None], bool]] = deque()  # what, and whether it must succeed

    def run(self, operation: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Run an operation alone.

        Raises:
            UsageError: This thread is inside another operation, which a signal handler interrupted.
        """
        with self._lock:
            if self._holder:
                raise UsageError(
                    "a signal handler, or a warning hook, used a tracker while the same thread was using one; "
                    "set a flag in the handler and collect outside it"
                )
            self._holder = threading.get_ident()
            try:
                if self._put_off:
                    self._catch_up()
                return operation(*arguments, **options)
            finally:
                self._holder = 0

    def run_or_put_off(
        self, operation: Callable[[], None], *, waits: bool = True, must_succeed: bool = False
    ) -> None:
        """Run alone, or at the start of the next operation when this thread is inside one.

        Args:
            operation: What to do; it may be done twice when it is interrupted.
            waits: Wait for other threads. False for the garbage collector, whose thread may hold locks of others.
            must_succeed: Put off, it is done again until it does not fail: a signal handler may raise any error in it.
        """
        # The lock is only ever taken by a with statement: between acquire() and a try a signal handler could raise, and
        # the lock would be held for ever.
        if self._holder == threading.get_ident() or (self._holder and not waits):
            self._put_off.append((operation, must_succeed))
        else:
            self.run(operation)

    def _catch_up(self) -> None:
        """Do what was put off. Interrupted, it is done again; failed, it is not, but what must succeed."""
        while self._put_off:
            operation, must_succeed = self._put_off[0]
            try:
                operation()
            except Exception:
                if not must_succeed:
                    self._put_off.popleft()
                raise
            self._put_off.popleft()

    def reset(self) -> None:
        """In a forked child: the holder of the lock may be a thread that does not exist here."""
        self.__init__()  # type: ignore[misc]  # the very same object, as if new


GATE: Final = Gate()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=GATE.reset)

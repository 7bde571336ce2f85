"""What a thread sleeps on: a page fault that a userfaultfd has to serve, or an event that it has to read."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from writewatch.abi.userfaultfd import UffdMsg

if TYPE_CHECKING:
    from writewatch.model.uffd import Context


@dataclass(slots=True, eq=False)
class Wait:
    """One sleeping thread.

    Attributes:
        message: What the handler reads.
        thread_id: Of the sleeper.
        start: Page that faulted; a wake whose range holds it ends the wait. 0 for an event.
        child: Context of a forked child, for ``UFFD_EVENT_FORK``.
        done: Whether the thread may go on.
    """

    message: UffdMsg
    thread_id: int
    start: int = 0
    child: Context | None = field(default=None, repr=False)
    done: bool = False


T = TypeVar("T")

#: A call that may be interrupted. It yields a ``Wait`` to sleep until that is done, and None where other threads
#: may run in between: wherever Linux drops the lock under which it worked.
Steps: TypeAlias = Generator[Wait | None, None, T]

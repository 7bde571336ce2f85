"""Descriptors between the system call that opens them and the object that owns them.

Python runs signal handlers between two of its instructions, and a handler may raise: Ctrl-C does. A descriptor that
``os.open()`` has just returned then stands nowhere, and stays open for ever. Python looks for signals where a
function is entered, where a loop begins anew and where a function written in C has returned. So nothing of
that may lie between the system call and the place where somebody keeps the number. ``list.extend(map(function, …))``
makes the call and keeps the number within one C function; ``deque(map(close, …))`` closes all of a list
within one. Returning from a Python function, storing into an attribute and taking an item are no such places.

Afterwards a program may close what is not its own: ``os.closerange()`` is how daemons begin. The number then soon
belongs to another file, which must not be asked, protected through, or closed. A descriptor is known again by
``fstat(2)``; a pagemap more cheaply by its file position, which nothing here uses otherwise (0.2 µs).
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from types import TracebackType
from typing import Any, NoReturn

from writewatch.abi.calls import KernelCalls


def opened(function: Callable[..., int], *arguments: object) -> int:
    """What a function written in C opens; closed again where a signal handler raises before this returns.

    The caller stores the number into its owner at once: ``self._fd = opened(os.open, path, flags)``.

    Returns:
        The function's result. Where it is negative, an error by the C library's convention, nothing was opened.
    """
    kept: list[int] = []
    try:
        kept.extend(map(function, *([argument] for argument in arguments)))
        return kept[0]
    except BaseException:
        close_all(fd for fd in kept if fd >= 0)
        raise


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors, all or, where this is interrupted before it begins, none."""
    deque(map(os.close, list(descriptors)), maxlen=0)


def not_ours(fd: int) -> OSError:
    """The error for a descriptor that the program closed under its owner."""
    return OSError(errno.EBADF, f"descriptor {fd} was closed by the program, and may be another file now")


def is_identity(calls: KernelCalls, fd: int, identity: tuple[int, int]) -> bool:
    """Whether a descriptor is open and still of the file that had this identity."""
    try:
        return calls.identity(fd) == identity
    except OSError as error:
        return error.errno != errno.EBADF  # nothing else can be wrong with fstat(2)


class Uncopied:
    """What owns a descriptor and so can be neither copied nor pickled: the copy would close what is not its own."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} owns a descriptor and cannot be copied or pickled; share the object, "
            "or hand over a duplicate of its fileno()"
        )


class Pipe:
    """A pipe for the length of a ``with`` statement: ``with Pipe() as (reader, writer):``.

    Raises:
        OSError: EMFILE, ENFILE.
    """

    _ends: list[int] = []  # noqa: RUF012  # what __del__ sees when __init__ was interrupted at once; never changed

    def __init__(self) -> None:
        self._ends = []
        self._ends.extend(chain.from_iterable(map(os.pipe2, [os.O_CLOEXEC])))

    def close(self) -> None:
        """Close both ends. A second call does nothing."""
        closing: map[Any] = map(os.close, self._ends)
        self._ends = []
        deque(closing, maxlen=0)

    def __enter__(self) -> tuple[int, int]:
        return self._ends[0], self._ends[1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

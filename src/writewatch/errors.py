"""Every exception and warning of the library, by whose doing it was.

::

    WriteWatchError
    ├─ UsageError(ValueError)            you: a read-only buffer, an unaligned range, an unknown backend
    ├─ TrackerClosedError                you closed it
    ├─ KernelUnsupportedError            this kernel or its privileges: .missing names each feature
    ├─ TrackingLostError                 the target: exec, exit, fork, munmap; .span says where
    ├─ AttachError                       a process may not, or cannot now, be watched: .pid
    ├─ TraceError                        a recorded trace: not ours, newer, cut off, or not writable
    └─ CheckpointError
       ├─ FormatError                    not ours, or a newer version
       ├─ CorruptError                   ours, but a checksum differs: .generation, .offset
       └─ ChainError(LookupError)        a parent generation is missing

    WriteWatchWarning(UserWarning)
    ├─ UnseenWritesWarning               there are writers that no page table of ours records
    └─ TrackingLostWarning               a registration ended under us; its range is reported as written

``kernel`` and ``model`` raise plain ``OSError`` with the kernel's errno; ``tracker`` translates once. All of them
can be pickled: an error of a worker process arrives in its parent with its attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from writewatch.pages import AddrRange


class WriteWatchError(Exception):
    """Base of all errors that the library raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        return remade, (type(self), self.args, self.__dict__)


def remade(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    """An error out of its pickle.

    Python would call its class with ``args``, which are what the base class was given, and not what the class wants.
    """
    error = kind.__new__(kind, *args)
    # OSError takes its errno only here, where a class has an __init__ of its own.
    (OSError if isinstance(error, OSError) else Exception).__init__(error, *args)
    error.__dict__.update(attributes)
    return error


class UsageError(WriteWatchError, ValueError):
    """The call cannot be served as it was made; nothing was changed."""


class TrackerClosedError(WriteWatchError):
    """The tracker was closed. Closing it again is not an error."""


class KernelUnsupportedError(WriteWatchError):
    """This kernel, or the rights of this process, lack what was asked for.

    Attributes:
        missing: Name of each missing feature, as ``writewatch doctor`` prints it.
    """

    def __init__(self, message: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing


class TrackingLostError(WriteWatchError):
    """The memory that was tracked is not this tracker's any more.

    Attributes:
        span: The range that is lost; None when it is all of them.
    """

    def __init__(self, message: str, span: AddrRange | None = None) -> None:
        super().__init__(message)
        self.span = span


class AttachError(WriteWatchError):
    """A process cannot be watched; it runs on as if nobody had tried.

    Attributes:
        pid: Of the process.
    """

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class TraceError(WriteWatchError):
    """A recorded trace cannot be read or written."""


class CheckpointError(WriteWatchError):
    """A checkpoint store cannot be read or written."""


class FormatError(CheckpointError):
    """The file is not a checkpoint of ours, or of a newer version."""


class CorruptError(CheckpointError):
    """The file is ours, but a checksum differs.

    Attributes:
        generation: Which checkpoint of the chain.
        offset: Where in its file, in bytes.
    """

    def __init__(self, message: str, generation: int, offset: int) -> None:
        super().__init__(message)
        self.generation = generation
        self.offset = offset


class ChainError(CheckpointError, LookupError):
    """A generation that this one builds on is missing."""


class WriteWatchWarning(UserWarning):
    """Base of all warnings of the library."""


class UnseenWritesWarning(WriteWatchWarning):
    """Something may write the tracked memory without leaving a trace in our page tables."""


class TrackingLostWarning(WriteWatchWarning):
    """A registration ended under the tracker; the range is reported as wholly written."""

"""Know which memory was written.

``track`` some buffers, write to them, ``collect`` what was written. See README.md for a tour, and
``writewatch doctor`` for what works on this machine.
"""

from typing import TYPE_CHECKING, Any

from writewatch.errors import (
    AttachError,
    ChainError,
    CheckpointError,
    CorruptError,
    FormatError,
    KernelUnsupportedError,
    TraceError,
    TrackerClosedError,
    TrackingLostError,
    TrackingLostWarning,
    UnseenWritesWarning,
    UsageError,
    WriteWatchError,
    WriteWatchWarning,
)
from writewatch.kernel.messages import Fork, Message, Pagefault, Remap, Remove, UnknownEvent, Unmap
from writewatch.kernel.pagemap import Pagemap, PartialScanError
from writewatch.kernel.probe import Capabilities, Capability, capabilities
from writewatch.kernel.resolving import PartialResultError
from writewatch.kernel.userfaultfd import Userfaultfd
from writewatch.pages import AddrRange
from writewatch.tracker.allocate import allocate
from writewatch.tracker.api import Consumer, Statistics, Tracker, track
from writewatch.tracker.dirty import DirtySet

if TYPE_CHECKING:
    from writewatch.tracker.process.api import attach
    from writewatch.tracker.process.launching import launch
    from writewatch.tracker.process.tracking import ProcessTracker
    from writewatch.tracker.process.writes import ProcessWrites

__version__ = "0.1.0"

__all__ = [
    "AddrRange",
    "AttachError",
    "Capabilities",
    "Capability",
    "ChainError",
    "CheckpointError",
    "Consumer",
    "CorruptError",
    "DirtySet",
    "Fork",
    "FormatError",
    "KernelUnsupportedError",
    "Message",
    "Pagefault",
    "Pagemap",
    "PartialResultError",
    "PartialScanError",
    "ProcessTracker",
    "ProcessWrites",
    "Remap",
    "Remove",
    "Statistics",
    "TraceError",
    "Tracker",
    "TrackerClosedError",
    "TrackingLostError",
    "TrackingLostWarning",
    "UnknownEvent",
    "Unmap",
    "UnseenWritesWarning",
    "UsageError",
    "Userfaultfd",
    "WriteWatchError",
    "WriteWatchWarning",
    "allocate",
    "attach",
    "capabilities",
    "launch",
    "model",
    "profile",
    "track",
]


#: What few programs need is imported when it is asked for: the model is large, other processes bring sockets, and
#: a profile brings pictures.
_ON_USE = {
    "ProcessTracker": "writewatch.tracker.process.tracking",
    "ProcessWrites": "writewatch.tracker.process.writes",
    "attach": "writewatch.tracker.process.api",
    "launch": "writewatch.tracker.process.launching",
    "profile": "writewatch.observe.profile.result",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "model":
        return importlib.import_module("writewatch.model")
    if name in _ON_USE:
        return getattr(importlib.import_module(_ON_USE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

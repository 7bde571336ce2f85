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
from writewatch.tracker.process.api import attach
from writewatch.tracker.process.tracking import ProcessTracker
from writewatch.tracker.process.writes import ProcessWrites

if TYPE_CHECKING:
    from writewatch.tracker.process.launching import launch

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


def __getattr__(name: str) -> Any:
    # The model is large and few programs simulate a kernel: imported when it is asked for.
    if name == "model":
        import importlib

        return importlib.import_module("writewatch.model")
    if name == "launch":  # it brings sockets and processes
        from writewatch.tracker.process.launching import launch

        return launch
    if name == "profile":  # it brings processes and pictures
        from writewatch.observe.profile.result import profile

        return profile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

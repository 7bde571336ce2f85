"""Know which memory was written.

``track`` some buffers, write to them, ``collect`` what was written. See README.md for a tour, and
``writewatch doctor`` for what works on this machine.
"""

from writewatch.errors import (
    ChainError,
    CheckpointError,
    CorruptError,
    FormatError,
    KernelUnsupportedError,
    TrackerClosedError,
    TrackingLostError,
    TrackingLostWarning,
    UnseenWritesWarning,
    UsageError,
    WriteWatchError,
    WriteWatchWarning,
)
from writewatch.kernel.pagemap import Pagemap, PartialScanError
from writewatch.kernel.probe import Capabilities, Capability, capabilities
from writewatch.kernel.userfaultfd import Userfaultfd
from writewatch.pages import AddrRange
from writewatch.tracker.allocate import allocate
from writewatch.tracker.api import Consumer, Statistics, Tracker, track
from writewatch.tracker.dirty import DirtySet

__version__ = "0.1.0"

__all__ = [
    "AddrRange",
    "Capabilities",
    "Capability",
    "ChainError",
    "CheckpointError",
    "Consumer",
    "CorruptError",
    "DirtySet",
    "FormatError",
    "KernelUnsupportedError",
    "Pagemap",
    "PartialScanError",
    "Statistics",
    "Tracker",
    "TrackerClosedError",
    "TrackingLostError",
    "TrackingLostWarning",
    "UnseenWritesWarning",
    "UsageError",
    "Userfaultfd",
    "WriteWatchError",
    "WriteWatchWarning",
    "allocate",
    "capabilities",
    "track",
]

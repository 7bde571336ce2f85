"""Which machine the figures are of."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from writewatch.observe.benchmark.memory import PAGE


@dataclass(frozen=True, slots=True)
class Machine:
    """What a reader needs to judge a figure.

    Attributes:
        kernel: Release, as ``uname -r`` prints it.
        processor: Model name from ``/proc/cpuinfo``, or the architecture.
        n_processors: Those that this process may use.
        memory_bytes: All there is.
        page_bytes: Base page.
        python, numpy: Versions.
    """

    kernel: str
    processor: str
    n_processors: int
    memory_bytes: int
    page_bytes: int
    python: str
    numpy: str

    @classmethod
    def here(cls) -> Machine:
        """This one."""
        return cls(
            kernel=platform.release(),
            processor=_processor(),
            n_processors=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * PAGE,
            page_bytes=PAGE,
            python=platform.python_version(),
            numpy=np.__version__,
        )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()

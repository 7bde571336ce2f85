"""How much memory this process may still take: the machine's, its container's, its own limit."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Return the smallest of the limits that can be read; what cannot be read does not limit."""
    return max(0, min(_limits()))


def _limits() -> Iterator[int]:
    yield _field_bytes("/proc/meminfo", "MemAvailable:")
    yield from _cgroup_limits()
    soft, _hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft - _field_bytes("/proc/self/status", "VmSize:")


def _field_bytes(path: str, name: str) -> int:
    """A line such as ``MemAvailable:   24013252 kB``; the unit is KiB whatever it says."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise LookupError(f"{path} has no line {name}")


def _cgroup_limits() -> Iterator[int]:
    """Every level of version 2 counts. Inside a container, its own group is the root that it sees."""
    here = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    group = CGROUPS / here.lstrip("/")
    for level in (group, *group.parents):
        limit, used = _read(level / "memory.max").strip(), _read(level / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            yield int(limit) - int(used)
        if level == CGROUPS:
            return


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""

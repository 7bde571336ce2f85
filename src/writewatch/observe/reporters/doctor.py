"""The report of ``writewatch doctor``: for people a few tables, for machines one object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from writewatch.kernel.probe import Capabilities, Capability


class Choice(Protocol):
    """What the report needs to know of a backend."""

    @property
    def name(self) -> str:
        """As ``track(backend=...)`` takes it."""
        ...

    @property
    def works(self) -> bool:
        """Whether it can be used here."""
        ...

    @property
    def why(self) -> str:
        """Why it works or not, in a sentence."""
        ...


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that the report shows.

    Attributes:
        version: Of this library.
        python: Implementation and version.
        capabilities: What was tried.
        backends: Best first.
    """

    version: str
    python: str
    capabilities: Capabilities
    backends: Sequence[Choice]

    @property
    def backend(self) -> str:
        """The one that ``backend="auto"`` picks; empty when none works."""
        return next((choice.name for choice in self.backends if choice.works), "")


#: Title of a table -> name of a capability -> what a person calls it.
_TABLES: Final = {
    "Does tracking work": {
        "uffd_wp_async": "asynchronous write-protection",
        "soft_dirty": "soft-dirty bits",
        "uffd_wp_sync": "synchronous write-protection",
        "pte_holes": "dropped pages are seen",
        "pmd_holes": "dropped huge pages are seen",
    },
    "What Linux offers": {
        "userfaultfd": "userfaultfd",
        "kernel_faults": "userfaultfd, faults of system calls",
        "dev_userfaultfd": "/dev/userfaultfd",
        "wp_async": "feature WP_ASYNC",
        "wp_unpopulated": "feature WP_UNPOPULATED",
        "wp_shmem": "write-protection of shared memory",
        "pagemap": "/proc/self/pagemap",
        "pagemap_scan": "PAGEMAP_SCAN",
        "vecless_scan": "PAGEMAP_SCAN without a vec",
        "hugetlb_scan": "PAGEMAP_SCAN of hugetlb memory",
        "pfn": "frame numbers",
    },
    "Around it": {
        "thp": "transparent huge pages",
        "hugetlb": "free hugetlb pages",
        "pinned": "no pinned memory",
        "memlock": "memory that may be locked",
        "ptrace": "tracing other processes",
        "process_vm_readv": "process_vm_readv",
    },
}

_LABELS: Final = {name: label for labels in _TABLES.values() for name, label in labels.items()}

#: ``Capability.reason`` -> who stands in the way, in words that a mend can follow.
_REASONS: Final = {
    "kernel": "this kernel",
    "sysctl": "a setting of this system",
    "seccomp": "a system call filter",
    "container": "this container",
    "permission": "missing rights",
    "limit": "a resource limit",
    "switch": "hidden on purpose",
}


def as_values(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as plain values. Keys are stable; new ones may come."""
    return {
        "writewatch": diagnosis.version,
        "python": diagnosis.python,
        **diagnosis.capabilities.as_dict(),
        "backend": diagnosis.backend,
        "backends": [
            {"name": choice.name, "works": choice.works, "why": choice.why} for choice in diagnosis.backends
        ],
    }


def as_text(diagnosis: Diagnosis) -> RenderableType:
    """The diagnosis for a person."""
    return Group(*_parts(diagnosis))


def _parts(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    found = diagnosis.capabilities
    pages = f"pages of {_size(found.page_size)}, huge pages of {_size(found.huge_page_size)}"
    yield Text(f"writewatch {diagnosis.version} on {found.kernel}, {diagnosis.python}; {pages}")
    yield Text()
    yield _backends(diagnosis)
    for title, labels in _TABLES.items():
        yield Text()
        yield _capabilities(title, ((label, found[name]) for name, label in labels.items()))


def _backends(diagnosis: Diagnosis) -> Table:
    table = _table("Backends, best first")
    for choice in diagnosis.backends:
        picked = choice.name == diagnosis.backend
        note = 'picked by backend="auto": ' if picked else ""
        name = Text(choice.name, style="bold" if picked else "")
        table.add_row(_verdict(choice.works), name, Text(note + choice.why))
    return table


def _capabilities(title: str, rows: Iterable[tuple[str, Capability]]) -> Table:
    table = _table(title)
    for label, item in rows:
        table.add_row(_verdict(item.works), Text(label), _explanation(item))
    return table


def _explanation(item: Capability) -> Text:
    if item.needs:  # its reason and mend stand beside what it needs
        return Text(f"needs {_LABELS[item.needs]}")
    text = Text(item.detail)
    if not item.works:
        text.append("\n" + ": ".join(filter(None, (_REASONS[item.reason], item.mend))), style="yellow")
    return text


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column(width=3, no_wrap=True)
    table.add_column(min_width=20, max_width=36)
    table.add_column(overflow="fold")
    return table


def _verdict(works: bool) -> Text:
    return Text("yes", style="green") if works else Text("no", style="red")


def _size(n_bytes: int) -> str:
    return f"{n_bytes >> 20} MiB" if n_bytes >= 1 << 20 else f"{n_bytes >> 10} KiB"

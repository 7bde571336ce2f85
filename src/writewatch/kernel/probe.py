"""``capabilities()``: what works here, and for what does not, why and what to do.

Learnt by trying, never by version, except for the bugs in ``bugs.py`` that a trial would have to meet. The
trials are in ``offers.py`` (what Linux offers), ``trials.py`` (whether tracking works) and ``host.py``
(facts around it). Together they take some milliseconds and leave nothing behind.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

from writewatch.abi.calls import KernelCalls
from writewatch.abi.pagemap import category_names
from writewatch.abi.userfaultfd import feature_names
from writewatch.kernel import host, offers, trials
from writewatch.kernel.default import HIDE_VARIABLE, default_calls
from writewatch.kernel.hiding import hidden_from, unhidden
from writewatch.kernel.refusals import NotWorkingError, explain

Trial: TypeAlias = Callable[[KernelCalls], str]


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that was tried.

    Attributes:
        name: Stable, as in ``TRIALS``.
        works: Whether it does.
        detail: What was seen.
        reason: For what does not work who stands in the way, one of ``refusals.REASONS``; else empty.
        mend: What to do about it, as an instruction; empty when it works or nothing can be done.
        needs: What it was not tried without: name of a capability that does not work, whose reason and mend these
            are. Empty when it was tried.
    """

    name: str
    works: bool
    detail: str
    reason: str = ""
    mend: str = ""
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """All that was tried, in the order of ``TRIALS``.

    Attributes:
        kernel: System and release, for bug reports.
        page_size: Base page in bytes.
        huge_page_size: What one PMD entry maps, in bytes.
        features: ``UFFD_FEATURE_*`` bits of the kernel; 0 without userfaultfd.
        categories: ``PAGE_IS_*`` bits that PAGEMAP_SCAN knows; 0 without it.
        items: One for each trial.
    """

    kernel: str
    page_size: int
    huge_page_size: int
    features: int
    categories: int
    items: tuple[Capability, ...]

    def __getitem__(self, name: str) -> Capability:
        for item in self.items:
            if item.name == name:
                return item
        raise KeyError(name)

    def __iter__(self) -> Iterator[Capability]:
        return iter(self.items)

    def works(self, name: str) -> bool:
        """Whether one thing works; KeyError for a name that is no trial."""
        return self[name].works

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {
            "kernel": self.kernel,
            "page_size": self.page_size,
            "huge_page_size": self.huge_page_size,
            "features": list(feature_names(self.features)),
            "categories": list(category_names(self.categories)),
            "capabilities": {item.name: asdict(item) for item in self.items},
        }


#: Name -> trial, and the trials without which it need not be tried.
TRIALS: Final[dict[str, tuple[Trial, tuple[str, ...]]]] = {
    "userfaultfd": (offers.userfaultfd, ()),
    "kernel_faults": (offers.kernel_faults, ("userfaultfd",)),
    "dev_userfaultfd": (offers.dev_userfaultfd, ()),
    "wp_unpopulated": (offers.wp_unpopulated, ("userfaultfd",)),
    "wp_async": (offers.wp_async, ("userfaultfd",)),
    "wp_shmem": (offers.wp_shmem, ("userfaultfd",)),
    "pagemap": (offers.pagemap, ()),
    "pfn": (offers.pfn, ("pagemap",)),
    "pagemap_scan": (offers.pagemap_scan, ("pagemap",)),
    "uffd_wp_async": (trials.uffd_wp_async, ("wp_async", "pagemap_scan")),
    "soft_dirty": (trials.soft_dirty, ("pagemap",)),
    "uffd_wp_sync": (trials.uffd_wp_sync, ("userfaultfd",)),
    "pte_holes": (trials.pte_holes, ("uffd_wp_async",)),
    "pmd_holes": (trials.pmd_holes, ("uffd_wp_async",)),
    "vecless_scan": (trials.vecless_scan, ("pagemap_scan",)),
    "hugetlb_scan": (trials.hugetlb_scan, ("pagemap_scan",)),
    "thp": (host.thp, ()),
    "hugetlb": (host.hugetlb, ()),
    "process_vm_readv": (host.process_vm_readv, ()),
    "ptrace": (host.ptrace, ()),
    "memlock": (host.memlock, ()),
    "pinned": (host.pinned, ()),
}

_known: dict[tuple[int, str], Capabilities] = {}


def capabilities(calls: KernelCalls | None = None, *, refresh: bool = False) -> Capabilities:
    """What works here.

    Never raises for what does not work, on any system. Any thread may call it; two that do so at once
    both try.

    Args:
        calls: What to try on. None is the running kernel, whose answer is kept for the life of the process (a
            forked child, which may have other rights, tries for itself), unless it met a resource limit.
        refresh: Try again although an answer is kept.

    Raises:
        UsageError: ``WRITEWATCH_HIDE`` names what cannot be hidden.
    """
    if calls is not None:
        return _probe(calls)
    key = os.getpid(), os.environ.get(HIDE_VARIABLE, "")
    if refresh or key not in _known:
        found = _probe(default_calls())
        if any(item.reason == "limit" for item in found):
            return found  # no descriptor or no memory was free: that is so now, and says nothing of later
        _known[key] = found
    return _known[key]


def _probe(calls: KernelCalls) -> Capabilities:
    found: dict[str, Capability] = {}
    for name, (trial, needs) in TRIALS.items():
        lacking = next((found[need] for need in needs if not found[need].works), None)
        found[name] = _dependent(name, lacking) if lacking else _tried(name, trial, calls)
    return Capabilities(
        kernel=f"{platform.system()} {platform.release()}",
        page_size=calls.page_size,
        huge_page_size=calls.huge_page_size,
        features=_bits(offers.all_features, calls) if found["userfaultfd"].works else 0,
        categories=_bits(offers.all_categories, calls) if found["pagemap_scan"].works else 0,
        items=tuple(found.values()),
    )


def _bits(count: Callable[[KernelCalls], int], calls: KernelCalls) -> int:
    try:
        return count(calls)
    except (OSError, MemoryError):  # no descriptor left, or no memory: the trials have said so
        return 0


def _dependent(name: str, lacking: Capability) -> Capability:
    root = lacking.needs or lacking.name
    return Capability(name, False, f"needs {root}, which does not work", lacking.reason, lacking.mend, root)


def _tried(name: str, trial: Trial, calls: KernelCalls) -> Capability:
    if platform.system() != "Linux" and trials.is_real(calls):
        detail = f"this is {platform.system()}, not Linux"
        return Capability(name, False, detail, "kernel", "use Linux 6.7 or newer")
    try:
        return Capability(name, True, trial(calls))
    except NotWorkingError as error:
        why = error
    except OSError as error:
        why = explain(error)
    except MemoryError as error:
        why = explain(OSError(errno.ENOMEM, str(error) or os.strerror(errno.ENOMEM)))
    except Exception as error:
        # Systems that only resemble Linux (gVisor, WSL1) may answer what no trial has thought of.
        why = NotWorkingError(f"the trial failed: {type(error).__name__}: {error}", "kernel")
    hidden = hidden_from(calls)
    if hidden and _tried(name, trial, unhidden(calls)).works:
        names = ", ".join(sorted(hidden))
        return Capability(name, False, why.detail, "switch", f"unset {HIDE_VARIABLE}, which hides {names}")
    return Capability(name, False, why.detail, why.reason, why.mend)

"""Which backend serves: tried in order of preference, and said why.

The order: asynchronous uffd-wp is exact and costs what changed. Soft-dirty costs the same but is for the whole process
and over-reports. A content hash works everywhere and reads everything. Synchronous uffd-wp makes each first write
forty times as expensive, so it comes after the hash, which disturbs nobody. Every page is the end.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from writewatch.abi.calls import KernelCalls
from writewatch.errors import KernelUnsupportedError, UsageError
from writewatch.kernel.default import default_calls
from writewatch.kernel.probe import Capabilities, Capability, capabilities
from writewatch.tracker import ledger as ledgers
from writewatch.tracker.backend import Backend
from writewatch.tracker.content_hash import ContentHash
from writewatch.tracker.every_page import EveryPage
from writewatch.tracker.soft_dirty import SoftDirty
from writewatch.tracker.translate import translate
from writewatch.tracker.uffd_wp import UffdWp


def _uffd_wp(calls: KernelCalls) -> Backend:
    # A kernel that forgets to report a dropped huge page (fixed in 2026) must not be given one to drop.
    return UffdWp(calls, keep_huge_pages=known(calls).works("pmd_holes"))


def _uffd_sync(calls: KernelCalls) -> Backend:
    # On use: it brings sockets and processes, and most programs never need it.
    from writewatch.tracker.uffd_sync import UffdSync

    return UffdSync(calls)


#: Name -> how to make it, and the capabilities that it stands on. Best first.
BACKENDS: Final[dict[str, tuple[Callable[[KernelCalls], Backend], tuple[str, ...]]]] = {
    "uffd-wp": (_uffd_wp, ("uffd_wp_async",)),
    "soft-dirty": (SoftDirty, ("soft_dirty",)),
    "content-hash": (ContentHash, ()),
    # Without the right to kernel faults, read(2) into protected memory would be EFAULT.
    "uffd-wp-sync": (_uffd_sync, ("uffd_wp_sync", "kernel_faults")),
    "every-page": (lambda _: EveryPage(), ()),
}


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """What is to be said of a backend here.

    Attributes:
        name: As in ``track(…, backend=name)``.
        works: Whether it can be used.
        why: What was seen, or who stands in the way and what to do.
    """

    name: str
    works: bool
    why: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """A backend that serves, and the first account with it."""

    name: str
    reason: str
    key: tuple[int, str]
    ledger: ledgers.Ledger
    account: ledgers.Account

    def close(self, account: ledgers.Account) -> None:
        """Close an account with this ledger."""
        ledgers.close_account(self.key, self.ledger, account)


_known: Final[weakref.WeakKeyDictionary[KernelCalls, Capabilities]] = weakref.WeakKeyDictionary()


def known(calls: KernelCalls) -> Capabilities:
    """What works with these calls; tried once for each object."""
    if calls is default_calls():
        return capabilities()
    found = _known.get(calls)
    if found is None:
        found = _known[calls] = capabilities(calls)
    return found


def ranking(found: Capabilities) -> tuple[BackendChoice, ...]:
    """Every backend, best first, with what the capabilities say of it."""
    return tuple(_judge(name, found) for name in BACKENDS)


def lacking(name: str, found: Capabilities) -> Capability | None:
    """The first capability that a backend needs and that does not work; None when it can be used."""
    return next((found[need] for need in BACKENDS[name][1] if not found.works(need)), None)


def _judge(name: str, found: Capabilities) -> BackendChoice:
    lacks = lacking(name, found)
    if lacks is not None:
        return BackendChoice(name, False, f"{lacks.detail}; {lacks.mend}" if lacks.mend else lacks.detail)
    seen = "; ".join(found[need].detail for need in BACKENDS[name][1])
    return BackendChoice(name, True, seen or "needs nothing from the kernel")


def open_best(name: str, calls: KernelCalls, account: ledgers.Account) -> Chosen:
    """Open an account with the named backend, or with the best that takes them.

    Raises:
        UsageError: No backend has this name.
        KernelUnsupportedError: The named backend does not work here, or does not take this memory.
    """
    if name != "auto":
        return _open_named(name, calls, account)
    passed_over = []
    for choice in ranking(known(calls)):
        if not choice.works:
            passed_over.append(f"{choice.name}: {choice.why}")
            continue
        try:
            return _open(
                choice.name, calls, account, "; ".join([*passed_over, f"{choice.name}: {choice.why}"])
            )
        except KernelUnsupportedError as error:
            passed_over.append(f"{choice.name}: {str(error).removeprefix(f'{choice.name}: ')}")
    raise AssertionError("every-page refuses nothing")


def _open_named(name: str, calls: KernelCalls, account: ledgers.Account) -> Chosen:
    if name not in BACKENDS:
        raise UsageError(f"no backend {name!r}; choose auto, {', '.join(BACKENDS)}")
    lacks = lacking(name, known(calls)) if BACKENDS[name][1] else None
    if lacks is not None:
        why = _judge(name, known(calls)).why
        raise KernelUnsupportedError(f"{name} does not work here: {why}", (lacks.name,))
    return _open(name, calls, account, f"{name}: asked for by name")


def _open(name: str, calls: KernelCalls, account: ledgers.Account, reason: str) -> Chosen:
    make, _ = BACKENDS[name]
    key = id(calls), name
    try:
        ledger, _ = ledgers.open_account(key, lambda: make(calls), account.spans, account)
    except OSError as error:
        raise translate(error, name) from error
    return Chosen(name, reason, key, ledger, account)

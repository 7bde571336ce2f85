"""A userfaultfd: its context, its two queues, and what a page fault does with it.

A thread whose fault has to be served sleeps as a ``Wait`` in ``pending`` until a reader takes the message
(then in ``delivered``), until a range operation wakes it, or until the context is released. Events have a
queue of their own; their thread sleeps until the message was read.

An asynchronous context never reaches the queues with a write-protect fault: ``fault_wp.py`` resolves it.
Missing and minor faults of the same context are delivered all the same.

Truth: fs/userfaultfd.c.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NoReturn

from writewatch.abi import userfaultfd as abi
from writewatch.model.mm import Mm, failure
from writewatch.model.signals import BUS_ADRERR, BusError, MustWait
from writewatch.model.vma import VM_UFFD_MINOR, VM_UFFD_WP
from writewatch.model.vmf import Fault
from writewatch.model.waits import Steps, Wait

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The bit that fdinfo shows in addition once the handshake is over (UFFD_FEATURE_INITIALIZED).
INITIALIZED: Final = 1 << 31


class Context:
    """``struct userfaultfd_ctx``.

    Attributes:
        mm: The one it is bound to, for life.
        flags: Of userfaultfd(2): ``UFFD_USER_MODE_ONLY``, O_NONBLOCK.
        features: Enabled features; None before UFFDIO_API.
        pending: Faults whose message nobody read yet, first come first.
        delivered: Faults whose message was read.
        events: Events whose message nobody read yet.
        mmap_changing: Events that are under way; while there are any, filling and protecting is EAGAIN.
        released: The last descriptor was closed.
        readers: Threads that sleep in read(2).
    """

    def __init__(self, mm: Mm, flags: int) -> None:
        self.mm = mm
        self.flags = flags
        self.features: int | None = None
        self.pending: list[Wait] = []
        self.delivered: list[Wait] = []
        self.events: list[Wait] = []
        self.mmap_changing = 0
        self.released = False
        self.readers: list[Wait] = []

    def has(self, feature: int) -> bool:
        """Whether a feature is enabled."""
        return self.features is not None and bool(self.features & feature)

    @property
    def is_async(self) -> bool:
        """Whether write-protect faults are resolved by the kernel. Chosen once, in UFFDIO_API."""
        return self.has(abi.UFFD_FEATURE_WP_ASYNC)

    def sleepers(self) -> Iterator[Wait]:
        """Every thread that waits for a fault of this context."""
        yield from self.pending
        yield from self.delivered

    def forget_thread(self, thread_id: int) -> None:
        """A thread that faults again has left its former wait."""
        self.pending = [wait for wait in self.pending if wait.thread_id != thread_id]
        self.delivered = [wait for wait in self.delivered if wait.thread_id != thread_id]

    def wake(self, start: int, length: int) -> None:
        """Wake the threads whose faulting address lies in ``[start, start + length)``."""
        # Compare fs/userfaultfd.c:__wake_userfault().
        for wait in [w for w in self.sleepers() if start <= w.start < start + length]:
            wait.done = True
        self.pending = [wait for wait in self.pending if not wait.done]
        self.delivered = [wait for wait in self.delivered if not wait.done]

    # ---- reading ---------------------------------------------------------------------------------

    def next_wait(self) -> Wait | None:
        """Take the message that a read delivers next: faults before events, each first come first."""
        # Compare fs/userfaultfd.c:userfaultfd_ctx_read().
        if self.pending:
            wait = self.pending.pop(0)
            self.delivered.append(wait)
            return wait
        return self.events.pop(0) if self.events else None

    def notify(self) -> None:
        """A message was queued: wake the readers."""
        for reader in self.readers:
            reader.done = True
        self.readers = []

    @property
    def has_message(self) -> bool:
        """Whether a read would return at once."""
        return bool(self.pending or self.events)


def handle_userfault(fault: Fault, reason: int) -> NoReturn:
    """Hand a fault over to user space: queue the message and sleep. The fault starts anew after the wake.

    Args:
        fault: Which.
        reason: ``VM_UFFD_MISSING``, ``VM_UFFD_WP`` or ``VM_UFFD_MINOR``.

    Raises:
        MustWait: The message is queued.
        BusError: ``UFFD_FEATURE_SIGBUS``, or a kernel access with ``UFFD_USER_MODE_ONLY``.
    """
    context = fault.vma.context
    assert context is not None
    refused = not fault.user and context.flags & abi.UFFD_USER_MODE_ONLY
    if context.has(abi.UFFD_FEATURE_SIGBUS) or refused:
        raise BusError(fault.at, BUS_ADRERR)
    thread_id = fault.mm.machine.thread_id
    context.forget_thread(thread_id)
    wait = Wait(_fault_message(fault, context, reason), thread_id)
    wait.start = int(wait.message.arg.pagefault.address)
    context.pending.append(wait)
    context.notify()
    fault.mm.machine.counters.events["message"] += 1
    raise MustWait(wait)


def _fault_message(fault: Fault, context: Context, reason: int) -> abi.UffdMsg:
    # Compare fs/userfaultfd.c:userfault_msg().
    message = abi.UffdMsg(event=abi.UFFD_EVENT_PAGEFAULT)
    unit = fault.mm.machine.huge_page_size if fault.vma.is_hugetlb else fault.mm.machine.page_size
    exact = context.has(abi.UFFD_FEATURE_EXACT_ADDRESS)
    message.arg.pagefault.address = fault.at if exact else fault.at & -unit
    flags = abi.UFFD_PAGEFAULT_FLAG_WRITE if fault.write else 0
    flags |= abi.UFFD_PAGEFAULT_FLAG_WP if reason == VM_UFFD_WP else 0
    flags |= abi.UFFD_PAGEFAULT_FLAG_MINOR if reason == VM_UFFD_MINOR else 0
    message.arg.pagefault.flags = flags
    if context.has(abi.UFFD_FEATURE_THREAD_ID):
        message.arg.pagefault.ptid = fault.mm.machine.thread_id
    return message


def send_event(context: Context, message: abi.UffdMsg, child: Context | None = None) -> Steps[None]:
    """Queue an event and sleep until it was read. Preconditions: ``mmap_changing`` was raised for it."""
    # Compare fs/userfaultfd.c:userfaultfd_event_wait_completion().
    wait = Wait(message, context.mm.machine.thread_id, child=child)
    if not context.released:
        context.events.append(wait)
        context.notify()
        while not wait.done and not context.released:
            yield wait
    context.mmap_changing -= 1


def refuse_while_changing(context: Context, call: str) -> None:
    """EAGAIN while an event of a context is under way."""
    if context.mmap_changing:
        raise failure(errno.EAGAIN, call)

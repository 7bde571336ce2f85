"""read(2) of a userfaultfd.

Truth: fs/userfaultfd.c:userfaultfd_read_iter(), userfaultfd_ctx_read(), resolve_userfault_fork().
"""

from __future__ import annotations

import errno
import os

from writewatch.abi import userfaultfd as abi
from writewatch.model.descriptors import Descriptors
from writewatch.model.mm import failure
from writewatch.model.uffd import Context
from writewatch.model.waits import Steps, Wait


def read_messages(context: Context, max_messages: int, reader: Descriptors) -> Steps[bytes]:
    """Up to that many messages; only the first is waited for, and not on an O_NONBLOCK descriptor.

    Args:
        context: Whose.
        max_messages: Buffer size in messages; 0 is EINVAL.
        reader: Receives the descriptor of a forked child's context.
    """
    if context.features is None or not max_messages:
        raise failure(errno.EINVAL, "read")
    while not context.has_message:
        if context.flags & os.O_NONBLOCK:
            raise failure(errno.EAGAIN, "read")
        sleep = Wait(abi.UffdMsg(), context.mm.machine.thread_id)
        context.readers.append(sleep)
        yield sleep
    parts: list[bytes] = []
    while context.has_message and len(parts) < max_messages:
        wait = context.next_wait()
        assert wait is not None
        parts.append(_deliver(wait, reader))
    return b"".join(parts)


def _deliver(wait: Wait, reader: Descriptors) -> bytes:
    message = wait.message
    if message.event != abi.UFFD_EVENT_PAGEFAULT:
        # An event is over when it was read; a fault has to be served and woken.
        wait.done = True
    if wait.child is not None:
        message.arg.fork.ufd = reader.install(wait.child)
    return bytes(message)

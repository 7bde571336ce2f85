"""Messages between a helper process and its owner: one packet of JSON, with a descriptor beside it or not.

Runs in the helper process too: nothing here may import NumPy.
"""

from __future__ import annotations

import array
import json
import socket
from collections.abc import Mapping
from typing import Any, Final

_PACKET: Final = 1 << 16
_ITEM_BYTES: Final = array.array("i").itemsize


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends; a packet arrives whole or not at all."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(connection: socket.socket, message: Mapping[str, Any], fd: int = -1) -> None:
    """Send a message, and a copy of a descriptor unless it is -1."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
    connection.sendmsg([json.dumps(message).encode()], rights)


def receive(connection: socket.socket) -> tuple[dict[str, Any], int]:
    """A message, and the descriptor that came with it, close-on-exec from the start, or -1.

    An empty message is the end. (``socket.recv_fds`` ignores its flags.)
    """
    packet, ancillary, _, _ = connection.recvmsg(
        _PACKET, socket.CMSG_LEN(_ITEM_BYTES), socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) // _ITEM_BYTES * _ITEM_BYTES])
    return (json.loads(packet) if packet else {}), (fds[0] if fds else -1)

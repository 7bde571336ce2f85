"""The process that answers write faults for ``uffd_sync``. Standard library only; run by path, never imported.

Its owner cannot do this: a thread that faults keeps Python's interpreter lock while it waits, so a handler
thread in the same process might never run. This process holds the only copy of the userfaultfd. Should it die, the
descriptor closes with it, Linux lifts every protection and wakes every waiter: the owner runs on.

Arguments: descriptor of a socket to the owner, the request numbers of UFFDIO_REGISTER, UFFDIO_UNREGISTER,
UFFDIO_WRITEPROTECT and UFFDIO_WAKE, then the page sizes of this machine, ascending. The userfaultfd arrives over the
socket. The process that is started forks and ends, so that the one that stays is no child of its owner.

A request is one packet: a letter, its serial number, and pairs of (start, length) in bytes. ``R`` registers and
protects, ``P`` protects, ``U`` unregisters. The answer is the serial number and one errno for each pair, 0 where it
was done. An owner that was interrupted while it waited tells by the number which answer is not for it.
"""

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys

PACKET = 1 << 16
MODE_WP = 2  # UFFDIO_REGISTER_MODE_WP
PROTECT = 1  # UFFDIO_WRITEPROTECT_MODE_WP
PAGEFAULT = 0x12  # UFFD_EVENT_PAGEFAULT


class Helper:
    """Answers faults and does what its owner asks, in one thread."""

    def __init__(
        self,
        owner: socket.socket,
        uffd: int,
        register: int,
        unregister: int,
        protect: int,
        wake: int,
        *page_sizes: int,
    ) -> None:
        self.owner, self.uffd = owner, uffd
        self.page_sizes = page_sizes
        self.register, self.unregister, self.protect, self.wake = register, unregister, protect, wake

    def run(self) -> None:
        """Until the owner closes its end of the socket, by dying if need be."""
        poller = select.poll()
        poller.register(self.uffd, select.POLLIN)
        poller.register(self.owner, select.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self.uffd in ready:
                self.answer_faults()
            if self.owner.fileno() in ready:
                packet = self.owner.recv(PACKET)
                if not packet:
                    return
                self.owner.send(self.serve(packet))

    def answer_faults(self) -> None:
        """Lift the protection of each page that somebody waits to write to."""
        try:
            messages = os.read(self.uffd, 64 * 32)
        except BlockingIOError:
            return
        for at in range(0, len(messages), 32):
            event, _, address = struct.unpack_from("<QQQ", messages, at)
            if event & 0xFF == PAGEFAULT:
                self.let_write(address)

    def let_write(self, address: int) -> None:
        """A hugetlb page has to be unprotected whole; a page that was unregistered meanwhile only woken.

        One that cannot be unprotected is unregistered: the tracker finds it unprotected and reports it, where
        its writer would wait for ever.
        """
        for size in self.page_sizes:
            start = address // size * size
            code = self.ioctl(self.protect, "<QQQ", start, size, 0)
            if code not in (errno.EINVAL, errno.EAGAIN):
                break
        for size in self.page_sizes if code == errno.EINVAL else ():
            if not self.ioctl(self.unregister, "<QQ", address // size * size, size):
                break
        if code:
            size = self.page_sizes[0]
            self.ioctl(self.wake, "<QQ", address // size * size, size)

    def serve(self, packet: bytes) -> bytes:
        """The answer to a request."""
        does = {b"R": self.arm, b"P": self.do_protect, b"U": self.disarm}[packet[:1]]
        serial, pairs = packet[1:9], packet[9:]
        codes = []
        for start, length in struct.iter_unpack("<QQ", pairs):
            codes.append(does(start, length))
            self.answer_faults()  # nobody waits for a long request to end
        return serial + struct.pack(f"<{len(codes)}i", *codes)

    def arm(self, start: int, length: int) -> int:
        """Register, then protect; unregister again when protecting is refused."""
        code = self.ioctl(self.register, "<QQQQ", start, length, MODE_WP, 0)
        if code:
            return code
        code = self.do_protect(start, length)
        if code:
            self.disarm(start, length)
        return code

    def do_protect(self, start: int, length: int) -> int:
        """Protect, as often as it takes: EAGAIN says that a fork or mremap of the owner is under way."""
        while True:
            code = self.ioctl(self.protect, "<QQQ", start, length, PROTECT)
            if code != errno.EAGAIN:
                return code

    def disarm(self, start: int, length: int) -> int:
        """Unregister and wake: unregistering alone leaves those who wait for a write waiting."""
        code = self.ioctl(self.unregister, "<QQ", start, length)
        self.ioctl(self.wake, "<QQ", start, length)
        return code

    def ioctl(self, request: int, layout: str, *fields: int) -> int:
        """Errno of an ioctl on the userfaultfd, 0 when it went well."""
        try:
            fcntl.ioctl(self.uffd, request, struct.pack(layout, *fields))
        except OSError as error:
            return error.errno or errno.EIO
        return 0


def main() -> None:
    """Take the descriptor over, say so, and serve."""
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the owner
    owner = socket.socket(fileno=int(sys.argv[1]))
    numbers = [int(word) for word in sys.argv[2:]]
    _, received, _, _ = socket.recv_fds(owner, 1, 1)
    if received:  # else the owner has given up, or died
        owner.send(bytes(8))
        Helper(owner, received[0], *numbers).run()


if __name__ == "__main__":
    # Of a pipe and a connection there is but one here, to the owner. It was killed: there is nobody to tell.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        main()

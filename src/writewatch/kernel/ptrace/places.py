"""Where in a process a system call can be made, and whether a stack has room for a signal frame.

Read from ``/proc/PID/task/TID/maps`` before the thread is stopped; addresses found in a library are remembered by
its file, and checked in the target's memory before they are used.

Runs in the helper process too: nothing here may import NumPy.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from writewatch.kernel.ptrace.tracing import Tracee

CALL_AND_RETURN: Final = b"\x0f\x05\xc3"  # syscall; ret
#: ``mov $15, %rax; syscall`` as glibc spells it, and ``mov $15, %eax; syscall`` as musl does.
SIGRETURN: Final = (b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05", b"\xb8\x0f\x00\x00\x00\x0f\x05")
#: Head of the ELF note ``.note.go.buildid``: type 4, name "Go". A goroutine's stack lies among the heap.
_GO_NOTE: Final = b"\x04\x00\x00\x00Go\x00\x00"
_HEAD_BYTES: Final = 4096
_MOST_BYTES: Final = 64 << 20


class Place(NamedTuple):
    """One VMA, as far as it matters here."""

    start: int
    end: int
    perms: str
    offset: int
    file: tuple[str, str]  # device and inode
    name: str


class Gadgets(NamedTuple):
    """Addresses of ``syscall; ret`` and of ``mov $15, %rax; syscall``; None where there is none."""

    call: int | None
    sigreturn: int | None


#: (device, inode, offset of the VMA, its length, pattern) -> distance from the VMA's start; -1 where it is not.
_Found = dict[tuple[tuple[str, str], int, int, bytes], int]
_found: _Found = {}


def read_places(pid: int, tid: int) -> list[Place]:
    """The VMAs of a thread's process; of its own directory, because that of a dead leader is empty."""
    with open(f"/proc/{pid}/task/{tid}/maps", "rb", buffering=0) as file:
        text = file.readall().decode("utf-8", "surrogateescape")
    places = []
    for line in text.split("\n"):
        if line:
            span, perms, offset, device, inode, *name = line.split(None, 5)
            start, end = span.split("-")
            places.append(
                Place(int(start, 16), int(end, 16), perms, int(offset, 16), (device, inode), "".join(name))
            )
    return places


def is_go(tid: int) -> bool:
    """Whether a thread is of a program of Go; also True where its file cannot be read, as of one that has ended."""
    try:
        with open(f"/proc/{tid}/exe", "rb", buffering=0) as file:
            return _GO_NOTE in file.read(_HEAD_BYTES)
    except OSError:
        return True


def find_gadgets(tracee: Tracee, places: list[Place]) -> Gadgets:
    """The two that a self-restoring call needs: in the C library if there is one, else anywhere."""
    code = [place for place in places if place.perms[0] == "r" and place.perms[2] == "x"]
    code.sort(
        key=lambda place: ("/libc" not in place.name and "/ld-" not in place.name, place.end - place.start)
    )
    call = _search(tracee, code, (CALL_AND_RETURN,))
    return Gadgets(call, _search(tracee, code, SIGRETURN) if call is not None else None)


def find_instruction(tracee: Tracee, places: list[Place], instruction: bytes) -> int | None:
    """A system call instruction: in the vdso, which costs nothing to search, else in any executable VMA."""
    code = [place for place in places if place.perms[2] == "x" and place.name != "[vsyscall]"]
    code.sort(key=lambda place: (place.name != "[vdso]", place.end - place.start))
    return _search(tracee, code, (instruction,), align=4 if len(instruction) == 4 else 1)


def _search(tracee: Tracee, code: list[Place], patterns: tuple[bytes, ...], align: int = 1) -> int | None:
    left = _MOST_BYTES
    for place in code:
        if place.end - place.start > left or place.name == "[vsyscall]":
            continue
        left -= place.end - place.start
        for pattern in patterns:
            at = _find(tracee, place, pattern, align)
            if at >= 0:
                return place.start + at
    return None


def _find(tracee: Tracee, place: Place, pattern: bytes, align: int) -> int:
    """Distance from the start of a VMA; remembered for a file's, and believed only where the bytes are there."""
    key = place.file, place.offset, place.end - place.start, pattern
    is_file = place.file[1] != "0"
    if is_file and key in _found:
        at = _found[key]
        if at < 0 or read_or_nothing(tracee, place.start + at, len(pattern)) == pattern:
            return at
    text = read_or_nothing(tracee, place.start, place.end - place.start)
    at = text.find(pattern)
    while at % align and at >= 0:
        at = text.find(pattern, at + 1)
    if is_file:
        _found[key] = at
    return at


def read_or_nothing(tracee: Tracee, address: int, length: int) -> bytes:
    """Memory, or no bytes where it cannot be read."""
    try:
        return tracee.read(address, length)
    except OSError:
        return b""


def has_room(place: Place, lowest: int, stack_pointer: int, thread_pointer: int) -> bool:
    """Whether ``[lowest, stack_pointer)`` is on a stack, in this VMA, that belongs to the thread as a whole.

    Such a stack is the process's own, or a mapping that holds the thread's control block above the stack, as
    those do that pthread_create makes. The stack of a coroutine or a signal handler may be just large enough.
    """
    if not place.start <= lowest <= stack_pointer < place.end:
        return False
    owns = place.name == "[stack]" or stack_pointer < thread_pointer < place.end
    return owns and place.perms[1] == "w"

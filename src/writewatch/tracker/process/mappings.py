"""Names a person knows, for the mappings of a process.

Most are told by ``maps``: ``[heap]``, a path, ``memfd:name``. Of the unnamed ones some can be told by what lies
around them or by a stack pointer, and those that only look like something say so: "by its shape". Neighbours with
one name are one mapping. What cannot be told stays ``[anonymous]``.

Truth: ``show_map_vma()`` in ``fs/proc/task_mmu.c``; ``malloc/arena.c`` of glibc (HEAP_MAX_SIZE);
``Objects/obmalloc.c`` of CPython (ARENA_SIZE); proc_pid_maps(5).
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from writewatch.abi.calls import Vma
from writewatch.tracker.process.layout import is_candidate
from writewatch.tracker.process.printing import printable
from writewatch.tracker.process.writes import Kind, Mapping

Name: TypeAlias = tuple[str, Kind]

#: What glibc reserves for an arena of malloc other than the first: 64 MiB, aligned to as much, opened from below.
_ARENA_BYTES: Final = 64 << 20
#: A page or some at the edge of a stack, PROT_NONE.
_GUARD_BYTES: Final = 64 << 10
_PYTHON: Final = re.compile(r"^(?:lib)?python(?:(\d+)\.(\d+))?[^/]*$")
_DELETED: Final = " (deleted)"


@dataclass(frozen=True, slots=True)
class Hints:
    """What is known of the process besides its ``maps``.

    Attributes:
        stack_pointers: Of its threads, ascending, as far as they could be read.
        spans: Of programs and libraries, by device and inode: bytes from their start to the end of ``.bss``.
    """

    stack_pointers: tuple[int, ...] = ()
    spans: Table[tuple[str, int], int] = field(default_factory=dict)


def named(
    vmas: tuple[Vma, ...],
    *,
    untracked: Table[Vma, str] | None = None,
    unseen: Table[Vma, str] | None = None,
    hints: Hints | None = None,
) -> tuple[Mapping, ...]:
    """All mappings with their names, ascending.

    Args:
        vmas: As in ``maps``.
        untracked: Mapping -> why it is not tracked.
        unseen: Mapping -> who may write to it without being seen.
        hints: What else is known.
    """
    left = {vma.start: why for vma, why in (untracked or {}).items()}
    said = {vma.start: why for vma, why in (unseen or {}).items()} | left
    names = _Names(vmas, hints or Hints())
    parts = ((vma, names.of(at), said.get(vma.start), vma.start not in left) for at, vma in enumerate(vmas))
    return tuple(
        Mapping(group[0].start, group[-1].end, *name, tuple(group), why, tracked)
        for group, name, why, tracked in _joined(parts)
    )


def _joined(
    parts: Iterator[tuple[Vma, Name, str | None, bool]],
) -> Iterator[tuple[list[Vma], Name, str | None, bool]]:
    """Neighbours that touch and of which the same is to be said."""
    group: list[Vma] = []
    facts: tuple[Name, str | None, bool] = ("", "special"), None, True
    for vma, name, why, tracked in parts:
        if group and group[-1].end == vma.start and facts == (name, why, tracked):
            group.append(vma)
            continue
        if group:
            yield group, *facts
        group, facts = [vma], (name, why, tracked)
    if group:
        yield group, *facts


class _Names:
    """Names of the VMAs of one process; each may depend on its neighbours."""

    def __init__(self, vmas: tuple[Vma, ...], hints: Hints) -> None:
        self._vmas = vmas
        self._stacks = hints.stack_pointers
        starts = {(vma.device, vma.inode): vma.start for vma in reversed(vmas) if not vma.offset}
        self._ends = {inode: starts[inode] + span for inode, span in hints.spans.items() if inode in starts}
        images = [vma for vma in vmas if vma.is_file and "x" in vma.perms and vma.name.startswith("/")]
        self._images = {(vma.device, vma.inode) for vma in images if not vma.name.startswith("/memfd:")}
        self._python_arena = _python_arena_bytes(images)

    def of(self, at: int) -> Name:
        name, kind = self._of(at)
        return printable(name), kind

    def _of(self, at: int) -> Name:
        vma = self._vmas[at]
        if vma.name.startswith("[anon"):
            return _given(vma.name)
        if vma.is_file:
            return self._of_file(vma, at)
        if vma.name == "[heap]":
            return vma.name, "heap"
        if vma.name.startswith("[stack"):
            return vma.name, "stack"
        if vma.name or not is_candidate(vma):
            return vma.name, "special"
        return self._of_anonymous(vma, at)

    # ---- files -----------------------------------------------------------------------------------

    def _of_file(self, vma: Vma, at: int) -> Name:
        if not is_candidate(vma):
            return vma.name, "special"
        if (vma.device, vma.inode) in self._images and not vma.is_shared:
            return self._of_image(vma, at)
        return _of_data_file(vma)

    def _of_image(self, vma: Vma, at: int) -> Name:
        """A part of a program or library."""
        path = vma.name.removesuffix(_DELETED)
        base = path.rpartition("/")[2] + vma.name[len(path) :]
        if not vma.is_writable:
            return f"{base} .data.rel.ro" if self._is_relro(at) else f"{base} .text/.rodata", "library"
        has_bss = at + 1 < len(self._vmas) and self._is_bss(at + 1)
        return f"{base} .data/.bss" if has_bss else f"{base} .data", "library"

    def _is_relro(self, at: int) -> bool:
        """Whether a read-only part was written by the dynamic linker: split off in front of the writable one."""
        if at + 1 == len(self._vmas) or "x" in self._vmas[at].perms:
            return False
        vma, after = self._vmas[at], self._vmas[at + 1]
        is_one_file = (vma.device, vma.inode) == (after.device, after.inode)
        return is_one_file and vma.end == after.start and after.is_writable

    def _is_bss(self, at: int) -> bool:
        """Whether an unnamed VMA continues the writable part of an image, and is for the most part its own."""
        if at == 0:
            return False
        vma, before = self._vmas[at], self._vmas[at - 1]
        image = before.device, before.inode
        touches = before.end == vma.start and vma.is_writable and not vma.is_shared
        is_plain = not vma.is_file and not vma.name and "x" not in vma.perms
        if not (touches and is_plain and before.is_writable and image in self._images):
            return False
        return 2 * (self._ends.get(image, vma.end) - vma.start) >= vma.end - vma.start

    # ---- no file ---------------------------------------------------------------------------------

    def _of_anonymous(self, vma: Vma, at: int) -> Name:
        if self._is_bss(at):
            return self._of_image(self._vmas[at - 1], at - 1)
        if self._holds_stack_pointer(vma):
            return "thread stack", "stack"
        if self._is_arena(at) or (at and self._is_arena(at - 1) and self._is_rest_of_arena(at)):
            return "malloc arena (by its shape)", "heap"
        if "x" in vma.perms:
            return "[anonymous] executable (JIT)", "anonymous"
        if vma.perms.startswith("---"):
            is_guard = vma.end - vma.start <= _GUARD_BYTES
            return "[anonymous] guard" if is_guard else "[anonymous] reserved", "anonymous"
        if self._python_arena and vma.is_writable and (vma.end - vma.start) % self._python_arena == 0:
            return "Python arenas (by their shape)", "heap"
        return "[anonymous]", "anonymous"

    def _holds_stack_pointer(self, vma: Vma) -> bool:
        at = bisect.bisect_left(self._stacks, vma.start)
        return vma.is_writable and at < len(self._stacks) and self._stacks[at] < vma.end

    def _is_arena(self, at: int) -> bool:
        """Whether a VMA is the open part of an arena: aligned, and reserved up to the next 64 MiB or full."""
        vma = self._vmas[at]
        if vma.is_file or vma.name or vma.perms != "rw-p" or vma.start % _ARENA_BYTES:
            return False
        return vma.end % _ARENA_BYTES == 0 or (at + 1 < len(self._vmas) and self._is_rest_of_arena(at + 1))

    def _is_rest_of_arena(self, at: int) -> bool:
        vma, before = self._vmas[at], self._vmas[at - 1]
        is_reserve = vma.perms == "---p" and not vma.is_file and not vma.name
        return is_reserve and before.end == vma.start and vma.end % _ARENA_BYTES == 0


def _python_arena_bytes(images: list[Vma]) -> int:
    """Size of the arenas of the CPython that the images show; 0 when there is none."""
    for vma in images:
        match = _PYTHON.match(vma.name.removesuffix(_DELETED).rpartition("/")[2])
        if match:
            is_old = match[1] is not None and (int(match[1]), int(match[2])) < (3, 10)
            return (256 << 10) if is_old else (1 << 20)
    return 0


def _given(name: str) -> Name:
    """A name that the program gave with PR_SET_VMA_ANON_NAME; glibc and Bionic name stacks and heaps so."""
    lowered = name.lower()
    if name.startswith("[anon_shmem:"):
        return name, "shared"
    if "stack" in lowered:
        return name, "stack"
    return name, "heap" if "malloc" in lowered or "heap" in lowered else "anonymous"


def _of_data_file(vma: Vma) -> Name:
    path = vma.name.removesuffix(_DELETED)
    sort: Kind = "shared" if vma.is_shared else "anonymous"
    if path == "/dev/zero":
        return "shared anonymous memory" if vma.is_shared else path, sort
    if path == "/anon_hugepage":
        return "huge pages", sort
    if path.startswith("/SYSV"):
        return f"SysV shared memory, key 0x{path[5:]}, id {vma.inode}", "shared"
    if path.startswith("/memfd:"):
        return path[1:], "shared" if vma.is_shared else "file"
    if path.startswith("/dev/shm/"):  # noqa: S108 (a name in maps)
        return vma.name, "shared" if vma.is_shared else "file"
    return vma.name or f"file {vma.device} inode {vma.inode}", "file"

"""Bugs of released kernels that no trial can find without meeting them, by the releases that have them.

Everywhere else features are learnt by trying. These five cannot be: three end in a panic or a hang, two are
races that lose a write once in a long while. So the release decides, and a release that nobody can place
counts as having the bug.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

Release: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class KernelBug:
    """One bug.

    Attributes:
        name: In a few words, with its CVE number where it has one.
        since: First release with it.
        stable: Releases that repaired it in their series.
        mainline: From this release on it is repaired everywhere.
        effect: What it does to a user of this library.
    """

    name: str
    since: Release
    stable: tuple[Release, ...]
    mainline: Release
    effect: str

    def affects(self, release: Release) -> bool:
        """Whether a release has the bug."""
        if not self.since <= release < self.mainline:
            return False
        return not any(fixed[:2] == release[:2] and fixed <= release for fixed in self.stable)

    def mend(self) -> str:
        """Which release to use instead."""
        fixed = [f"{a}.{b}.{c}" for a, b, c in self.stable]
        return f"use Linux {', '.join([*fixed, f'{self.mainline[0]}.{self.mainline[1]}'])} or newer"


# Linux kernel commit c70dce4982ce ("fs/proc/task_mmu: fix loss of young/dirty bits during pagemap scan") (in
# v6.9). Before that, protecting read an entry and rewrote it in two steps; what the processor set in
# between was lost, and a page of a file could be dropped without being written back.
DIRTY_BITS_LOST: Final = KernelBug(
    "dirty bits lost while protecting (CVE-2024-36943)",
    (6, 7, 0),
    ((6, 8, 10),),
    (6, 9, 0),
    "PAGEMAP_SCAN with write-protection may lose data of a program that writes meanwhile",
)

# Reached by an unprivileged PAGEMAP_SCAN with PM_SCAN_WP_MATCHING and vec_len 0 that cuts a huge page. The
# ioctl is in v6.7; distributions carry it in older releases, hence no first release.
VECLESS_PANIC: Final = KernelBug(
    "PAGEMAP_SCAN without a vec dereferences a null pointer",
    (0, 0, 0),
    ((6, 12, 57),),
    (6, 18, 0),
    "a scan that protects, has no vec and cuts a huge page panics the machine",
)

# The walk takes the hugetlb lock, and again for a page that has no entry yet. Seen repaired in 6.18.44.
HUGETLB_HOLE_DEADLOCK: Final = KernelBug(
    "PAGEMAP_SCAN deadlocks on an untouched huge page",
    (0, 0, 0),
    ((6, 12, 100), (6, 18, 44)),
    (7, 2, 0),
    "a scan that protects hugetlb memory never touched hangs for ever; protect it with UFFDIO_WRITEPROTECT",
)

# "mm/rmap: fix soft-dirty and uffd-wp bit loss when remapping zero-filled mTHP subpage to shared
# zeropage" (in v6.18). For uffd-wp a lost bit is a page reported too much; for soft-dirty a page missed.
SOFT_DIRTY_LOST: Final = KernelBug(
    "soft-dirty lost when a huge page with zero-filled parts is split",
    (6, 12, 0),
    ((6, 12, 57),),
    (6, 18, 0),
    "a page that was overwritten with zeros may be missed",
)

# Seen in 6.12.117, wherever a VMA whose vm_ops have close() (files of 9p, and by its code of FUSE) lies behind one
# that differs in the registration alone: a kernel BUG in userfaultfd_unregister(). Its loop clears the VMA and tries to
# merge it with the one before, which close() forbids; then it meets the cleared VMA again (in the registers at the BUG
# it is both the current one and the one before), and BUG_ON(!vma_can_userfault()) does not expect that. The merge code
# is that of v6.12, and since v6.17 the check is a warning at most; releases in between were not tried. 6.18.44 takes no
# harm.
UNREGISTER_TWICE: Final = KernelBug(
    "UFFDIO_UNREGISTER meets a mapping of 9p or FUSE twice",
    (6, 12, 0),
    (),
    (6, 17, 0),
    "unregistering a mapping of such a file beside another one kills the caller, and locks the process's memory map",
)


def parse_release(release: str, version: str = "", signature: str = "") -> Release:
    """The upstream release behind what a distribution calls its kernel.

    Args:
        release: ``uname -r``, such as ``6.12.117+deb12-amd64``.
        version: ``uname -v``. Debian names the upstream release here: ``… Debian 6.1.192-1 (2026-…)``.
        signature: ``/proc/version_signature`` of Ubuntu: ``Ubuntu 6.8.0-45.45-generic 6.8.12``.

    Returns:
        Three numbers; (0, 0, 0) when there are none.
    """
    debian = re.search(r"Debian (\d+\.\d+\.\d+)", version)
    ubuntu = re.search(r"(\d+\.\d+\.\d+)$", signature.strip())
    named = debian or ubuntu
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", named[1] if named else release)
    if match is None:
        return 0, 0, 0
    major, minor, patch = match.groups(default="0")
    return int(major), int(minor), int(patch)


def running_release() -> Release:
    """The upstream release of the running kernel, as far as the distribution tells."""
    uname = os.uname()
    try:
        with open("/proc/version_signature", encoding="utf-8") as file:
            signature = file.read()
    except OSError:
        signature = ""
    return parse_release(uname.release, uname.version, signature)

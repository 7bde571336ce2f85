"""The guest's first files: a cpio archive in the format that the kernel unpacks (``newc``).

Layout of one entry: ``070701``, thirteen fields of eight hexadecimal digits, the name with its NUL, the
content; name and content each padded to four bytes. The archive ends with ``TRAILER!!!``.
Truth: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

from scripts.kernels.debian import Kernel

DIRECTORIES = ("bin", "dev", "proc", "sys", "modules", "host", "writes", "root")
APPLETS = ("sh", "mount", "mkdir", "insmod", "switch_root")


def build(kernel: Kernel, init: Path) -> bytes:
    """Return an initramfs with busybox, the kernel's modules and ``init``."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "need_tools() comes first"
    entries = [_entry(name, stat.S_IFDIR | 0o755) for name in DIRECTORIES]
    entries.append(_entry("bin/busybox", stat.S_IFREG | 0o755, Path(busybox).read_bytes()))
    entries += [_entry(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox") for name in APPLETS]
    entries += [
        _entry(f"modules/{path.name}", stat.S_IFREG | 0o644, path.read_bytes()) for path in kernel.modules
    ]
    entries.append(_entry("init", stat.S_IFREG | 0o755, init.read_bytes()))
    entries.append(_entry("TRAILER!!!", 0))
    return b"".join(entries)


def _entry(name: str, mode: int, content: bytes = b"") -> bytes:
    encoded = name.encode() + b"\0"
    n_links = 1
    # inode, mode, uid, gid, links, mtime, size, device (4 fields), size of the name, checksum (unused)
    fields = (0, mode, 0, 0, n_links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)

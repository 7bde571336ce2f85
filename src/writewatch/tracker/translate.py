"""From errno to exception: the one place where the tracker turns ``OSError`` into what its callers handle."""

from __future__ import annotations

import errno
from typing import Final

from writewatch.errors import KernelUnsupportedError, TrackingLostError

#: errno -> exception and what it means here; anything else goes through as it is.
TRANSLATIONS: Final[dict[int, tuple[type[Exception], str]]] = {
    errno.ESRCH: (TrackingLostError, "the address space that was tracked has ended (exit or exec)"),
    errno.EBADF: (TrackingLostError, "close this tracker and make a new one"),
    errno.ENOSYS: (KernelUnsupportedError, "the kernel has no such call, or a seccomp filter hides it"),
    errno.ENOTTY: (KernelUnsupportedError, "the kernel has no such ioctl; PAGEMAP_SCAN needs Linux 6.7"),
    errno.EPERM: (KernelUnsupportedError, "not permitted; `writewatch doctor` names what is missing"),
    errno.EACCES: (
        KernelUnsupportedError,
        "/proc/self/pagemap may not be opened; see PR_SET_DUMPABLE in prctl(2)",
    ),
    errno.EMFILE: (KernelUnsupportedError, "no descriptor is free; raise RLIMIT_NOFILE (ulimit -n)"),
    errno.ENFILE: (KernelUnsupportedError, "the system has no descriptor free; raise fs.file-max"),
    errno.ENOMEM: (
        KernelUnsupportedError,
        "no memory, or too many mappings; see vm.max_map_count and ulimit -v",
    ),
}


def translate(error: OSError, backend: str) -> Exception:
    """The library's exception for an ``OSError`` of a backend; the error itself where it has no better name."""
    if error.errno not in TRANSLATIONS:
        return error
    kind, meaning = TRANSLATIONS[error.errno]
    message = f"{backend}: {error.strerror or error}: {meaning}"
    if kind is KernelUnsupportedError:
        return KernelUnsupportedError(message, (backend,))
    return TrackingLostError(message)

"""Which mappings a kernel can unregister one by one.

Since v6.12 and before v6.17 a mapping of a file may be one at which UFFDIO_UNREGISTER ends in a kernel BUG
(``kernel/bugs.py``, ``UNREGISTER_TWICE``); whether it is cannot be told from outside. There it stays registered until
the userfaultfd is closed, which goes another way through the kernel and does no harm. Until then nobody else can
register it, and a first store to each of its pages costs a fault.
"""

from __future__ import annotations

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.kernel.bugs import UNREGISTER_TWICE, running_release
from writewatch.kernel.trials import is_real
from writewatch.tracker.witness import is_shmem


class Unregistering:
    """What one kernel can unregister.

    Args:
        calls: What is asked; the model has none of this.
    """

    def __init__(self, calls: KernelCalls) -> None:
        self.is_limited = is_real(calls) and UNREGISTER_TWICE.affects(running_release())

    def is_safe(self, vma: Vma) -> bool:
        """Whether a mapping can be unregistered while the userfaultfd stays open."""
        if not self.is_limited or not vma.is_file:
            return True
        if not is_shmem(vma) or vma.name.startswith("/SYSV"):  # shm_vm_ops have a close()
            return False
        # Where nothing is mounted there, it is part of a root that may well be 9p.
        return not vma.name.startswith("/dev/shm/") or vma.device in tmpfs_devices()  # noqa: S108


def tmpfs_devices() -> set[str]:
    """Devices of mounted tmpfs, as ``/proc/PID/maps`` writes them; none where mountinfo cannot be read."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return set()
    # The type comes after a dash, before which stands any number of fields. See proc_pid_mountinfo(5).
    numbers = (mount[2].split(b":") for mount in mounts if mount[mount.index(b"-", 6) + 1] == b"tmpfs")
    return {f"{int(major):02x}:{int(minor):02x}" for major, minor in numbers}

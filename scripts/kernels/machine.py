"""One command on one kernel in QEMU, with the files of this machine around it.

Software emulation (TCG), always: it works without ``/dev/kvm`` and inside virtual machines, and it is 20 to
30 times slower than the host, so that nothing timed in a guest means anything. One virtual CPU by
default; threads still pre-empt each other there.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.kernels import initramfs
from scripts.kernels.debian import Kernel

GUEST = Path(__file__).parent / "guest"
FOLLOW_SECONDS = 0.2
DISK_BYTES = 2 << 30  # for temporary files; sparse


@dataclass(frozen=True, slots=True)
class Size:
    """What a guest is given."""

    cpus: int = 1
    memory_mib: int = 3072
    limit_seconds: int = 3600
    append: str = ""


# Set when the program is to end: every guest ends with it.
stopping = threading.Event()


class BootError(Exception):
    """The guest ended without a verdict on the command; the end of its kernel log is in the message."""


def run(
    kernel: Kernel,
    command: Sequence[str],
    directory: Path,
    share: Path,
    size: Size,
    follow: Callable[[str], None],
) -> int:
    """Boot, run a command as root in ``directory``, switch off; return the command's exit status.

    Args:
        kernel: Which one.
        command: Absolute path of a program of this machine, and its arguments.
        directory: Working directory; read-only in effect, since writes stay in the guest's memory.
        share: An empty directory, ``/run/share`` in the guest: the one place where writes come back.
        size: Processors, memory, time limit, kernel command line.
        follow: Is given each piece of the command's output as it comes.

    Raises:
        BootError: No exit status came back: the kernel died, or the limit ran out.
    """
    (share / "initramfs").write_bytes(initramfs.build(kernel, GUEST / "init"))
    shutil.copy(GUEST / "stage2", share / "stage2")
    (share / "command").write_text(f"cd {shlex.quote(str(directory))} && exec {shlex.join(command)}\n")
    (share / "output").touch()
    with (share / "disk").open("wb") as disk:
        disk.truncate(DISK_BYTES)
    with (share / "qemu").open("wb") as log:
        guest = subprocess.Popen(_qemu(kernel, share, size), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _follow(guest, share / "output", size.limit_seconds, follow)
        finally:
            guest.kill()
            guest.wait()
    status = share / "status"
    if not status.exists():
        raise BootError(_last_words(kernel, share))
    return int(status.read_text())


def _qemu(kernel: Kernel, share: Path, size: Size) -> list[str]:
    # 5-level page tables are off: they slow every emulated page walk, and few machines have them.
    # -no-reboot and panic=-1 together make a panic the end of QEMU.
    # A kernel that stumbles ends the guest, with its last words on the console: the command would wait for ever.
    command_line = f"console=ttyS0 loglevel=5 oops=panic panic=-1 mitigations=off {size.append}"
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off"),
        *("-smp", str(size.cpus), "-m", str(size.memory_mib)),
        *("-kernel", str(kernel.image), "-initrd", str(share / "initramfs"), "-append", command_line),
        *("-chardev", f"file,id=console,path={_escaped(share / 'console')}", "-serial", "chardev:console"),
        *("-drive", f"file={_escaped(share / 'disk')},format=raw,if=virtio,cache=unsafe"),
        *("-virtfs", f"{_exported(Path('/'), 'host')},readonly=on"),
        *("-virtfs", _exported(share, "share")),
    ]


def _exported(path: Path, tag: str) -> str:
    # multidevs=remap: file systems below the exported one keep distinct inode numbers.
    return f"local,path={_escaped(path)},mount_tag={tag},security_model=none,multidevs=remap"


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")


def _follow(
    guest: subprocess.Popen[bytes], output: Path, limit_seconds: int, follow: Callable[[str], None]
) -> None:
    deadline = time.monotonic() + limit_seconds
    with output.open(errors="replace") as text:
        while guest.poll() is None and time.monotonic() < deadline and not stopping.wait(FOLLOW_SECONDS):
            follow(text.read())
        follow(text.read())


def _last_words(kernel: Kernel, share: Path) -> str:
    lines = []
    for name in ("qemu", "console"):
        if (share / name).exists():
            lines += (share / name).read_text(errors="replace").splitlines()[-60:]
    return f"Linux {kernel.series} ended before the command did, or the time limit ran out:\n" + "\n".join(
        lines
    )

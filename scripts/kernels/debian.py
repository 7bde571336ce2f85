"""Debian kernels as plain files: the newest build of a series, unpacked and never installed.

The general kernel is taken, not the ``cloud`` one, which is built without the 9p file system that a guest
needs to see this machine's files. What is kept of a package is ``vmlinuz`` and five to ten modules.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

TOOLS = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static"}

# What the guest needs before it can see a file: the bus, the transport, the file system, the layer above it; and a
# disk of its own with a real file system, since a tmpfs neither takes a swap file nor has regular files.
WANTED_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_blk", "crc32c_generic", "ext4")


class MissingError(Exception):
    """Something this machine lacks; the message is one sentence that names the mend."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel.

    Attributes:
        series: As asked for, such as ``6.1``.
        package: Name of the Debian package.
        image: ``vmlinuz``.
        modules: Uncompressed, in loading order.
    """

    series: str
    package: str
    image: Path
    modules: tuple[Path, ...]


def need_tools() -> None:
    """Install QEMU and busybox where they are missing; as root, by apt.

    Raises:
        MissingError: They are missing and this is not root, there is no apt, or it failed.
    """
    packages = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if not packages:
        return
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise MissingError(f"other kernels need {names}, and this machine has no apt to install them with")
    if os.geteuid() != 0:
        raise MissingError(f"other kernels need {names}: run `apt install {names}` as root first")
    _apt("update", check=False)
    _apt("-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "install", *packages)


def fetch(series: str, cache: Path) -> Kernel:
    """Return the kernel of a series, fetched by apt on first use and kept in ``cache/SERIES``.

    The directory appears whole or not at all: it is prepared beside its place and renamed.

    Raises:
        MissingError: apt does not know the series, or could not fetch it.
    """
    place = cache / series
    if not place.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            _unpack(series, Path(work))
            (Path(work) / "kernel").rename(place)
    return Kernel(
        series,
        (place / "package").read_text().strip(),
        place / "vmlinuz",
        tuple(sorted((place / "modules").iterdir())),
    )


def _unpack(series: str, work: Path) -> None:
    """Leave ``work/kernel/{package,vmlinuz,modules/}``."""
    if shutil.which("apt-get") is None:
        raise MissingError(f"Linux {series} is fetched by apt, and this machine has none")
    if os.geteuid() == 0:
        _apt("update", check=False)
    package = _newest_package(series)
    # The sandbox user may not write here; root downloads as root.
    _apt("-o", "APT::Sandbox::User=root", "download", package, directory=work)
    deb = next(work.glob("*.deb"))
    subprocess.run(["dpkg-deb", "--extract", deb, work / "tree"], check=True)
    kernel = work / "kernel"
    (kernel / "modules").mkdir(parents=True)
    (kernel / "package").write_text(package + "\n")
    shutil.copy(next((work / "tree/boot").glob("vmlinuz-*")), kernel / "vmlinuz")
    for number, path in enumerate(_loading_order(work / "tree/lib/modules")):
        plain = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        (kernel / "modules" / f"{number:02}-{path.name.removesuffix('.xz')}").write_bytes(plain)


def _newest_package(series: str) -> str:
    """``6.1`` gives ``linux-image-6.1.0-56-amd64``."""
    pattern = rf"^linux-image-{re.escape(series)}\.[0-9]+([+-][0-9a-z.]+)?-amd64$"
    found = subprocess.run(
        ["apt-cache", "search", "--names-only", pattern], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    names = [line.split(" ")[0] for line in found if line]
    if not names:
        raise MissingError(f"apt has no kernel of series {series}: look with `apt-cache search linux-image`")
    return max(names, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])


def _loading_order(tree: Path) -> list[Path]:
    """The wanted modules, each after those it depends on. One that is built in has no file and is left out.

    A package carries no ``modules.dep``: each module names what it needs in its ``.modinfo`` section.
    """
    files = {_module_name(path): path for path in tree.rglob("*.ko*")}
    order: list[Path] = []

    def visit(name: str) -> None:
        path = files.get(name)
        if path is None or path in order:
            return
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        depends = re.search(rb"\0depends=([^\0]+)\0", content)
        for needed in depends[1].decode().split(",") if depends else ():
            visit(needed.replace("-", "_"))
        order.append(path)

    for wanted in WANTED_MODULES:
        visit(wanted)
    return order


def _module_name(path: Path) -> str:
    return path.name.split(".")[0].replace("-", "_")


def _apt(*arguments: str, directory: Path | None = None, check: bool = True) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        ["apt-get", "-qq", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        reason = done.stderr.strip().split("\n")[-1]
        raise MissingError(f"`apt-get {' '.join(arguments)}` failed: {reason}")

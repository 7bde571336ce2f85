"""What this machine offers the cases: set up on first need, put back at the end of the session."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator

from tests.conformance.borrowed import Borrowed
from tests.conformance.world import Need
from writewatch.abi.userfaultfd import (
    UFFD_API,
    UFFD_FEATURE_WP_ASYNC,
    UFFD_USER_MODE_ONLY,
    UFFDIO_API,
    UffdioApi,
)
from writewatch.kernel import libc

_THP = pathlib.Path("/sys/kernel/mm/transparent_hugepage")
_HUGEPAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")
KHUGEPAGED = _THP / "khugepaged/scan_sleep_millisecs"
_FOR_EVER = "4294967295"
_POOL = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
_N_HUGEPAGES = 192
_ENOUGH = 128  # others may hold some
MODEL_VERSION = (6, 18)
_SWAP_MIB = 64

_answers: dict[Need, str] = {}
_undo = contextlib.ExitStack()


def lacks(need: Need) -> str:
    """Why the machine cannot serve a need, empty when it can; found out once."""
    if need not in _answers:
        _answers[need] = _PROBES[need]()
    return _answers[need]


def restore() -> None:
    """Put back everything that was set up."""
    _undo.close()
    _answers.clear()


def _borrow_file(path: pathlib.Path, value: str) -> None:
    """Write a setting now, and its value of before at the end."""
    borrowed = Borrowed(path.name)
    borrowed.take(lambda: path.read_text(encoding="ascii").strip(), lambda: _write(path, value))
    _undo.callback(borrowed.give_back, lambda before: _write(path, before))


def _write(path: pathlib.Path, value: str) -> None:
    path.write_text(value + "\n", encoding="ascii")


@contextlib.contextmanager
def huge_pages() -> Iterator[str]:
    """Huge pages of hugetlbfs for as long as the block runs; yields why there are none, or nothing."""
    if reason := _as_root(_HUGEPAGES) or ("" if _POOL.exists() else f"{_POOL} is missing"):
        yield reason
        return
    borrowed = Borrowed(_HUGEPAGES.name)
    borrowed.take(lambda: _HUGEPAGES.read_text(encoding="ascii").strip(), _fill_pool)
    try:
        yield "" if _available() else "the kernel gave no huge page"
    finally:
        borrowed.give_back(lambda before: _write(_HUGEPAGES, before))


def _available() -> int:
    """Huge pages that are free and promised to nobody."""
    free, promised = (
        int((_POOL / f"{name}_hugepages").read_text(encoding="ascii")) for name in ("free", "resv")
    )
    return free - promised


def _fill_pool() -> None:
    # 6.18.44 loses track of some reservations for good, after hundreds of thousands of random operations: what
    # nobody can use any more has to be there in addition. Somebody else's reservations cost memory for a while.
    promised = int((_POOL / "resv_hugepages").read_text(encoding="ascii"))
    _write(_HUGEPAGES, str(_N_HUGEPAGES + promised))


def refill_pool() -> None:
    """Between two scripts of a long run: huge pages instead of those whose reservation was lost."""
    if Need.HUGETLB in _answers and not _answers[Need.HUGETLB] and _available() < _N_HUGEPAGES // 2:
        _fill_pool()


def hold_still() -> str:
    """Keep khugepaged asleep, which joins small pages behind everybody's back; why it stays awake, or empty."""
    if not KHUGEPAGED.exists():
        return ""
    if reason := _as_root(KHUGEPAGED):
        return reason
    _borrow_file(KHUGEPAGED, _FOR_EVER)
    return ""


# ---- probes --------------------------------------------------------------------------------------


def _as_root(path: pathlib.Path) -> str:
    return "" if os.access(path, os.W_OK) else f"{path} is not writable for uid {os.geteuid()}"


def _hugetlb() -> str:
    if reason := _as_root(_HUGEPAGES):
        return reason  # pages that happen to be there may be another session's, and go with it
    try:
        borrowed = Borrowed(_HUGEPAGES.name)
        borrowed.take(lambda: _HUGEPAGES.read_text(encoding="ascii").strip(), _fill_pool)
        _undo.callback(borrowed.give_back, lambda before: _write(_HUGEPAGES, before))
    except OSError as failure:
        return f"{_HUGEPAGES} refuses: {failure.strerror}"
    given = _available()
    return "" if given >= _ENOUGH else f"the kernel gave {given} huge pages of {_N_HUGEPAGES}"


def _thp() -> str:
    return _selected(_THP / "enabled", ("madvise", "always"))


def _shmem_thp() -> str:
    path = _THP / "shmem_enabled"
    if not path.exists():
        return f"{path} is missing"
    if reason := _as_root(path):
        return reason
    before = _chosen(path)
    borrowed = Borrowed("shmem_enabled")
    borrowed.take(lambda: before, lambda: _write(path, "advise"))
    _undo.callback(borrowed.give_back, lambda value: _write(path, value))
    return ""


def _chosen(path: pathlib.Path) -> str:
    text = path.read_text(encoding="ascii")
    return text[text.index("[") + 1 : text.index("]")]


def _selected(path: pathlib.Path, wanted: tuple[str, ...]) -> str:
    try:
        chosen = _chosen(path)
    except (OSError, ValueError):
        return f"{path} is missing"
    return "" if chosen in wanted else f"{path} says {chosen}"


def _swap() -> str:
    if os.geteuid() != 0:
        return "only root can add a swap area"
    path = pathlib.Path(tempfile.gettempdir()) / "writewatch-conformance-swapfile"
    borrowed = Borrowed("swap")
    try:
        borrowed.take(lambda: str(path), lambda: _add_swap(path))
    except (OSError, subprocess.CalledProcessError) as failure:
        path.unlink(missing_ok=True)
        borrowed.give_back(lambda _: None)
        return f"swapon refuses: {failure}"
    _undo.callback(borrowed.give_back, _remove_swap)
    return ""


def _add_swap(path: pathlib.Path) -> None:
    if len(pathlib.Path("/proc/swaps").read_text(encoding="ascii").splitlines()) > 1:
        return
    with open(path, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        os.posix_fallocate(file.fileno(), 0, _SWAP_MIB << 20)
    subprocess.run(["mkswap", str(path)], check=True, capture_output=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.swapon(str(path).encode(), 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _remove_swap(path: str) -> None:
    ctypes.CDLL(None).swapoff(path.encode())
    pathlib.Path(path).unlink(missing_ok=True)


def compact_memory() -> None:
    """Compact every zone, and return when it is done."""
    _write(pathlib.Path("/proc/sys/vm/compact_memory"), "1")


def _compaction() -> str:
    return _as_root(pathlib.Path("/proc/sys/vm/compact_memory"))


def _privilege() -> str:
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    return "" if effective >> 19 & 1 else "the test run lacks it"


def _smaps() -> str:
    text = pathlib.Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace")
    return "" if "VmFlags:" in text else "this kernel does not print them"


def _device() -> str:
    path = pathlib.Path("/dev/userfaultfd")
    if not path.exists():
        return "it does not exist"
    return "" if os.access(path, os.R_OK | os.W_OK) else "it may not be opened"


def _secretmem() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(ctypes.c_long(447), ctypes.c_uint(0))
    if fd < 0:
        return os.strerror(ctypes.get_errno())
    os.close(fd)
    return ""


def _always() -> str:
    return ""


_PROBES: dict[Need, Callable[[], str]] = {
    Need.HUGETLB: _hugetlb,
    Need.THP: _thp,
    Need.SHMEM_THP: _shmem_thp,
    Need.SWAP: _swap,
    Need.REGULAR_FILE: _always,
    Need.COMPACTION: _compaction,
    Need.PRIVILEGE: _privilege,
    Need.EXEC: _always,
    Need.MLOCK: _always,
    Need.SMAPS: _smaps,
    Need.FAULT_COUNT: _always,
    Need.DEVICE: _device,
    Need.SECRETMEM: _secretmem,
}


def lacks_userfaultfd() -> str:
    """Why the running kernel gives no userfaultfd with WP_ASYNC, empty when it does."""
    try:
        fd = libc.syscall("userfaultfd", os.O_CLOEXEC | UFFD_USER_MODE_ONLY)
    except OSError as failure:
        return f"needs userfaultfd, which this kernel or container refuses: {failure.strerror}"
    handshake = UffdioApi(UFFD_API, UFFD_FEATURE_WP_ASYNC, 0)
    refused = libc.ioctl(fd, UFFDIO_API, ctypes.addressof(handshake)) == -1
    os.close(fd)
    return "needs UFFD_FEATURE_WP_ASYNC, which Linux has since v6.7" if refused else ""


def is_not_the_models_kernel() -> str:
    """Why a comparison with the model would show the versions' differences; empty when it would not."""
    numbers = os.uname().release.split("-")[0].split(".")
    version = int(numbers[0]), int(numbers[1])
    return (
        ""
        if version == MODEL_VERSION
        else f"needs Linux 6.18, which the model is; this is {os.uname().release}"
    )

"""``peers.c``, compiled on the spot: what the same work costs from C, and other ways to notice a write."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.pagemap import PAGE_REGION
from writewatch.observe.benchmark.memory import PAGE, Memory

_SOURCE: Final = Path(__file__).with_name("peers.c")
_COMPILERS: Final = ("cc", "gcc", "clang")

#: Ways to notice the first write to a page, in the order of ``enum mechanism``.
MECHANISMS: Final = ("mprotect + SIGSEGV", "uffd-wp sync", "uffd-wp async", "fork copy-on-write")


class PeersUnavailable(Exception):
    """There is no C to compare with; the message is one sentence that says why."""


class Peers:
    """The compiled functions. Times are nanoseconds, measured inside C, without the call itself."""

    def __init__(self, library: ctypes.CDLL) -> None:
        i64, u64, pointer = ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p
        self._touch = _declare(library.touch, i64, pointer, pointer, i64, i64)
        self._collect = _declare(library.scan_and_protect, i64, ctypes.c_int, u64, u64, pointer, u64, pointer)
        self._is_clean = _declare(library.scan_is_clean, i64, ctypes.c_int, u64, u64, pointer)
        self._compare = _declare(library.compare_pages, i64, pointer, pointer, i64, i64, pointer)
        self._copy = _declare(library.copy_all, i64, pointer, pointer, i64)
        self._begin = _declare(library.watch_begin, i64, ctypes.c_int, pointer, i64, i64)
        self._end = _declare(library.watch_end, None, ctypes.c_int)
        self._regions: NDArray[np.void] = np.zeros(0, PAGE_REGION)
        self._found = ctypes.c_uint64()

    @property
    def found(self) -> int:
        """What the last call counted: regions of a scan, pages of a comparison."""
        return self._found.value

    @property
    def regions(self) -> NDArray[np.void]:
        """(found,) regions of the last ``collect``; a view that the next one overwrites."""
        return self._regions[: self.found]

    def touch(self, memory: Memory, pages: NDArray[np.int64]) -> int:
        """Change one byte of each page, in order."""
        return check(self._touch(memory.start, pages.ctypes.data, len(pages), PAGE), "touch")

    def collect(self, pagemap: int, memory: Memory) -> int:
        """Report the written pages and protect them again; the memory is registered by somebody."""
        if len(self._regions) < memory.n_pages:
            self._regions = np.ones(memory.n_pages, PAGE_REGION)  # ones: populated before the clock runs
        return check(
            self._collect(
                pagemap,
                memory.start,
                memory.start + len(memory.buffer),
                self._regions.ctypes.data,
                len(self._regions),
                ctypes.addressof(self._found),
            ),
            "PAGEMAP_SCAN",
        )

    def is_clean(self, pagemap: int, memory: Memory) -> int:
        """Look for a first written page."""
        end = memory.start + len(memory.buffer)
        took = self._is_clean(pagemap, memory.start, end, ctypes.addressof(self._found))
        return check(took, "PAGEMAP_SCAN")

    def compare(self, memory: Memory, copy: NDArray[np.uint8]) -> int:
        """Compare every page with its copy."""
        found = ctypes.addressof(self._found)
        return check(
            self._compare(memory.start, copy.ctypes.data, len(memory.buffer), PAGE, found), "compare"
        )

    def copy(self, memory: Memory, copy: NDArray[np.uint8]) -> int:
        """Copy everything."""
        return check(self._copy(copy.ctypes.data, memory.start, len(memory.buffer)), "memcpy")

    @contextmanager
    def watching(self, mechanism: str, memory: Memory) -> Iterator[int]:
        """Notice first writes to the memory by one of ``MECHANISMS``; gives what arming took.

        Raises:
            OSError: The kernel refused; nothing is left armed.
        """
        how = MECHANISMS.index(mechanism)
        took = check(self._begin(how, memory.start, len(memory.buffer), PAGE), mechanism)
        try:
            yield took
        finally:
            self._end(how)


def build() -> Peers:
    """Compile ``peers.c`` with ``$CC``, cc, gcc or clang, and load it. The file is gone afterwards.

    Raises:
        PeersUnavailable: No compiler, or it failed.
    """
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(prefix="writewatch-bench-") as directory:
        library = Path(directory, "peers.so")
        command = [*compiler, "-O2", "-shared", "-fPIC", "-pthread", "-o", str(library), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
            raise PeersUnavailable(f"The C peers are skipped: {compiler[0]} cannot compile them ({reason}).")
        return Peers(ctypes.CDLL(str(library), use_errno=True))


def find_compiler() -> list[str]:
    """The command of a C compiler.

    Raises:
        PeersUnavailable: There is none.
    """
    named = os.environ.get("CC", "").split()
    for words in (named, *([name] for name in _COMPILERS)):
        if words and shutil.which(words[0]):
            return list(words)
    raise PeersUnavailable("The C peers are skipped: there is no C compiler; install gcc or set CC.")


def _declare(function: Any, restype: Any, *argtypes: Any) -> Any:
    function.restype = restype
    function.argtypes = argtypes
    return function


def check(result: int, call: str) -> int:
    """Nanoseconds; a negative errno raises."""
    if result < 0:
        raise OSError(-result, f"{call}: {os.strerror(-result)}")
    return result

"""Guarded loads and stores of this process: access.c, built once into a private directory."""

from __future__ import annotations

import array
import ctypes
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

from tests.conformance.world import MemorySignal, Unavailable

_SOURCE = pathlib.Path(__file__).with_name("access.c")


def build(directory: pathlib.Path) -> pathlib.Path:
    """Compile access.c; raises ``Unavailable`` where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Unavailable("needs a C compiler (cc or gcc) to catch the signals of user-mode stores")
    library = directory / "access.so"
    command = [compiler, "-std=gnu11", "-O1", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"needs a C compiler that builds access.c: {done.stderr.strip()[-200:]}")
    return library


class _Outcome(ctypes.Structure):
    _fields_ = (
        ("signal", ctypes.c_int32),
        ("code", ctypes.c_int32),
        ("address", ctypes.c_uint64),
        ("minor_faults", ctypes.c_uint64),
    )

    def check(self) -> None:
        if self.signal:
            raise MemorySignal(self.signal, self.address, self.code)


class Access:
    """User-mode accesses of the calling thread. A signal is raised as ``MemorySignal``.

    The global interpreter lock is released meanwhile: a store that blocks in a fault blocks its thread only.
    """

    def __init__(self, library: str) -> None:
        functions = ctypes.CDLL(library)
        self._copy = functions.access_copy
        self._copy.restype = None
        self._copy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(_Outcome))
        self._scatter = functions.access_scatter
        self._scatter.restype = None
        self._scatter.argtypes = (
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_char,
            ctypes.POINTER(ctypes.c_size_t),
            ctypes.POINTER(_Outcome),
        )
        functions.access_install()

    def load(self, addr: int, length: int) -> bytes:
        buffer = ctypes.create_string_buffer(length)
        self._run(ctypes.addressof(buffer), addr, length)
        return buffer.raw

    def store(self, addr: int, data: bytes) -> int:
        """Store, and return the minor faults it took."""
        source = ctypes.create_string_buffer(data, len(data))
        return self._run(addr, ctypes.addressof(source), len(data))

    def _run(self, to: int, from_: int, length: int) -> int:
        outcome = _Outcome()
        self._copy(to, from_, length, ctypes.byref(outcome))
        outcome.check()
        return int(outcome.minor_faults)

    def touch(self, addresses: Sequence[int], value: int) -> None:
        """One byte into each address, in order."""
        where = array.array("Q", addresses)
        outcome, count = _Outcome(), ctypes.c_size_t()
        start, n = where.buffer_info()
        self._scatter(start, n, value, ctypes.byref(count), ctypes.byref(outcome))
        outcome.check()

"""Every constant, size and offset against the installed headers; what they are too old to know is skipped by name."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.abi.headers import Headers, evaluate, read
from writewatch.abi import mman, pagemap, perf, pidfd, ptrace, userfaultfd

HEADERS = {
    userfaultfd: ("linux/userfaultfd.h", "sys/ioctl.h"),
    pagemap: ("linux/fs.h", "sys/ioctl.h"),
    mman: ("linux/mman.h", "linux/memfd.h", "linux/falloc.h", "linux/prctl.h", "asm/unistd.h"),
    perf: ("linux/perf_event.h", "sys/ioctl.h"),
    pidfd: ("linux/pidfd.h", "linux/kcmp.h"),
    ptrace: ("asm/ptrace.h", "linux/ptrace.h", "sys/user.h", "linux/rseq.h", "linux/elf.h"),
}

# Ours, not the headers': layout of a file of /proc, and numbers that the kernel keeps to itself.
OWN = re.compile(
    r"PM_(?!SCAN_[WC])\w+|CLEAR_REFS_\w+|CATEGORIES|PAGE_REGION|FEATURES|SYSCALLS|UFFDIO_CALLS|UFFD_MSG"
    r"|PERF_ATTR_(?!SIZE)\w+"
)

# In C a member of an anonymous structure, with us of a named one; or a word that C reserves.
C_FIELDS = {"arg.pagefault.ptid": "arg.pagefault.feat.ptid", "arg.remap.from_": "arg.remap.from"}

# What C calls the structures that are not named like ours.
C_STRUCTS = {
    "UserRegs": "user_regs_struct",
    "PtraceSudConfig": "ptrace_sud_config",
}


def _constants(module: ModuleType) -> Iterator[str]:
    ints = (name for name, value in vars(module).items() if isinstance(value, int))
    constants = (name for name in ints if re.fullmatch(r"__NR_\w+|[A-Z][A-Z0-9_]+", name))
    return (name for name in constants if not OWN.fullmatch(name))


def _structs(module: ModuleType) -> Iterator[type[ctypes.Structure]]:
    classes = (value for value in vars(module).values() if isinstance(value, type))
    structs = (value for value in classes if issubclass(value, ctypes.Structure))
    return (one for one in structs if one.__module__ == module.__name__ and one.__name__[0] != "_")


def _c_name(struct: type[ctypes.Structure]) -> str:
    return C_STRUCTS.get(struct.__name__, re.sub(r"(?<!^)(?=[A-Z])", "_", struct.__name__).lower())


def _fields(struct: type[ctypes.Structure], prefix: str = "", at: int = 0) -> Iterator[tuple[str, int, int]]:
    """(path, offset, size) of every plain field, however deep."""
    for name, kind, *_ in struct._fields_:
        field = getattr(struct, name)
        if isinstance(kind, type) and issubclass(kind, (ctypes.Structure, ctypes.Union)):
            yield from _fields(kind, f"{prefix}{name}.", at + field.offset)  # type: ignore[arg-type]
        else:
            yield prefix + name, at + field.offset, field.size


CONSTANTS = [(module, name) for module in HEADERS for name in _constants(module)]
STRUCTS = [(module, struct) for module in HEADERS for struct in _structs(module)]


class Installed:
    """The headers of each module and the values of everything in them, compiled once."""

    def __init__(self, directory: pytest.TempPathFactory) -> None:
        self.headers: dict[ModuleType, Headers | None] = {}
        self.values: dict[tuple[ModuleType, str], int] = {}
        for module, names in HEADERS.items():
            headers = self.headers[module] = read(*names)
            if headers is not None:
                found = evaluate(
                    headers, list(self._expressions(module, headers)), directory.mktemp("headers")
                )
                self.values |= {(module, expression): value for expression, value in found.items()}

    @staticmethod
    def _expressions(module: ModuleType, headers: Headers) -> Iterator[str]:
        yield from (name for name in _constants(module) if headers.knows(name))
        for struct in _structs(module):
            c_name = _c_name(struct)
            if headers.knows(c_name):
                yield f"sizeof(struct {c_name})"
                for path, _, _ in _fields(struct):
                    c_path = C_FIELDS.get(path, path)
                    if headers.knows(c_path.split(".")[-1]):
                        yield f"offsetof(struct {c_name}, {c_path})"
                        yield f"sizeof(((struct {c_name} *)0)->{c_path})"

    def value(self, module: ModuleType, expression: str, name: str) -> int:
        if self.headers[module] is None:
            pytest.skip("no C compiler")
        if (module, expression) not in self.values:
            pytest.skip(f"the installed headers do not know {name}")
        return self.values[module, expression]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory)


@pytest.mark.parametrize(("module", "name"), CONSTANTS, ids=[name for _, name in CONSTANTS])
def test_constant_is_the_headers(installed: Installed, module: ModuleType, name: str) -> None:
    assert getattr(module, name) == installed.value(module, name, name)


@pytest.mark.parametrize(("module", "struct"), STRUCTS, ids=[_c_name(struct) for _, struct in STRUCTS])
def test_structure_is_the_headers(
    installed: Installed, module: ModuleType, struct: type[ctypes.Structure]
) -> None:
    c_name = _c_name(struct)
    size = installed.value(module, f"sizeof(struct {c_name})", f"struct {c_name}")
    # A structure may have grown since: struct perf_event_attr does, and says so by its size field.
    assert ctypes.sizeof(struct) <= size if struct is perf.PerfEventAttr else ctypes.sizeof(struct) == size
    for path, offset, n_bytes in _fields(struct):
        c_path = C_FIELDS.get(path, path)
        where = f"offsetof(struct {c_name}, {c_path})"
        if (module, where) in installed.values:
            assert (path, installed.values[module, where]) == (path, offset)
            assert (path, installed.values[module, f"sizeof(((struct {c_name} *)0)->{c_path})"]) == (
                path,
                n_bytes,
            )


def test_nothing_is_compared_by_accident_only() -> None:
    assert len(CONSTANTS) > 150
    assert {struct.__name__ for _, struct in STRUCTS} >= {"UffdMsg", "PmScanArg", "UffdioCopy", "PageRegion"}

"""Every kind of memory that can be handed in, and every kind that is refused."""

from __future__ import annotations

import array
import ctypes
import gc
import mmap
import pathlib
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest

import writewatch as ww
from writewatch.pages import AddrRange
from writewatch.tracker.buffers import TrackedBuffer, resolve


def address_of(exporter: Any) -> int:
    """Ground truth: where ctypes finds the first byte."""
    return ctypes.addressof((ctypes.c_char * memoryview(exporter).nbytes).from_buffer(exporter))


def first_byte(values: np.ndarray[Any, Any]) -> int:
    return int(values.ctypes.data)


class OnlyArrayInterface:
    """As a library would show an array of its own."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self._values = values
        self.__array_interface__ = values.__array_interface__


class OnlyDlpack:
    """Memory that is exchanged by DLPack alone."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self._values = values

    def __dlpack__(self, **options: Any) -> Any:
        return self._values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._values.__dlpack_device__()


class Device:
    def __init__(self, kind: str) -> None:
        self.type = kind

    def __str__(self) -> str:
        return f"{self.type}:0"


class Tensor:
    """The few methods by which a torch tensor tells its layout."""

    def __init__(self, values: np.ndarray[Any, Any], device: str = "cpu") -> None:
        self._values = values
        self.shape = values.shape
        self.device = Device(device)

    def data_ptr(self) -> int:
        return first_byte(self._values)

    def element_size(self) -> int:
        return self._values.itemsize

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self._values.itemsize for step in self._values.strides)


# ---- arrays --------------------------------------------------------------------------------------


def assert_span(buffer: TrackedBuffer, values: np.ndarray[Any, Any]) -> None:
    """The span goes from the lowest byte to past the highest, as NumPy counts them."""
    low, high = np.lib.array_utils.byte_bounds(values)
    assert buffer.span == AddrRange(low, high)
    assert buffer.address == first_byte(values)


BASE = np.zeros((40, 30), "f4")

VIEWS = {
    "C order": BASE,
    "Fortran order": np.asfortranarray(BASE),
    "transposed": BASE.T,
    "reversed": BASE[::-1],
    "reversed in both axes": BASE[::-1, ::-1],
    "every third column": BASE[:, ::3],
    "a block inside": BASE[5:9, 3:7],
    "no axes": np.zeros((), "i8"),
    "records": np.zeros(7, [("a", "u1"), ("b", "f8")]),
    "a field of records": np.zeros(7, [("a", "u1"), ("b", "f8")])["b"],
    "half precision": np.zeros(5, "f2"),
    "text": np.zeros(5, "U3"),
    "dates": np.zeros(5, "M8[s]"),
    "repeated rows": np.lib.stride_tricks.as_strided(BASE, (4, 30), (0, 4)),
}


@pytest.mark.parametrize("values", VIEWS.values(), ids=VIEWS.keys())
def test_an_array_is_tracked_over_its_whole_span(values: np.ndarray[Any, Any]) -> None:
    buffer = resolve(values)
    assert_span(buffer, values)
    assert (buffer.shape, buffer.strides, buffer.itemsize) == (values.shape, values.strides, values.itemsize)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0)])
def test_an_array_without_elements_has_no_memory(shape: tuple[int, ...]) -> None:
    buffer = resolve(np.zeros(shape))
    assert buffer.is_empty
    assert buffer.span.length == 0


def test_elements_of_no_bytes_have_no_memory() -> None:
    assert resolve(np.zeros(5, "V0")).is_empty


def test_subclasses_of_arrays_are_arrays() -> None:
    values = np.zeros((3, 3)).view(np.matrix)
    assert_span(resolve(values), values)
    assert resolve(np.ma.masked_array(np.zeros(3))).span.length == 24


# ---- exporters of the buffer protocol ------------------------------------------------------------


@pytest.fixture(params=["private", "shared", "file"])
def mapping(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[mmap.mmap]:
    """The three kinds of mmap."""
    length = 4 * mmap.PAGESIZE
    if request.param == "file":
        path = tmp_path / "memory"
        path.write_bytes(bytes(length))
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), length)
    else:
        flags = mmap.MAP_PRIVATE if request.param == "private" else mmap.MAP_SHARED
        memory = mmap.mmap(-1, length, flags=flags | mmap.MAP_ANONYMOUS)
    yield memory
    gc.collect()  # ctypes keeps its export of the ground truth in a cycle
    memory.close()


def test_a_mmap_is_tracked_where_it_lies(mapping: mmap.mmap) -> None:
    buffer = resolve(mapping)
    assert buffer.span.start % mmap.PAGESIZE == 0
    assert buffer.span == AddrRange(address_of(mapping), address_of(mapping) + len(mapping))
    buffer.release()


EXPORTERS: dict[str, Callable[[], Any]] = {
    "bytearray": lambda: bytearray(100),
    "array.array": lambda: array.array("d", range(10)),
    "ctypes array": lambda: (ctypes.c_int * 10)(),
    "ctypes array of arrays": lambda: ((ctypes.c_short * 3) * 4)(),
    "ctypes structure": lambda: type("S", (ctypes.Structure,), {"_fields_": [("a", ctypes.c_int)]})(),
    "ctypes pointers": lambda: (ctypes.c_void_p * 10)(),
    "ctypes functions": lambda: (ctypes.CFUNCTYPE(None) * 10)(),
    "memoryview": lambda: memoryview(bytearray(100)),
    "memoryview of two axes": lambda: memoryview(bytearray(96)).cast("B", (8, 12)),
    "memoryview of doubles": lambda: memoryview(bytearray(96)).cast("d"),
}


@pytest.mark.parametrize("make", EXPORTERS.values(), ids=EXPORTERS.keys())
def test_an_exporter_is_tracked_where_it_lies(make: Callable[[], Any]) -> None:
    exporter = make()
    buffer = resolve(exporter)
    start = address_of(exporter)
    assert buffer.span == AddrRange(start, start + memoryview(exporter).nbytes)
    assert buffer.address == start
    buffer.release()


def test_a_sliced_memoryview_is_tracked_over_its_span() -> None:
    memory = bytearray(100)
    start = address_of(memory)
    assert resolve(memoryview(memory)[10:20]).span == AddrRange(start + 10, start + 20)
    assert resolve(memoryview(memory)[10:20:3]).span == AddrRange(start + 10, start + 20)
    backwards = resolve(memoryview(memory)[20:10:-1])
    assert backwards.span == AddrRange(start + 11, start + 21)
    assert backwards.strides == (-1,)


@pytest.mark.parametrize("name", ["ctypes pointers", "ctypes functions", "ctypes structure"])
def test_a_stepped_view_of_any_element_type_has_an_address(name: str) -> None:
    exporter = EXPORTERS[name]()
    if name == "ctypes structure":
        exporter = (type(exporter) * 10)()
    view = memoryview(exporter)[1::2]
    buffer = resolve(view)
    start = address_of(exporter)
    assert buffer.address == start + view.itemsize
    assert buffer.span == AddrRange(start + view.itemsize, start + 10 * view.itemsize)


def test_a_fortran_ordered_memoryview_keeps_its_strides() -> None:
    values = np.zeros((4, 6), order="F")
    view: Any = values  # a buffer, which NumPy's annotations do not say before Python 3.12
    buffer = resolve(memoryview(view))
    assert_span(buffer, values)
    assert buffer.strides == values.strides


@pytest.mark.parametrize("make", [bytearray, lambda: memoryview(bytearray()), lambda: array.array("i")])
def test_an_exporter_without_bytes_has_no_memory(make: Callable[[], Any]) -> None:
    assert resolve(make()).is_empty


def test_shared_memory_and_its_buffer_are_the_same_memory() -> None:
    memory = SharedMemory(create=True, size=5000)
    try:
        assert memory.buf is not None
        whole, buf = resolve(memory), resolve(memory.buf)
        assert whole.span == buf.span
        assert whole.span.length == memory.size
        assert whole.span.start % mmap.PAGESIZE == 0
        whole.release()
        buf.release()
    finally:
        memory.close()
        memory.unlink()


def test_a_memmap_is_an_array(tmp_path: pathlib.Path) -> None:
    values = np.memmap(tmp_path / "numbers", "f4", "w+", shape=(100, 10))
    assert_span(resolve(values[3:]), values[3:])


# ---- arrays of other libraries -------------------------------------------------------------------


def test_an_array_interface_is_enough() -> None:
    values = np.zeros((5, 6))[:, ::2]
    assert_span(resolve(OnlyArrayInterface(values)), values)


def test_dlpack_is_enough() -> None:
    values = np.zeros((5, 6), "f4")
    assert_span(resolve(OnlyDlpack(values)), values)
    assert resolve(OnlyDlpack(values)).strides == values.strides


def test_a_tensor_tells_its_own_layout() -> None:
    values = np.zeros((5, 6), "f4").T
    buffer = resolve(Tensor(values))
    assert_span(buffer, values)
    assert buffer.strides == values.strides


# ---- refusals ------------------------------------------------------------------------------------


def read_only(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    values.flags.writeable = False
    return values


def released(view: memoryview) -> memoryview:
    view.release()
    return view


def closed(memory: Any) -> Any:
    memory.close()
    return memory


class Sparse(Tensor):
    def stride(self) -> tuple[int, ...]:
        raise RuntimeError("sparse tensors do not have strides")


REFUSED: dict[str, tuple[Any, str]] = {
    "read-only array": (read_only(np.zeros(3)), "ndarray of shape (3,), dtype float64 is read-only"),
    "bytes": (b"abc", "bytes of 3 bytes is read-only"),
    "read-only memoryview": (memoryview(bytearray(3)).toreadonly(), "memoryview of 3 bytes is read-only"),
    "array of objects": (np.array([{}]), "holds references"),
    "records with objects": (np.zeros(2, [("a", object)]), "holds references"),
    "read-only array interface": (OnlyArrayInterface(read_only(np.zeros(3))), "is read-only"),
    "list": ([1, 2], "list shows no memory"),
    "str": ("abc", "str shows no memory"),
    "None": (None, "NoneType shows no memory"),
    "number": (5, "int shows no memory"),
    "scalar": (np.float64(3), "float64 is a scalar, not memory; pass the array"),
    "record": (np.zeros(2, "u1,f8")[0], "void is a scalar, not memory; pass the array, or a slice"),
    "released memoryview": (released(memoryview(bytearray(3))), "pass one that is open"),
    "closed mmap": (closed(mmap.mmap(-1, 100)), "mmap shows no memory any more"),
    "sparse tensor": (Sparse(np.zeros(3)), "no plain memory: sparse tensors do not have strides"),
    "tensor of a device": (Tensor(np.zeros(3), "cuda"), "lives on cuda:0"),
}


@pytest.mark.parametrize(("thing", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_tracked_is_refused_in_a_sentence(thing: Any, words: str) -> None:
    with pytest.raises(ww.UsageError) as caught:
        ww.track(thing)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shared_memory_that_is_closed_is_refused() -> None:
    memory = SharedMemory(create=True, size=100)
    memory.close()
    memory.unlink()
    with pytest.raises(ww.UsageError, match=r"SharedMemory '\S+' is closed; open it again"):
        ww.track(memory)


def test_dlpack_of_a_device_is_refused_with_its_reason() -> None:
    class OnAnotherDevice(OnlyDlpack):
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("the memory is on a GPU")

    with pytest.raises(ww.UsageError, match="the memory is on a GPU"):
        ww.track(OnAnotherDevice(np.zeros(3)))


# ---- held while tracked --------------------------------------------------------------------------


RESIZABLE: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "bytearray": (lambda: bytearray(100), lambda memory: memory.append(0)),
    "array.array": (lambda: array.array("i", [1, 2]), lambda memory: memory.append(0)),
    "mmap": (lambda: mmap.mmap(-1, 4096), lambda memory: memory.close()),
    "memoryview": (lambda: memoryview(bytearray(9)), lambda memory: memory.obj.append(0)),
}


@pytest.mark.parametrize(("make", "move"), RESIZABLE.values(), ids=RESIZABLE.keys())
def test_memory_cannot_move_while_it_is_tracked(make: Callable[[], Any], move: Callable[[Any], None]) -> None:
    exporter = make()
    with ww.track(exporter, backend="every-page"), pytest.raises(BufferError):
        move(exporter)


@pytest.mark.parametrize("name", ["bytearray", "array.array", "mmap"])
def test_memory_may_move_once_it_is_not_tracked(name: str) -> None:
    make, move = RESIZABLE[name]
    exporter = make()
    ww.track(exporter, backend="every-page").close()
    move(exporter)


def test_the_memory_of_a_view_may_move_once_it_is_not_tracked() -> None:
    memory = bytearray(100)
    with memoryview(memory) as view:
        ww.track(view, backend="every-page").close()
    memory.append(0)


def test_memory_may_move_after_tracking_was_refused() -> None:
    memory = bytearray(100)
    with pytest.raises(ww.UsageError):
        ww.track(memory, b"read-only")
    memory.append(0)


def test_memory_may_move_after_pinning_was_refused() -> None:
    memory, pinned = bytearray(100), bytearray(100_000)
    with pytest.raises(ww.UsageError, match="pinned: bytearray of 100000 bytes is not part"):
        ww.track(memory, backend="every-page", pinned=[pinned])
    memory.append(0)
    pinned.append(0)


def test_a_buffer_lives_as_long_as_it_is_tracked() -> None:
    with ww.track(np.zeros(1000), backend="every-page") as tracker:
        gc.collect()
        assert tracker.collect().n_pages >= 2


# ---- tracked, written, reported ------------------------------------------------------------------

SIZE = 50_000
AT = 33_333

TRACKED: dict[str, Callable[[], Any]] = {
    "bytearray": lambda: bytearray(SIZE),
    "array.array": lambda: array.array("B", bytes(SIZE)),
    "private mmap": lambda: mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE),
    "shared mmap": lambda: mmap.mmap(-1, SIZE),
    "memoryview": lambda: memoryview(bytearray(SIZE)),
    "ctypes": lambda: (ctypes.c_ubyte * SIZE)(),
}


def assert_reported(tracker: ww.Tracker, memory: Any) -> None:
    """The page of byte AT, and of the pages that the buffer has to itself no other."""
    dirty = tracker.collect()
    start = resolve(memory).span.start
    page = (start + AT) // tracker.page_size - start // tracker.page_size
    pages = dirty.pages(memory).tolist()
    assert page in pages
    assert any(first <= AT < last for first, last in dirty.rows(memory).tolist())
    if dirty.exact:
        # What shares the first and the last page with a buffer on the heap is written by whoever owns it.
        assert [n for n in pages if 0 < n < len(dirty.mask(memory)) - 1] == [page]


@pytest.mark.parametrize("make", TRACKED.values(), ids=TRACKED.keys())
def test_a_write_to_any_kind_of_buffer_is_reported(backend: str, make: Callable[[], Any]) -> None:
    memory = make()
    with ww.track(memory, backend=backend) as tracker:
        memory[AT] = 7
        assert_reported(tracker, memory)


def test_a_write_to_a_file_mapping_is_reported(backend: str, tmp_path: pathlib.Path) -> None:
    if backend == "uffd-wp-sync":
        pytest.skip("uffd-wp-sync: Linux takes no regular file in synchronous mode")
    values = np.memmap(tmp_path / "numbers", "u1", "w+", shape=(SIZE,))
    with pytest.warns(ww.UnseenWritesWarning, match="numbers: only stores of this process"):
        tracker = ww.track(values, backend=backend)
    with tracker:
        values[AT] = 7
        assert_reported(tracker, values)


def test_a_write_to_shared_memory_is_reported(backend: str) -> None:
    memory = SharedMemory(create=True, size=SIZE)
    try:
        assert memory.buf is not None
        with pytest.warns(ww.UnseenWritesWarning, match="only stores of this process"):
            tracker = ww.track(memory, backend=backend)
        with tracker:
            memory.buf[AT] = 7
            assert_reported(tracker, memory.buf)
    finally:
        memory.close()
        memory.unlink()

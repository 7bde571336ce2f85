"""What can be tracked: anything that shows writable memory, reduced to an address and a layout.

A buffer is looked at once, when it is handed in. The tracker then keeps the object alive and, where it is
an exporter of the buffer protocol, exported: a ``bytearray`` or ``mmap`` refuses to be resized or
closed as long as it is tracked, so its memory cannot move away unnoticed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from writewatch.errors import UsageError
from writewatch.pages import AddrRange


@dataclass(frozen=True)
class TrackedBuffer:
    """Where the elements of a buffer lie.

    Attributes:
        address: Of the element with all indices 0, in bytes.
        shape: Elements along each axis; ``()`` is one element.
        strides: Bytes between neighbours along each axis; any sign.
        itemsize: Bytes of an element.
        label: How to call it in a sentence.
        owner: Keeps the memory alive.
        export: The view that keeps an exporter from moving its memory; None where there is none.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int
    label: str
    owner: object = field(repr=False, compare=False)
    export: memoryview | None = field(default=None, repr=False, compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether it has no element, hence no memory."""
        return not self.itemsize or 0 in self.shape

    @property
    def span(self) -> AddrRange:
        """From its lowest byte to past its highest; a view with gaps takes them in. Empty when it is."""
        if self.is_empty:
            return AddrRange(0, 0)
        reach = [(n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)]
        low = sum(step for step in reach if step < 0)
        high = sum(step for step in reach if step > 0)
        return AddrRange(self.address + low, self.address + high + self.itemsize)

    def release(self) -> None:
        """Let the exporter move its memory again."""
        if self.export is not None:
            self.export.release()


def resolve(obj: object, *, writable: bool = True) -> TrackedBuffer:
    """The memory of an object.

    Takes ``numpy.ndarray`` (any order, any view), ``numpy.memmap``, everything with the buffer protocol
    (``bytearray``, ``mmap.mmap``, ``memoryview``, ``array.array``, ctypes objects), ``SharedMemory``, objects with
    ``__array_interface__`` or ``__dlpack__`` (a CPU tensor of torch among them), and an ``AddrRange``.

    Raises:
        UsageError: The object has no memory of this process that could be written.
    """
    if isinstance(obj, AddrRange):
        return TrackedBuffer(obj.start, (obj.length,), (1,), 1, str(obj), obj)
    if isinstance(obj, np.ndarray):
        return _of_array(obj, obj, writable)
    if isinstance(obj, np.generic):
        # NumPy would make an array of it: a copy, which nobody else writes to.
        raise UsageError(f"{type(obj).__name__} is a scalar, not memory; pass the array, or a slice of it")
    if _is_shared_memory(obj):
        return _of_shared_memory(obj, writable)
    if hasattr(obj, "data_ptr"):
        return _of_tensor(obj)
    if hasattr(obj, "__array_interface__"):
        return _of_array(np.asarray(obj), obj, writable)
    if hasattr(obj, "__dlpack__"):
        return _of_dlpack(obj)
    return _of_exporter(obj, writable)


def _is_shared_memory(obj: object) -> bool:
    module = sys.modules.get("multiprocessing.shared_memory")
    return module is not None and isinstance(obj, module.SharedMemory)


def _of_shared_memory(obj: Any, writable: bool) -> TrackedBuffer:
    if obj.buf is None:
        raise UsageError(f"SharedMemory {obj.name!r} is closed; open it again")
    return resolve(obj.buf, writable=writable)


def _of_array(array: NDArray[Any], owner: object, writable: bool) -> TrackedBuffer:
    label = f"{type(owner).__name__} of shape {array.shape}, dtype {array.dtype}"
    if array.dtype.hasobject:
        raise UsageError(
            f"{label}: its memory holds references, so a change inside an object leaves no trace; "
            "track an array of plain numbers"
        )
    if writable and not array.flags.writeable:
        raise UsageError(f"{label} is read-only, so nothing can be written to it; pass a writable buffer")
    address = array.__array_interface__["data"][0]
    return TrackedBuffer(address, array.shape, array.strides, array.itemsize, label, (owner, array))


def _of_tensor(tensor: Any) -> TrackedBuffer:
    """A tensor that tells its own layout, as torch's do; this way every dtype works, bfloat16 included."""
    label = f"{type(tensor).__name__} of shape {tuple(tensor.shape)}"
    device = getattr(getattr(tensor, "device", None), "type", "cpu")
    if device != "cpu":
        raise UsageError(f"{label} lives on {tensor.device}; only memory of this process can be tracked")
    try:
        address, itemsize, steps = tensor.data_ptr(), int(tensor.element_size()), tensor.stride()
    except RuntimeError as error:
        raise UsageError(f"{label} has no plain memory: {error}; pass the dense tensors inside it") from error
    strides = tuple(int(step) * itemsize for step in steps)
    shape = tuple(int(n) for n in tensor.shape)
    # A parameter may be given other memory (module.half()): what is tracked stays alive all the same.
    storage = tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else None
    return TrackedBuffer(int(address), shape, strides, itemsize, label, (tensor, storage))


def _of_dlpack(obj: Any) -> TrackedBuffer:
    try:
        array = np.from_dlpack(obj)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{type(obj).__name__}: NumPy cannot take its memory by DLPack: {error}") from error
    # NumPy marks what it imports by the older protocol as read-only, whatever the owner does with it.
    return _of_array(array, obj, writable=False)


def _of_exporter(obj: object, writable: bool) -> TrackedBuffer:
    try:
        view = memoryview(obj)  # type: ignore[arg-type]  # the refusal is the test
    except TypeError:
        raise UsageError(
            f"{type(obj).__name__} shows no memory; pass an array, bytearray, mmap, memoryview, SharedMemory or tensor"
        ) from None
    except (BufferError, ValueError) as error:
        raise UsageError(
            f"{type(obj).__name__} shows no memory any more ({error}); pass one that is open"
        ) from error
    label = f"{type(obj).__name__} of {view.nbytes} bytes"
    if writable and view.readonly:
        view.release()
        raise UsageError(f"{label} is read-only, so nothing can be written to it; pass a writable buffer")
    return _of_view(view, label, obj)


def _of_view(view: memoryview, label: str, owner: object) -> TrackedBuffer:
    strides = view.strides or ()
    shape = view.shape or ()
    address = 0 if not view.nbytes else _address_of(view)
    return TrackedBuffer(address, shape, strides, view.itemsize, label, owner, view)


def _address_of(view: memoryview) -> int:
    """Address of the first element; of bytes, because NumPy does not know every format letter (pointers of ctypes)."""
    row = view[:1] if view.ndim else view  # contiguous also where a stepped view is not
    flat = row.cast("B") if row.c_contiguous else row
    array = np.asarray(flat)
    address: int = array.__array_interface__["data"][0]
    return address

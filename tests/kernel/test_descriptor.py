"""Owning a userfaultfd: opened, adopted, closed, and never leaked."""

from __future__ import annotations

import copy
import errno
import fcntl
import gc
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from writewatch.abi.calls import KernelCalls
from writewatch.abi.userfaultfd import (
    UFFD_FEATURE_EVENT_REMOVE,
    UFFD_FEATURE_THREAD_ID,
    UFFD_FEATURE_WP_ASYNC,
    UFFD_USER_MODE_ONLY,
    UffdioApi,
)
from writewatch.errors import UsageError
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.opening import enabled_features
from writewatch.kernel.pagemap import Pagemap
from writewatch.kernel.userfaultfd import Userfaultfd

pytestmark = pytest.mark.kernel("userfaultfd")

Descriptors = Callable[[], frozenset[str]]
UNKNOWN_FEATURE = 1 << 63


def test_descriptor_is_nonblocking_and_closed_on_exec() -> None:
    with Userfaultfd() as uffd:
        assert fcntl.fcntl(uffd.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert not os.get_blocking(uffd.fileno())


def test_blocking_on_request() -> None:
    with Userfaultfd(nonblocking=False) as uffd:
        assert os.get_blocking(uffd.fileno())


def test_features_are_what_the_kernel_has_and_enabled_what_was_asked_for() -> None:
    with Userfaultfd(UFFD_FEATURE_EVENT_REMOVE) as uffd:
        assert uffd.enabled == UFFD_FEATURE_EVENT_REMOVE
        assert uffd.features & UFFD_FEATURE_EVENT_REMOVE
        # API, REGISTER, UNREGISTER: the ioctls on the descriptor itself.
        assert uffd.ioctls & 0x8000000000000003 == 0x8000000000000003
        assert not uffd.is_async


@pytest.mark.kernel("wp_async")
def test_asynchronous_says_so() -> None:
    with Userfaultfd(UFFD_FEATURE_WP_ASYNC) as uffd:
        assert uffd.is_async
        assert "WP_ASYNC" in repr(uffd)


def test_leaving_the_with_statement_closes() -> None:
    with Userfaultfd() as uffd:
        fd = uffd.fileno()
    assert uffd.closed
    assert repr(uffd) == "<Userfaultfd closed>"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_closing_twice_does_not_close_somebody_elses_descriptor() -> None:
    uffd = Userfaultfd()
    uffd.close()
    other = os.open("/dev/null", os.O_RDONLY)
    uffd.close()
    os.close(other)


@pytest.mark.parametrize(
    "use",
    [
        lambda uffd: uffd.fileno(),
        lambda uffd: uffd.register(0, 1 << 20, wp=True),
        lambda uffd: uffd.read(),
        lambda uffd: uffd.poll(0),
    ],
    ids=["fileno", "register", "read", "poll"],
)
def test_using_a_closed_one_is_misuse(use: Callable[[Userfaultfd], object]) -> None:
    uffd = Userfaultfd()
    uffd.close()
    with pytest.raises(UsageError, match="this Userfaultfd is closed; open another"):
        use(uffd)


@pytest.mark.parametrize("device", [False, "auto"])
def test_refused_handshake_leaks_nothing(device: Any, descriptors: Descriptors) -> None:
    before = descriptors()
    with pytest.raises(OSError, match="UFFDIO_API: Invalid argument") as refusal:
        Userfaultfd(UNKNOWN_FEATURE, device=device)
    assert refusal.value.errno == errno.EINVAL
    assert descriptors() == before


def test_features_that_do_not_fit_are_misuse_and_leak_nothing(descriptors: Descriptors) -> None:
    before = descriptors()
    with pytest.raises(UsageError, match="features -0x1 does not fit in 64 bits"):
        Userfaultfd(-1)
    assert descriptors() == before


def test_a_hundred_of_them_leave_no_descriptor(descriptors: Descriptors) -> None:
    before = descriptors()
    for _ in range(100):
        with Userfaultfd():
            pass
    assert descriptors() == before


def test_a_forgotten_one_warns_and_closes(descriptors: Descriptors) -> None:
    before = descriptors()
    forgotten = [Userfaultfd()]
    with pytest.warns(ResourceWarning, match="was never closed"):
        forgotten.clear()
    gc.collect()
    assert descriptors() == before


@pytest.mark.kernel("pagemap")
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("kind", [Userfaultfd, Pagemap])
def test_what_owns_a_descriptor_is_not_copied(
    kind: type[Userfaultfd | Pagemap], again: Callable[[object], object]
) -> None:
    """The copy would close the descriptor, and so end the registrations, of the object that it was made of."""
    with kind() as owner:
        with pytest.raises(TypeError, match=f"a {kind.__name__} owns a descriptor and cannot be copied"):
            again(owner)
        os.fstat(owner.fileno())


def test_features_may_be_a_numpy_integer() -> None:
    wanted: Any = np.int64(UFFD_FEATURE_THREAD_ID)
    with Userfaultfd(wanted) as uffd:
        assert type(uffd.enabled) is int
        assert "THREAD_ID" in repr(uffd)


@pytest.mark.parametrize("device", ["/dev/userfaultfd", None, "no"])
def test_another_way_to_a_descriptor_is_misuse(device: Any) -> None:
    with pytest.raises(UsageError, match='give True, False or "auto"'):
        Userfaultfd(device=device)


def test_two_threads_may_close_it() -> None:
    """Both are past the question whether it is closed when the first one closes it."""
    both = threading.Barrier(2)

    class Meeting(LinuxCalls):
        def identity(self, fd: int) -> tuple[int, int]:
            found = super().identity(fd)
            if closing:
                both.wait(10)
            return found

    closing: list[threading.Thread] = []
    errors: list[BaseException] = []
    uffd = Userfaultfd(calls=Meeting())

    def close() -> None:
        try:
            uffd.close()
        except BaseException as error:
            errors.append(error)

    closing += [threading.Thread(target=close) for _ in range(2)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join()
    assert errors == []
    assert uffd.closed


# ---- adopted -------------------------------------------------------------------------------------


def test_adopted_descriptor_tells_its_features_through_fdinfo(calls: KernelCalls) -> None:
    with Userfaultfd(UFFD_FEATURE_EVENT_REMOVE) as uffd:
        assert enabled_features(uffd.fileno()) == UFFD_FEATURE_EVENT_REMOVE
        with Userfaultfd.from_fd(os.dup(uffd.fileno())) as other:
            assert other.enabled == other.features == UFFD_FEATURE_EVENT_REMOVE
            assert other.fileno() != uffd.fileno()


def test_adopted_descriptor_acts_on_the_same_registrations(
    memory: Callable[[int], int], calls: KernelCalls, page: int
) -> None:
    start = memory(1)
    with Userfaultfd() as uffd, Userfaultfd.from_fd(os.dup(uffd.fileno())) as other:
        uffd.register(start, page, missing=True)
        other.copy(start, memory(1), page)
        assert calls.load(start, 1) == b"\0"


def test_fresh_descriptor_is_shaken_hands_with(calls: KernelCalls) -> None:
    fd = calls.userfaultfd(os.O_CLOEXEC | os.O_NONBLOCK | UFFD_USER_MODE_ONLY)
    with Userfaultfd.from_fd(fd, UFFD_FEATURE_EVENT_REMOVE, fresh=True) as uffd:
        assert uffd.enabled == UFFD_FEATURE_EVENT_REMOVE
        assert uffd.features & 1


@pytest.mark.parametrize("fresh", [True, False])
def test_what_is_no_userfaultfd_is_closed_all_the_same(fresh: bool, descriptors: Descriptors) -> None:
    before = descriptors()
    with pytest.raises((OSError, ValueError)):
        Userfaultfd.from_fd(os.open("/dev/null", os.O_RDONLY), fresh=fresh)
    assert descriptors() == before


# ---- system call or device -------------------------------------------------------------------------


class Gate:
    """Calls whose two ways to a userfaultfd answer what they are told to; a descriptor is a pipe's end."""

    page_size = 4096

    def __init__(self, call: int = 0, device: int = 0) -> None:
        self.refusals = {"call": call, "device": device}
        self.asked: list[tuple[str, int]] = []

    def identity(self, fd: int) -> tuple[int, int]:
        return 0, fd

    def _open(self, way: str, flags: int) -> int:
        self.asked.append((way, flags))
        if self.refusals[way]:
            raise OSError(self.refusals[way], way)
        return os.open("/dev/null", os.O_RDONLY)

    def userfaultfd(self, flags: int) -> int:
        return self._open("call", flags)

    def userfaultfd_from_device(self, flags: int) -> int:
        return self._open("device", flags)

    def uffdio(self, fd: int, request: int, argument: UffdioApi) -> None:
        argument.features = argument.ioctls = 1

    def close(self, fd: int) -> None:
        os.close(fd)


def _ways(gate: Gate, device: Any) -> list[str]:
    Userfaultfd(calls=gate, device=device).close()  # type: ignore[arg-type]
    return [way for way, _ in gate.asked]


def test_the_system_call_comes_first() -> None:
    assert _ways(Gate(), "auto") == ["call"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_the_device_serves_where_the_call_is_filtered(number: int) -> None:
    gate = Gate(call=number)
    assert _ways(gate, "auto") == ["call", "device"]
    assert gate.asked[0][1] == gate.asked[1][1] == os.O_CLOEXEC | os.O_NONBLOCK | UFFD_USER_MODE_ONLY


def test_the_refusal_is_the_calls_when_the_device_does_not_help() -> None:
    with pytest.raises(PermissionError, match="call"):
        _ways(Gate(call=errno.EPERM, device=errno.ENOENT), "auto")


def test_another_errno_does_not_try_the_device() -> None:
    gate = Gate(call=errno.EMFILE)
    with pytest.raises(OSError, match="call"):
        _ways(gate, "auto")
    assert len(gate.asked) == 1


def test_only_the_way_that_was_asked_for() -> None:
    assert _ways(Gate(call=errno.EPERM), True) == ["device"]
    with pytest.raises(PermissionError):
        _ways(Gate(call=errno.EPERM), False)


def test_kernel_mode_faults_on_request() -> None:
    gate = Gate()
    Userfaultfd(calls=gate, user_mode_only=False, nonblocking=False).close()  # type: ignore[arg-type]
    assert gate.asked == [("call", os.O_CLOEXEC)]


@pytest.mark.kernel("dev_userfaultfd")
def test_the_device_gives_a_working_one(descriptors: Descriptors) -> None:
    before = descriptors()
    with Userfaultfd(device=True) as uffd:
        assert uffd.features
        assert len(descriptors() - before) == 1
    assert descriptors() == before

"""Every errno that the calls of a tracker may give has its exception and its meaning."""

from __future__ import annotations

import errno
import os
import re
from typing import Any

import pytest

import writewatch as ww
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.opening import open_userfaultfd
from writewatch.tracker import uffd_wp
from writewatch.tracker.translate import TRANSLATIONS, translate

DOCUMENTED = [
    open_userfaultfd,
    ww.Userfaultfd,
    ww.Userfaultfd.register,
    ww.Userfaultfd.write_protect,
    ww.Pagemap,
    ww.Pagemap.scan,
]

#: Nothing that a caller of a tracker could mend: they go through as they are, or cannot come.
NOT_TRANSLATED = {
    "EINVAL": "a range or a feature that was checked before",
    "ENOENT": "a process, a device or a registration that was there before",
    "EAGAIN": "an event is unread; trackers ask for none",
    "EFAULT": "for a system call of a program whose faults nobody answers; trackers answer them or need not",
}


@pytest.mark.parametrize("documented", DOCUMENTED, ids=lambda thing: thing.__qualname__)
def test_every_documented_errno_is_mapped(documented: Any) -> None:
    names = set(re.findall(r"\bE[A-Z]{3,}\b", documented.__doc__)) - {"EVENT"}
    assert names, "the pattern finds none"
    mapped = {errno.errorcode[number] for number in TRANSLATIONS | uffd_wp._REFUSALS}
    assert names - mapped <= NOT_TRANSLATED.keys()


@pytest.mark.parametrize("number", TRANSLATIONS, ids=lambda number: errno.errorcode[number])
def test_a_translation_names_the_backend_the_error_and_the_mend(number: int) -> None:
    kind, meaning = TRANSLATIONS[number]
    error = translate(OSError(number, f"some_call: {os.strerror(number)}"), "uffd-wp")
    assert type(error) is kind
    assert str(error) == f"uffd-wp: some_call: {os.strerror(number)}: {meaning}"
    assert "\n" not in str(error)
    if isinstance(error, ww.KernelUnsupportedError):
        assert error.missing == ("uffd-wp",)


def test_what_has_no_better_name_goes_through_as_it_is() -> None:
    error = OSError(errno.EIO, "read: Input/output error")
    assert translate(error, "uffd-wp") is error


class Refusing(LinuxCalls):
    """The running kernel, where one call answers with one errno."""

    def __init__(self, call: str, number: int) -> None:
        super().__init__()
        self.call, self.number = "", number
        self.refused = call

    def refuse(self) -> None:
        self.call = self.refused

    def __getattribute__(self, name: str) -> Any:
        if name == super().__getattribute__("__dict__").get("call"):
            number = self.number

            def refused(*_: Any) -> Any:
                raise OSError(number, os.strerror(number))

            return refused
        return super().__getattribute__(name)


def all_but(*left_out: int) -> pytest.MarkDecorator:
    numbers = [number for number in TRANSLATIONS if number not in left_out]
    return pytest.mark.parametrize("number", numbers, ids=lambda number: errno.errorcode[number])


# EPERM and ENOMEM of a scan are about a range that is not registered any more: it is reported, nothing is raised.
@pytest.mark.kernel("uffd_wp_async")
@all_but(errno.EPERM, errno.ENOMEM)
def test_a_refused_collect_raises_the_translation_and_keeps_the_cause(number: int) -> None:
    calls: Any = Refusing("pagemap_scan", number)
    table = ww.allocate(100_000)
    with ww.track(table, backend="uffd-wp", calls=calls) as tracker:
        calls.refuse()
        # In this order: after a collect that failed there is something to report without asking.
        for operation in (tracker.is_clean, tracker.collect):
            with pytest.raises(TRANSLATIONS[number][0]) as caught:
                operation()
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == number


# ESRCH needs a process that has gone, which this one has not; EBADF a tracker whose descriptors were closed.
@pytest.mark.kernel("uffd_wp_async")
@all_but(errno.ESRCH, errno.EBADF)
def test_a_refused_track_raises_the_translation(number: int) -> None:
    calls: Any = Refusing("userfaultfd", number)
    ww.track(bytearray(10), backend="uffd-wp", calls=calls).close()  # probes while all is well
    calls.refuse()
    if number in {errno.EPERM, errno.ENOSYS}:
        calls.userfaultfd_from_device = calls.userfaultfd  # the other way to a descriptor
    with pytest.raises(ww.KernelUnsupportedError) as caught:
        ww.track(bytearray(10), backend="uffd-wp", calls=calls)
    assert TRANSLATIONS[number][1] in str(caught.value)

"""A kernel that looks older: the hidden answers like one that never had it, the rest goes through."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from writewatch.abi.calls import KernelCalls
from writewatch.abi.pagemap import (
    PAGE_IS_GUARD,
    PAGE_IS_PRESENT,
    PAGE_IS_SOFT_DIRTY,
    PAGE_REGION,
    PM_SOFT_DIRTY,
    PmScanArg,
)
from writewatch.abi.userfaultfd import (
    FEATURES,
    UFFD_API,
    UFFD_FEATURE_WP_ASYNC,
    UFFD_FEATURE_WP_UNPOPULATED,
    UFFD_USER_MODE_ONLY,
    UFFDIO_API,
    UffdioApi,
    UffdioArgument,
)
from writewatch.errors import UsageError
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.default import default_calls
from writewatch.kernel.hiding import HIDEABLE, hidden_from, hide, parse_hidden, unhidden


class Everything:
    """A kernel that has everything; soft-dirty is set on each page."""

    page_size = 4096
    huge_page_size = 1 << 21

    def userfaultfd(self, flags: int) -> int:
        return 7

    def userfaultfd_from_device(self, flags: int) -> int:
        return 8

    def uffdio(self, fd: int, request: int, argument: UffdioArgument) -> None:
        if isinstance(argument, UffdioApi):
            argument.features = 0x1FFFF

    def open_pagemap(self, pid: int | None) -> int:
        return 9

    def read_pagemap(self, fd: int, first_page: int, n_pages: int, out: None = None) -> NDArray[np.uint64]:
        return np.full(n_pages, 2**64 - 1, np.uint64)

    def pagemap_scan(self, fd: int, argument: PmScanArg, vec: object) -> int:
        return 3


def without(*names: str) -> KernelCalls:
    return hide(Everything(), frozenset(names))  # type: ignore[arg-type]


def errno_of(call: Callable[..., object], *arguments: object) -> int | None:
    try:
        call(*arguments)
    except OSError as refusal:
        return refusal.errno
    return None


def test_hiding_nothing_changes_nothing() -> None:
    calls = LinuxCalls()
    assert hide(calls, frozenset()) is calls
    assert hidden_from(calls) == frozenset()
    assert unhidden(calls) is calls


def test_what_is_hidden_and_what_is_below() -> None:
    calls = LinuxCalls()
    hiding = hide(hide(calls, frozenset({"guard"})), frozenset({"pagemap"}))
    assert hidden_from(hiding) == {"pagemap"}
    assert unhidden(hiding) is calls
    assert repr(hide(calls, frozenset({"move", "guard"}))) == "<LinuxCalls without guard, move>"


def test_what_is_not_hidden_goes_through() -> None:
    calls = without("guard")
    assert (calls.page_size, calls.huge_page_size) == (4096, 1 << 21)
    assert calls.userfaultfd(0) == 7
    assert calls.userfaultfd_from_device(0) == 8
    assert calls.open_pagemap(None) == 9
    assert calls.pagemap_scan(9, PmScanArg(return_mask=PAGE_IS_PRESENT), None) == 3


def test_no_userfaultfd_means_no_device_either() -> None:
    calls = without("userfaultfd")
    assert errno_of(calls.userfaultfd, UFFD_USER_MODE_ONLY) == errno.ENOSYS
    assert errno_of(calls.userfaultfd_from_device, 0) == errno.ENOENT


def test_before_user_mode_only_the_flag_is_unknown() -> None:
    calls = without("user_mode_only")
    assert errno_of(calls.userfaultfd, UFFD_USER_MODE_ONLY) == errno.EINVAL
    assert calls.userfaultfd(0) == 7


def test_without_privilege_only_user_mode() -> None:
    calls = without("kernel_faults")
    assert errno_of(calls.userfaultfd, 0) == errno.EPERM
    assert calls.userfaultfd(UFFD_USER_MODE_ONLY) == 7


def test_without_the_device_the_call_remains() -> None:
    calls = without("dev_userfaultfd")
    assert errno_of(calls.userfaultfd_from_device, 0) == errno.ENOENT
    assert calls.userfaultfd(0) == 7


@pytest.mark.parametrize("feature", FEATURES, ids=[feature.name for feature in FEATURES])
def test_a_hidden_feature_is_absent_and_refused(feature: object) -> None:
    name, bit = feature.name.lower(), feature.bit  # type: ignore[attr-defined]
    calls = without(name)
    probing = UffdioApi(UFFD_API, 0)
    calls.uffdio(3, UFFDIO_API, probing)
    assert not probing.features & bit
    asking = UffdioApi(UFFD_API, bit)
    assert errno_of(calls.uffdio, 3, UFFDIO_API, asking) == errno.EINVAL
    # Linux zeroes what it refuses.
    assert (asking.api, asking.features, asking.ioctls) == (0, 0, 0)


def test_no_kernel_has_wp_async_without_wp_unpopulated() -> None:
    probing = UffdioApi(UFFD_API, 0)
    without("wp_unpopulated").uffdio(3, UFFDIO_API, probing)
    assert not probing.features & (UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC)


def test_pagemap_and_its_scan() -> None:
    assert errno_of(without("pagemap").open_pagemap, None) == errno.EACCES
    assert errno_of(without("pagemap_scan").pagemap_scan, 9, PmScanArg(), None) == errno.ENOTTY


def test_without_soft_dirty_no_page_is_marked() -> None:
    entries = without("soft_dirty").read_pagemap(9, 0, 4)
    assert not (entries & np.uint64(PM_SOFT_DIRTY)).any()
    assert (entries | np.uint64(PM_SOFT_DIRTY) == 2**64 - 1).all()


@pytest.mark.parametrize(("name", "category"), [("soft_dirty", PAGE_IS_SOFT_DIRTY), ("guard", PAGE_IS_GUARD)])
@pytest.mark.parametrize("mask", ["category_inverted", "category_mask", "category_anyof_mask", "return_mask"])
def test_a_hidden_category_is_refused_in_every_mask(name: str, category: int, mask: str) -> None:
    vec = np.zeros(1, PAGE_REGION)
    assert errno_of(without(name).pagemap_scan, 9, PmScanArg(**{mask: category}), vec) == errno.EINVAL


# ---- the switch ----------------------------------------------------------------------------------


def test_the_switch_is_a_list_with_any_spacing_and_case() -> None:
    assert parse_hidden(" WP_ASYNC , pagemap_scan,, ") == {"wp_async", "pagemap_scan"}
    assert parse_hidden("") == frozenset()


def test_a_misspelt_switch_is_misuse() -> None:
    with pytest.raises(UsageError, match=r"WRITEWATCH_HIDE names wp_asink, which cannot be hidden; choose"):
        parse_hidden("wp_asink,move")


def test_default_calls_follow_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITEWATCH_HIDE", "pagemap_scan")
    calls = default_calls()
    assert hidden_from(calls) == {"pagemap_scan"}
    assert default_calls() is calls
    monkeypatch.delenv("WRITEWATCH_HIDE")
    assert isinstance(default_calls(), LinuxCalls)
    monkeypatch.setenv("WRITEWATCH_HIDE", "nonsense")
    with pytest.raises(UsageError):
        default_calls()


def test_every_name_of_the_documentation_can_be_hidden() -> None:
    assert {"userfaultfd", "pagemap_scan", "wp_async", "soft_dirty", "kernel_faults", "pagemap"} <= HIDEABLE


@pytest.mark.kernel("uffd_wp_sync")
def test_a_real_kernel_without_wp_async_still_does_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITEWATCH_HIDE", "wp_async")
    calls = default_calls()
    fd = calls.userfaultfd(os.O_CLOEXEC | UFFD_USER_MODE_ONLY)
    try:
        argument = UffdioApi(UFFD_API, 0)
        calls.uffdio(fd, UFFDIO_API, argument)
        assert not argument.features & UFFD_FEATURE_WP_ASYNC
    finally:
        calls.close(fd)

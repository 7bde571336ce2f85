"""Whose doing a refusal is: the same errno means different things in different places."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from writewatch.kernel import refusals
from writewatch.kernel.refusals import (
    CAP_SYS_PTRACE,
    REASONS,
    Surroundings,
    explain,
    explain_device,
    explain_pagemap,
    explain_userfaultfd,
    surroundings,
)

BARE = Surroundings(filtered=False, in_container=False, effective=0, sysctl=0)


def place(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    values = {name: getattr(BARE, name) for name in Surroundings.__slots__} | changes
    monkeypatch.setattr(refusals, "surroundings", lambda: Surroundings(**values))


def error(number: int, filename: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), filename)


@pytest.mark.parametrize(
    ("number", "user_mode_only", "changes", "reason", "mend"),
    [
        (errno.ENOSYS, True, {"sysctl": None}, "kernel", "CONFIG_USERFAULTFD"),
        (errno.EINVAL, True, {}, "kernel", "5.11"),
        # The kernel has it (there is the sysctl), yet the call is unknown: something before it said so.
        (errno.ENOSYS, True, {"filtered": True}, "seccomp", "userfaultfd in the filter"),
        (errno.EPERM, True, {"filtered": True}, "seccomp", "/dev/userfaultfd"),
        (errno.EPERM, True, {"filtered": True, "in_container": True}, "seccomp", "--device /dev/userfaultfd"),
        (errno.EPERM, True, {}, "permission", "SELinux"),
        (errno.EPERM, False, {}, "sysctl", "vm.unprivileged_userfaultfd=1"),
        (errno.EPERM, False, {"filtered": True}, "sysctl", "vm.unprivileged_userfaultfd=1"),
        (errno.EPERM, False, {"sysctl": 1, "filtered": True}, "seccomp", "filter"),
        (errno.EPERM, False, {"effective": 1 << CAP_SYS_PTRACE}, "permission", "SELinux"),
        (errno.EMFILE, True, {}, "limit", "ulimit"),
    ],
)
def test_who_refuses_the_system_call(
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    user_mode_only: bool,
    changes: dict[str, Any],
    reason: str,
    mend: str,
) -> None:
    place(monkeypatch, **changes)
    found = explain_userfaultfd(error(number), user_mode_only=user_mode_only)
    assert found.reason == reason
    assert mend in found.mend
    assert found.detail


@pytest.mark.parametrize(
    ("number", "changes", "reason"),
    [
        (errno.ENOENT, {}, "kernel"),
        (errno.ENOENT, {"in_container": True}, "container"),
        (errno.EPERM, {"in_container": True}, "container"),
        (errno.EACCES, {}, "permission"),
        (errno.EMFILE, {}, "limit"),
    ],
)
def test_who_keeps_the_device(
    monkeypatch: pytest.MonkeyPatch, number: int, changes: dict[str, Any], reason: str
) -> None:
    place(monkeypatch, **changes)
    assert explain_device(error(number, "/dev/userfaultfd")).reason == reason


def test_a_filter_on_the_ioctl_of_the_device_is_no_missing_device(monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, filtered=True, in_container=True)
    assert explain_device(error(errno.EPERM)).reason == "seccomp"


@pytest.mark.parametrize(
    ("number", "changes", "reason"),
    [
        (errno.EACCES, {}, "permission"),
        (errno.ENOENT, {}, "kernel"),
        (errno.ENOENT, {"in_container": True}, "container"),
        (errno.ENFILE, {}, "limit"),
    ],
)
def test_who_keeps_the_pagemap(
    monkeypatch: pytest.MonkeyPatch, number: int, changes: dict[str, Any], reason: str
) -> None:
    place(monkeypatch, **changes)
    assert explain_pagemap(error(number)).reason == reason


@pytest.mark.parametrize(
    ("number", "filtered", "reason"),
    [
        (errno.ENOSYS, False, "kernel"),
        (errno.ENOTTY, True, "kernel"),
        (errno.ENOMEM, False, "limit"),
        (errno.EPERM, True, "seccomp"),
        (errno.EPERM, False, "permission"),
    ],
)
def test_general_reading(monkeypatch: pytest.MonkeyPatch, number: int, filtered: bool, reason: str) -> None:
    place(monkeypatch, filtered=filtered)
    found = explain(error(number, "/some/file"))
    assert found.reason == reason
    assert found.reason in REASONS
    assert found.detail.startswith("/some/file: ")


def test_surroundings_of_this_process() -> None:
    here = surroundings()
    status = refusals.read_text("/proc/self/status") or ""
    assert here.filtered is ("\nSeccomp:\t2\n" in status)
    assert here.has(40) is bool(here.effective >> 40 & 1)


def test_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "read_text", lambda path: None)
    monkeypatch.delenv("container", raising=False)
    here = surroundings()
    assert (here.filtered, here.effective, here.sysctl) == (False, 0, None)

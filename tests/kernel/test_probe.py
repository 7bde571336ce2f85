"""What works here: tried, explained, and without a trace."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.kernel import seccomp
from tests.processes import children
from writewatch.abi.calls import KernelCalls
from writewatch.abi.userfaultfd import UFFDIO_UNREGISTER, UFFDIO_WAKE, UffdioArgument
from writewatch.kernel import bugs, probe, trials
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.hiding import hide
from writewatch.kernel.probe import TRIALS, Capabilities, Capability, capabilities
from writewatch.kernel.refusals import REASONS, NotWorkingError
from writewatch.kernel.scratch import Scratch

ON_LINUX = pytest.mark.skipif(platform.system() != "Linux", reason="there is no Linux to ask")

PRINT = (
    "import json; from writewatch.kernel.probe import capabilities; "
    "print(json.dumps(capabilities(refresh=True).as_dict()))"
)


# A child that shall see the kernel as it is, whatever these tests run with.
SEEING = os.environ | {"WRITEWATCH_HIDE": ""}


def printed(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The capabilities that a child saw."""
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["capabilities"]
    return found


# ---- shape ---------------------------------------------------------------------------------------


def test_every_trial_has_an_answer_in_its_order() -> None:
    assert [item.name for item in capabilities()] == list(TRIALS)


def test_an_answer_says_what_was_seen_and_a_refusal_who_stands_in_the_way() -> None:
    for item in capabilities():
        assert item.detail
        assert (item.reason == "") is item.works
        assert item.works or item.reason in REASONS
        assert not (item.works and item.mend)


def test_a_name_that_is_no_trial() -> None:
    with pytest.raises(KeyError):
        capabilities().works("wp_asink")


def test_a_trial_needs_only_earlier_ones() -> None:
    seen: set[str] = set()
    for name, (_, needs) in TRIALS.items():
        assert seen.issuperset(needs)
        seen.add(name)


def test_values_survive_json() -> None:
    found = capabilities()
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()
    assert found.as_dict()["page_size"] == found.page_size


def test_frozen() -> None:
    with pytest.raises(AttributeError):
        capabilities().features = 0  # type: ignore[misc]


# ---- kept, and tried again -------------------------------------------------------------------------


def test_the_answer_is_kept_until_a_fresh_one_is_asked_for() -> None:
    first = capabilities()
    assert capabilities() is first
    assert capabilities(refresh=True) is not first


def test_the_switch_gets_an_answer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WRITEWATCH_HIDE", raising=False)
    plain = capabilities()
    monkeypatch.setenv("WRITEWATCH_HIDE", "pagemap")
    assert not capabilities().works("pagemap")
    monkeypatch.delenv("WRITEWATCH_HIDE")
    assert capabilities() is plain


def test_calls_of_ones_own_are_tried_each_time() -> None:
    calls = LinuxCalls()
    assert capabilities(calls) is not capabilities(calls)


# ---- nothing is left -------------------------------------------------------------------------------


@ON_LINUX
def test_it_leaves_no_descriptor_mapping_thread_or_child(
    descriptors: Callable[[], frozenset[str]], calls: KernelCalls
) -> None:
    capabilities(refresh=True)
    before = descriptors(), threading.active_count(), len(calls.vmas(None))
    others = children()
    for _ in range(20):
        capabilities(refresh=True)
    after = descriptors(), threading.active_count(), len(calls.vmas(None))
    assert after[:2] == before[:2]
    # The allocator of Python maps an arena now and then; a leak in each of twenty would be more.
    assert after[2] - before[2] < 20
    assert children() <= others


def test_eight_threads_at_once_get_the_same_answer() -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: capabilities(refresh=True), range(8)))
    works = [[(item.name, item.works) for item in answer] for answer in answers]
    assert all(answer == works[0] for answer in works)


# ---- hidden --------------------------------------------------------------------------------------


@ON_LINUX
@pytest.mark.parametrize("name", ["userfaultfd", "pagemap", "pagemap_scan", "wp_async", "wp_unpopulated"])
def test_a_hidden_feature_is_the_switchs_doing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not capabilities().works(name):
        pytest.skip(f"{name} does not work here anyway")
    monkeypatch.setenv("WRITEWATCH_HIDE", name)
    found = capabilities()
    assert not found.works(name)
    assert found[name].reason == "switch"
    assert found[name].mend == f"unset WRITEWATCH_HIDE, which hides {name}"


@pytest.mark.kernel("uffd_wp_async")
def test_what_needs_a_hidden_feature_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITEWATCH_HIDE", "pagemap_scan")
    found = capabilities()["uffd_wp_async"]
    assert (found.works, found.needs, found.reason) == (False, "pagemap_scan", "switch")
    # What lies deeper is named by its root, beside which the mend stands.
    assert capabilities()["pmd_holes"].needs == "pagemap_scan"


@pytest.mark.kernel("soft_dirty")
def test_hidden_soft_dirty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITEWATCH_HIDE", "soft_dirty")
    assert capabilities()["soft_dirty"].reason == "switch"


# ---- this kernel -----------------------------------------------------------------------------------


@pytest.mark.kernel("userfaultfd")
def test_features_of_this_kernel_agree_with_the_trials() -> None:
    found = capabilities()
    assert bool(found.features >> 15 & 1) is found.works("wp_async")
    assert bool(found.features >> 13 & 1) is found.works("wp_unpopulated")


@pytest.mark.kernel("pagemap_scan")
def test_categories_are_those_of_the_first_release_with_the_ioctl_or_more() -> None:
    assert capabilities().categories & 0x7F == 0x7F
    assert not capabilities().categories & 1 << 40


# ---- elsewhere -----------------------------------------------------------------------------------


def test_not_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Plan9")
    found = capabilities(LinuxCalls())
    assert not any(item.works for item in found)
    assert found["userfaultfd"].detail == "this is Plan9, not Linux"
    assert (found.features, found.categories) == (0, 0)


class Refusing:
    """Calls that all fail in one way; sizes are plain."""

    page_size = 4096
    huge_page_size = 1 << 21

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Callable[..., object]:
        def refuse(*_: object, **__: object) -> object:
            raise self.error

        return refuse


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "it broke"), OSError(errno.EMFILE, "too many"), ValueError("odd"), AttributeError()],
    ids=["EIO", "EMFILE", "ValueError", "AttributeError"],
)
def test_no_failure_of_a_call_becomes_a_traceback(error: Exception) -> None:
    calls: Any = Refusing(error)
    found = capabilities(calls)
    assert not any(item.works for item in found if item.name in ("userfaultfd", "pagemap", "soft_dirty"))
    assert found.features == found.categories == 0


@pytest.mark.kernel("uffd_wp_async")
def test_a_kernel_that_loses_dirty_bits_is_refused_by_the_name_of_its_bug(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bugs, "running_release", lambda: (6, 8, 3))
    found = capabilities(LinuxCalls())
    assert not found.works("uffd_wp_async")
    assert "CVE-2024-36943" in found["uffd_wp_async"].detail
    assert found["uffd_wp_async"].mend == "use Linux 6.8.10, 6.9 or newer"
    assert not found.works("vecless_scan")
    assert not found.works("hugetlb_scan")


@pytest.mark.kernel("uffd_wp_sync")
def test_a_kernel_that_never_delivers_its_message_does_not_hang_the_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent(LinuxCalls):
        def poll(self, fd: int, timeout_ms: int) -> int:
            assert timeout_ms > 0
            return 0

    before = threading.active_count()
    found = capabilities(Silent())["uffd_wp_sync"]
    assert not found.works
    assert found.detail == "a write to a protected page gave (), not one message"
    assert threading.active_count() == before


@pytest.mark.kernel("uffd_wp_sync")
@pytest.mark.parametrize("refused", [UFFDIO_WAKE, UFFDIO_UNREGISTER], ids=["wake", "unregister"])
def test_a_filter_on_one_refusedleaves_no_writer_waiting(refused: int) -> None:
    """It would fault in memory that is unmapped under it, or be waited for without an end."""

    class Filtered(LinuxCalls):
        def uffdio(self, fd: int, request: int, argument: UffdioArgument) -> None:
            if request == refused:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            super().uffdio(fd, request, argument)

    before = threading.active_count()
    assert capabilities(Filtered())["uffd_wp_sync"].works
    assert threading.active_count() == before


@pytest.mark.kernel("uffd_wp_async")
def test_a_scan_that_misses_a_write_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scratch, "written", lambda self, *, flags=0: (2, 3))
    found = capabilities(LinuxCalls())["uffd_wp_async"]
    assert not found.works
    assert "wrote pages (2, 3, 11); a scan says (2, 3)" in found.detail


@pytest.mark.kernel("pagemap")
def test_soft_dirty_that_marks_everything_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Marking(LinuxCalls):
        def read_pagemap(self, *arguments: Any) -> Any:
            return super().read_pagemap(*arguments) | (1 << 55)

    monkeypatch.setattr(trials, "_soft_dirty_in_a_child", lambda: tuple(range(16)))
    monkeypatch.setattr(bugs, "running_release", lambda: (6, 18, 44))
    found = capabilities(Marking())["soft_dirty"]
    assert not found.works
    assert found.detail.startswith("wrote pages (2, 3, 11); marked are (0, 1,")


@pytest.mark.kernel("pagemap")
def test_the_child_of_the_soft_dirty_trial_runs_and_leaves_this_process_alone() -> None:
    assert trials._soft_dirty_in_a_child() in ((), (2, 3, 11))


def test_no_interpreter_for_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/an-application")
    with pytest.raises(NotWorkingError, match="not tried: no Python interpreter"):
        trials._soft_dirty_in_a_child()


# ---- places where it is refused --------------------------------------------------------------------

needs_filters = pytest.mark.skipif(not seccomp.is_available(), reason="no system call numbers for a filter")


@needs_filters
@pytest.mark.kernel("userfaultfd")
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
def test_under_a_filter_it_is_the_filters_doing(number: int) -> None:
    found = printed(seccomp.run_under_seccomp(number, [sys.executable, "-c", PRINT], env=SEEING))
    assert not found["userfaultfd"]["works"]
    assert found["userfaultfd"]["reason"] == "seccomp"
    assert os.strerror(number) in found["userfaultfd"]["detail"]
    assert found["uffd_wp_async"]["needs"] == "userfaultfd"
    assert found["pagemap"]["works"]


@needs_filters
@pytest.mark.kernel("userfaultfd", "dev_userfaultfd")
def test_under_a_filter_the_device_still_serves() -> None:
    found = printed(
        seccomp.run_under_seccomp(errno.EPERM, [sys.executable, "-c", PRINT], device=False, env=SEEING)
    )
    assert found["userfaultfd"]["works"]
    assert "by /dev/userfaultfd" in found["userfaultfd"]["detail"]
    assert found["uffd_wp_sync"]["works"]


@pytest.mark.kernel("uffd_wp_async")
def test_without_any_privilege_tracking_works() -> None:
    found = printed(seccomp.run_unprivileged([sys.executable, "-c", PRINT], env=SEEING))
    assert found["userfaultfd"]["works"]
    assert found["uffd_wp_async"]["works"]
    assert found["uffd_wp_sync"]["works"]
    assert not found["pfn"]["works"]


@pytest.mark.kernel("userfaultfd")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can stop being root")
def test_a_process_that_changed_its_user_may_not_read_its_own_pagemap() -> None:
    # Once before, because nobody may not be allowed to read what it imports.
    code = f"import os; {PRINT}; os.setgid(65534); os.setuid(65534); {PRINT}"
    command = [sys.executable, "-c", code]
    found = printed(subprocess.run(command, capture_output=True, text=True, env=SEEING))
    assert found["pagemap"]["reason"] == "permission"
    assert "PR_SET_DUMPABLE" in found["pagemap"]["mend"]
    assert found["kernel_faults"]["reason"] in ("", "sysctl")


@pytest.mark.kernel("userfaultfd")
def test_without_free_descriptors_it_is_the_limits_doing() -> None:
    code = """
import os, resource
import writewatch.kernel.probe
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True: held.append(os.dup(0))
except OSError: pass
from writewatch.kernel.probe import capabilities
found = capabilities()
for fd in held: os.close(fd)
assert found["userfaultfd"].reason == found["pagemap"].reason == "limit", found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=SEEING)
    assert done.returncode == 0, done.stderr


@pytest.mark.kernel("uffd_wp_async")
def test_what_failed_for_want_of_a_descriptor_is_tried_again() -> None:
    """One free descriptor is enough for a userfaultfd, and for a pagemap; tracking takes both at once."""
    code = """
import os, resource
from writewatch.kernel.probe import capabilities
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True: held.append(os.dup(0))
except OSError: pass
os.close(held.pop())
found = capabilities()
for fd in held: os.close(fd)
assert found.works("userfaultfd") and found.works("pagemap"), found
assert found["uffd_wp_async"].reason == "limit", found
assert capabilities().works("uffd_wp_async")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=SEEING)
    assert done.returncode == 0, done.stderr


def test_no_memory_is_the_limits_doing() -> None:
    calls: Any = Refusing(MemoryError())
    found = capabilities(calls)
    assert found["pagemap"].reason == "limit"
    assert found["pagemap"].detail == "Cannot allocate memory"


def test_types() -> None:
    assert isinstance(capabilities(), Capabilities)
    assert isinstance(capabilities()["thp"], Capability)
    assert probe.capabilities(hide(LinuxCalls(), frozenset({"guard"}))).works("memlock")

"""``writewatch doctor``: what a person reads and what a machine reads, here and where features are hidden."""

from __future__ import annotations

import errno
import io
import json
import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from tests.kernel import seccomp
from writewatch.kernel.probe import TRIALS, Capability, capabilities
from writewatch.kernel.refusals import REASONS
from writewatch.observe.commands.doctor import doctor
from writewatch.observe.reporters.doctor import Diagnosis, as_text, as_values


@dataclass(frozen=True)
class Backend:
    name: str
    works: bool
    why: str


BACKENDS = (Backend("ideal", False, "it is not there"), Backend("good", True, "it works"))


def diagnosis(*items: Capability) -> Diagnosis:
    """A made-up one: everything works but the items given."""
    given = {item.name: item for item in items}
    found = tuple(given.get(name, Capability(name, True, f"saw {name}")) for name in TRIALS)
    made_up = replace(capabilities(), kernel="Linux 9.9", page_size=4096, huge_page_size=1 << 21, items=found)
    return Diagnosis("1.2.3", "CPython 3.99", made_up, BACKENDS)


def rendered(report: Diagnosis, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(as_text(report))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def line_of(text: str, words: str) -> str:
    (line,) = (line for line in text.splitlines() if words in line)
    return line.strip()


# ---- the table -----------------------------------------------------------------------------------


def test_the_head_names_versions_and_page_sizes() -> None:
    head = rendered(diagnosis(), 200).splitlines()[0].strip()
    assert head == "writewatch 1.2.3 on Linux 9.9, CPython 3.99; pages of 4 KiB, huge pages of 2 MiB"


def test_every_capability_has_a_line() -> None:
    text = rendered(diagnosis())
    assert all(f"saw {name}" in text for name in TRIALS)


def test_the_backend_that_auto_picks_is_marked() -> None:
    text = rendered(diagnosis())
    assert line_of(text, "ideal").split() == ["no", "ideal", "it", "is", "not", "there"]
    assert "yes  good" in line_of(text, "good")
    assert 'picked by backend="auto": it works' in line_of(text, "good")


def test_what_does_not_work_says_who_stands_in_the_way_and_the_mend() -> None:
    refused = Capability("userfaultfd", False, "Operation not permitted", "seccomp", "pass the device in")
    text = rendered(diagnosis(refused))
    assert line_of(text, "Operation not permitted").startswith("no   userfaultfd")
    assert line_of(text, "pass the device in") == "a system call filter: pass the device in"


def test_what_was_not_tried_names_what_it_needs_in_words() -> None:
    lacking = Capability("wp_async", False, "unknown", "kernel", "use Linux 6.7 or newer")
    waiting = Capability("uffd_wp_async", False, "needs wp_async", "kernel", lacking.mend, "wp_async")
    text = rendered(diagnosis(lacking, waiting))
    assert "needs feature WP_ASYNC" in line_of(text, "asynchronous write-protection")
    assert text.count("use Linux 6.7 or newer") == 1


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_words(reason: str) -> None:
    text = rendered(diagnosis(Capability("thp", False, "it is not so", reason)))
    following = text[text.index("it is not so") :].splitlines()[1].strip()
    assert following
    assert ":" not in following


@pytest.mark.parametrize("width", [60, 80, 132])
def test_no_width_cuts_a_mend_short(width: int) -> None:
    path = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    text = rendered(diagnosis(Capability("hugetlb", False, "none", "sysctl", f"echo 64 > {path}")), width)
    assert "…" not in text
    assert path in "".join(part.strip() for part in text.splitlines())
    assert max(map(len, text.splitlines())) <= width


# ---- values --------------------------------------------------------------------------------------


def test_keys_are_stable() -> None:
    values = as_values(diagnosis())
    assert list(values) == [
        "writewatch",
        "python",
        "kernel",
        "page_size",
        "huge_page_size",
        "features",
        "categories",
        "capabilities",
        "backend",
        "backends",
    ]
    assert list(values["capabilities"]) == list(TRIALS)
    assert set(values["capabilities"]["thp"]) == {"name", "works", "detail", "reason", "mend", "needs"}
    assert values["backend"] == "good"
    assert values["backends"][0] == {"name": "ideal", "works": False, "why": "it is not there"}


def test_no_backend_at_all() -> None:
    report = replace(diagnosis(), backends=BACKENDS[:1])
    assert report.backend == ""
    assert "picked" not in rendered(report)


# ---- the command ---------------------------------------------------------------------------------


def run(*arguments: str, hide: str = "", columns: int = 200) -> Result:
    return CliRunner().invoke(doctor, arguments, env={"WRITEWATCH_HIDE": hide, "COLUMNS": str(columns)})


def values(*, hide: str = "") -> dict[str, Any]:
    done = run("--json", hide=hide)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_command_prints_a_table() -> None:
    done = run()
    assert done.exit_code == 0
    assert "Backends, best first" in done.stdout
    assert done.stdout.count('picked by backend="auto"') == 1


def test_a_narrow_terminal_cuts_nothing() -> None:
    assert 'picked by backend="auto"' in run(columns=30).stdout


def test_the_command_prints_what_the_probe_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WRITEWATCH_HIDE", raising=False)
    assert values()["capabilities"] == capabilities().as_dict()["capabilities"]


def test_the_picked_backend_is_the_first_that_works() -> None:
    found = values()
    assert found["backend"] == next(b["name"] for b in found["backends"] if b["works"])


@pytest.mark.parametrize("hidden", ["userfaultfd", "pagemap_scan", "wp_async", "userfaultfd,soft_dirty"])
def test_with_hidden_features_another_backend_is_picked_and_the_switch_named(hidden: str) -> None:
    if not capabilities().works("uffd_wp_async"):
        pytest.skip("asynchronous write-protection does not work here anyway")
    found = values(hide=hidden)
    assert found["backends"][0]["works"] is False
    assert "WRITEWATCH_HIDE" in found["backends"][0]["why"]
    assert found["backend"] not in ("", found["backends"][0]["name"])
    assert "hidden on purpose: unset WRITEWATCH_HIDE" in run(hide=hidden).stdout


def test_a_misspelt_switch_reaches_the_entry_point() -> None:
    done = run(hide="wp_asink")
    assert isinstance(done.exception, ValueError)
    assert "wp_asink" in str(done.exception)


@pytest.mark.skipif(not seccomp.is_available(), reason="no system call numbers for a filter")
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
def test_where_userfaultfd_is_refused_the_doctor_still_answers(number: int) -> None:
    if not capabilities().works("userfaultfd"):
        pytest.skip("userfaultfd does not work here anyway")
    main = "from writewatch.observe.cli import main; main()"
    done = seccomp.run_under_seccomp(number, [sys.executable, "-c", main, "doctor", "--json"])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["capabilities"]["userfaultfd"]["reason"] == "seccomp"
    assert found["backend"] in ("soft-dirty", "content-hash", "every-page")

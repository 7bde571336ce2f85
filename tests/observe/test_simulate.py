"""``writewatch simulate``: the language, the picture, and the examples on the model and on this kernel."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import machine
from writewatch.errors import KernelUnsupportedError, UsageError
from writewatch.kernel.probe import capabilities
from writewatch.model.machine import Settings
from writewatch.observe import cli
from writewatch.observe.simulate import language
from writewatch.observe.simulate import replay as replay_module
from writewatch.observe.simulate.language import parse
from writewatch.observe.simulate.linux_side import LinuxSide
from writewatch.observe.simulate.observation import Observation
from writewatch.observe.simulate.outcome import Outcome
from writewatch.observe.simulate.places import BASE, SLOT_BYTES, Place
from writewatch.observe.simulate.replay import Replay, StepReport
from writewatch.observe.simulate.statements import Statements

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "simulate").glob("*.ww"))
PAGE = 4096

TRACKED = """
a = mmap 8 pages
u = userfaultfd wp_async user_mode_only
register u a wp
"""


def run(text: str, *, against_kernel: bool = False) -> list[StepReport]:
    return list(Replay(text, against_kernel=against_kernel).run())


def last(text: str) -> StepReport:
    return run(text)[-1]


def pages(report: StepReport, name: str = "regions") -> list[int]:
    """Pages of the first mapping in the regions that a scan returned."""
    found = report.outcome.value[name]
    return [page for start, end, _ in found for page in range((start - BASE) // PAGE, (end - BASE) // PAGE)]


def texts(report: StepReport, change: str, process: str = "main") -> list[str]:
    return [row.text for row in report.tables[process] if row.change == change]


def need_kernel() -> None:
    for name in ("userfaultfd", "pagemap", "pagemap_scan", "uffd_wp_async"):
        if not capabilities()[name].works:
            pytest.skip(f"{name} does not work here: {capabilities()[name].detail}")


# ---- the language --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("protct u a", 'line 4: "protct" is no operation; did you mean "protect"?'),
        ("protect u b", 'line 4: "b" is no name of memory or of a file; known: a'),
        ("protect v a", 'line 4: "v" is no userfaultfd; known: u'),
        ("protect u", "line 4: the line ends early; expected a place such as a, a+3 or a+2..5"),
        ("protect u a now", 'line 4: "now" is one word too many; leave it out'),
        ("write a+5..2 x", 'line 4: "a+5..2" holds no page; the end of a range is one past its last page'),
        ("write a-1 x", 'line 4: "a-1" is no place; write it like a, a+3 or a+2..5'),
        ('write a "x', "line 4: a quotation is not closed; end it with the quote that it began with"),
        ('write a ""', "line 4: a text has 1 to 4096 bytes"),
        ("a = fork", 'line 4: "a" is taken; choose another name'),
        ("2b = fork", 'line 4: "2b" is no name; begin it with a letter'),
        ("memfd 2 pages", "line 4: name what memfd makes, as in: a = memfd …"),
        ("b = mmap 3 KiB", "line 4: the size is not a number of whole pages; pages have 4096 bytes"),
        ("b = mmap 65 MiB", "line 4: 65 MiB is too much to draw page by page; ask for at most 64 MiB"),
        ("b = mmap many pages", 'line 4: "many" is no number above 0; expected a size such as 16 pages'),
        ("b = mmap 2 sheets", 'line 4: "sheets" is no unit; known: pages, page, KiB, MiB'),
        ("b = mmap 2 pages shred", 'line 4: "shred" is no word of mmap; did you mean "shared"?'),
        ("copy u a", "line 4: say where from, as in: copy u a+3 from b"),
        ("madvise a dontned", 'line 4: "dontned" is no advice; did you mean "dontneed"?'),
        ("scan a writen", 'line 4: "writen" is no category; did you mean "written"?'),
        ("register u a rw", 'line 4: "rw" is no mode; known: wp, missing, minor'),
        ("in child", 'line 4: "child" is no process; known: main'),
        ("exit\nread a", "line 5: main has ended; go to another process first, as in: in main"),
    ],
)
def test_a_line_that_is_not_understood_is_one_sentence_with_its_number(line: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(f"a = mmap 8 pages\nu = userfaultfd\n# comment\n{line}")
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_a_script_of_comments_alone_is_refused() -> None:
    with pytest.raises(UsageError, match="no operation; write one a line"):
        parse("# nothing\n\n")


def test_comments_are_no_part_of_a_step_and_may_stand_behind_a_quoted_hash() -> None:
    step = parse('a = mmap 1 page\nwrite a "#1"  # the first').steps[1]
    assert (step.number, step.text, step.arguments[2]) == (2, 'write a "#1"', b"#1")


def test_places_are_half_open_and_spelled_as_they_are_written() -> None:
    script = parse("a = mmap 8 pages\nb = mmap 8 pages\nread a+2..5\nread b+7\nread b")
    wanted = ["a+2..5", "b+7", "b"]
    for step, text in zip(script.steps[2:], wanted, strict=True):
        start, length = step.arguments[:2]
        assert script.places.spell(start, start + length) == text
    assert script.steps[2].arguments[:2] == (BASE + 2 * PAGE, 3 * PAGE)
    assert script.places.spell(BASE + SLOT_BYTES + 3 * PAGE) == "b+3"
    assert script.places.spell(0x1000) == "0x1000"


def test_every_operation_is_in_the_grammar() -> None:
    names = [name.split("_", 2)[2] for name in dir(Statements) if name.startswith(("_do_", "_make_"))]
    assert len(names) == 32
    assert not [name for name in names if f'"{name}"' not in (language.__doc__ or "")]


# ---- what comes of steps -------------------------------------------------------------------------


def test_get_and_protect_reports_what_was_written_since() -> None:
    steps = run(TRACKED + "protect u a\nwrite a+2..4 x\nscan a written protect\nscan a written protect")
    assert pages(steps[-2]) == [2, 3]
    assert pages(steps[-1]) == []


def test_scan_words_are_filters_and_limits() -> None:
    start = TRACKED + 'protect u a\nwrite a+1 "x"\nwrite a+3 "x"\nread a+5\n'
    assert pages(last(start + "scan a not written")) == [0, 2, 4, 5, 6, 7]
    assert pages(last(start + "scan a written max 1")) == [1]
    assert pages(last(start + "scan a written vec 1")) == [1]
    assert pages(last(start + "scan a any pfnzero file")) == [5]
    assert last(start + "scan a return present").outcome.value["regions"][1][2] == 8
    assert last("a = mmap 1 page\nscan a written").outcome == Outcome("errno", "EPERM")
    assert last("a = mmap 1 page\nscan a written unchecked").outcome.kind == "ok"


def test_a_refused_call_is_an_errno_and_the_script_goes_on() -> None:
    steps = run("a = mmap 8 pages\nu = userfaultfd wp_async\nprotect u a\nwrite a x")
    assert steps[-2].outcome == Outcome("errno", "ENOENT")
    assert steps[-1].outcome.kind == "ok"


def test_a_signal_ends_its_process_and_what_follows_there_is_not_run() -> None:
    steps = run("a = mmap 1 page\nc = fork\nin c\nwrite a+1 x\nread a\nin main\nread a")
    assert [step.outcome.kind for step in steps] == ["ok", "ok", "signal", "not run", "ok"]
    assert steps[2].outcome.value == "SIGSEGV"
    assert "c" not in steps[-1].tables


def test_a_step_that_waits_is_told_again_where_it_ends() -> None:
    text = "a = mmap 2 pages\nwrite a x\nu = userfaultfd\nregister u a wp\nprotect u a\nwrite a+1 y\n"
    steps = run(text + "messages u\nunprotect u a+1\nread a+1")
    assert steps[5].outcome == Outcome("waits")
    assert steps[6].outcome.value == {"messages": [(0x12, 3, BASE + PAGE, 0)]}
    assert steps[7].resumed == [(6, Outcome("ok"))]
    assert steps[8].outcome.value == {"bytes": "y"}


def test_the_end_of_a_process_takes_its_waiting_steps_along() -> None:
    text = "a = mmap 1 page\nu = userfaultfd\nregister u a missing\nc = fork\nread a\nexit\nin c\nread a"
    steps = run(text)
    assert steps[4].outcome.kind == "waits"
    assert steps[5].resumed == steps[6].resumed == []
    assert steps[6].outcome.value == {"bytes": "\0"}


def test_filling_ioctls_tell_how_far_they_came() -> None:
    text = "a = mmap 4 pages\nb = mmap 1 page\nwrite b s\nu = userfaultfd\nregister u a missing\n"
    steps = run(
        text + "copy u a+1 from b+0\ncopy u a+1 from b+0\nzeropage u a+2\npoison u a+3\nread a+1..3\nread a+3"
    )
    assert [step.outcome.value for step in steps[5:9]] == [
        {"errno": "", "copy": PAGE},
        {"errno": "EEXIST", "copy": -17},
        {"errno": "", "zeropage": PAGE},
        {"errno": "", "updated": PAGE},
    ]
    assert steps[9].outcome.value == {"bytes": "s\0"}
    assert steps[10].outcome == Outcome("signal", "SIGBUS")


def test_a_moved_mapping_has_the_name_that_it_is_given() -> None:
    steps = run("a = mmap 2 pages\nwrite a+1 m\nb = mremap a 4 pages\nread b+1\nread a")
    assert steps[3].outcome.value == {"bytes": "m"}
    assert steps[4].outcome == Outcome("signal", "SIGSEGV")


# ---- the picture ---------------------------------------------------------------------------------


def test_only_what_a_step_changed_is_marked() -> None:
    steps = run(TRACKED + "write a+0..4 x\nprotect u a\nwrite a+3 y")
    assert len(texts(steps[-1], "changed")) == 1
    (text,) = texts(steps[-1], "changed")
    frame = text.split("PFN:")[1].split(",")[0]
    bare = f"PTE: VA:{BASE + 3 * PAGE:#x} -> PFN:{frame}, dirty, accessed, uffd-wp"
    assert text == f"{bare}  =>  PFN:{frame}, write, dirty, accessed"
    assert texts(steps[-1], "same")[-1].endswith("-> marker, uffd-wp")


def test_registration_replaces_the_line_of_the_mapping() -> None:
    step = last(TRACKED)
    assert texts(step, "gone") == [f"VMA: [VA:{BASE:#x}, VA:{BASE + 8 * PAGE:#x}) rw- private anonymous"]
    assert texts(step, "new") == [texts(step, "gone")[0] + ", uffd-wp async"]


def test_a_huge_page_is_one_line_until_it_is_split() -> None:
    steps = run(
        "a = mmap 4 MiB\nmadvise a hugepage\nwrite a+0 x\nu = userfaultfd wp_async\n"
        "register u a wp\nprotect u a+0..512\nwrite a+5 y"
    )
    assert [row.text.split(" -> ")[0] for row in steps[-2].tables["main"] if "huge" in row.text] == [
        f"PMD: [VA:{BASE:#x}, VA:{BASE + (2 << 20):#x})"
    ]
    changed = texts(steps[-1], "changed")
    assert len(changed) == 3  # the pages before, the page, the pages after
    assert all(" -> huge PFN:" in text and "=>  PFN:" in text for text in changed)
    assert [text.endswith("uffd-wp") for text in changed] == [True, False, True]


def test_a_fork_shows_the_child_as_new() -> None:
    step = last(TRACKED + "write a x\nprotect u a\nc = fork")
    assert texts(step, "same", "c") == []
    assert all("uffd-wp" not in text for text in texts(step, "new", "c"))


def test_an_unmapped_range_is_gone() -> None:
    step = last("a = mmap 4 pages\nmunmap a")
    assert [row.change for row in step.tables["main"]] == ["gone"]


# ---- the command ---------------------------------------------------------------------------------


def simulate(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(["simulate", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "script.ww"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_command_shows_results_tables_counters_and_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TRACKED + 'protect u a\nwrite a+3 "x"\nscan a written protect\n'
    code, out, err = simulate(capsys, script(tmp_path, text))
    assert (code, err) == (0, "")
    assert 'line 6: write a+3 "x"\n  ok, 2 page faults\n' in out
    assert "ok, a+3 WRITTEN, walked to a+8\n" in out
    assert "  * a+3     PTE: " in out
    assert "marker-filled                   1\n" in out
    assert "async" in out.split("Estimated cost")[1]


def test_json_is_one_object_with_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = simulate(
        capsys, script(tmp_path, TRACKED + "write a+3 x\nscan a written protect"), "--json"
    )
    values = json.loads(out)
    assert code == 0
    assert [step["line"] for step in values["steps"]] == [2, 3, 4, 5, 6]
    regions = values["steps"][-1]["outcome"]["value"]["regions"]
    assert regions == [[BASE, BASE + 8 * PAGE, 2]]
    assert values["compared"] is False
    assert values["cost_ns"]["async"] > 0


def test_misuse_is_two_and_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, sentence in [
        (script(tmp_path, "nonsense"), 'writewatch: line 1: "nonsense" is no operation'),
        (
            str(tmp_path / "absent"),
            f"writewatch: {tmp_path}/absent cannot be read: No such file or directory",
        ),
        (str(tmp_path), "writewatch: Invalid value for 'SCRIPT'"),
    ]:
        code, out, err = simulate(capsys, path)
        assert (code, out) == (2, "")
        assert err.startswith(sentence)
        assert err.count("\n") == 1


def test_the_help_holds_the_grammar(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = simulate(capsys, "--help")
    assert code == 0
    assert 'PLACE      = NAME [ "+" PAGE [ ".." PAGE ] ]' in out


# ---- the examples --------------------------------------------------------------------------------

#: Example -> line -> pages that the scan there reports.
REPORTED: dict[str, list[list[int]]] = {
    "fork": [[1], [0, 1, 2, 3], []],
    "handler": [],
    "hidden": [[], [3]],
    "huge-page": [[5]],
    "hugetlb": [[], list(range(512, 1024)), []],
    "lost-write": [[0], [], [0], [1]],
    "marker": [[0, 1]],
}

every_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


@every_example
def test_an_example_shows_what_it_says(path: Path) -> None:
    steps = run(path.read_text(encoding="utf-8"))
    assert all(step.outcome.kind in {"ok", "waits"} for step in steps)
    scans = [pages(step) for step in steps if step.step.operation == "scan"]
    assert scans == REPORTED[path.stem]


def test_a_marker_takes_two_faults_in_its_example_and_a_huge_page_one() -> None:
    by_name = {path.stem: run(path.read_text(encoding="utf-8")) for path in EXAMPLES}
    faults = {step.step.text: step.n_faults for step in by_name["marker"]}
    assert (faults['write a+0 "one fault"'], faults['write a+1 "two faults"']) == (1, 2)
    assert {step.step.text: step.n_faults for step in by_name["huge-page"]}['write a+5 "x"'] == 1


@every_example
def test_an_example_is_the_same_on_this_kernel(path: Path) -> None:
    need_kernel()
    with machine.huge_pages() if path.stem == "hugetlb" else contextlib.nullcontext("") as reason:
        if reason:
            pytest.skip(f"needs huge pages of hugetlbfs, which only root can configure: {reason}")
        steps = run(path.read_text(encoding="utf-8"), against_kernel=True)
    assert [step.differences for step in steps] == [()] * len(steps)


# ---- against this kernel -------------------------------------------------------------------------

EVERYTHING = """
a = mmap 8 pages
u = userfaultfd wp_async user_mode_only
register u a wp
protect u a
write a+0..3 "user"
write a+4 "kernel" kernel
read a+5 kernel
scan a written protect
mprotect a+2..4 read
mprotect a+2..4 write
drop a+1
b = mremap a 8 pages
scan b written                     # EPERM: the registration is gone
f = memfd 8 pages
s = mmap 8 pages shared file f
register u s wp
protect u s
write s+1 "s"
pwrite f+1 "p"
punch f+2
truncate f 4 pages
scan s
c = fork
in c
write b+1 "c"
write s+9 "boom"                   # SIGSEGV
in main
v = userfaultfd user_mode_only
q = mmap 8 pages
register v q missing wp
write q+1 "m"
messages v
copy v q+1 from b+0 wp
messages v
unprotect v q+1
zeropage v q+2
poison v q+3
unregister v q
close v
read q+0..3
read q+3                           # SIGBUS
"""


def test_every_kind_of_step_is_the_same_on_this_kernel() -> None:
    need_kernel()
    steps = run(EVERYTHING, against_kernel=True)
    assert [(step.step.text, step.differences) for step in steps if step.differences] == []
    kinds = [step.outcome.kind for step in steps]
    assert kinds.count("signal") == 2
    assert kinds.count("waits") == 1
    assert kinds.count("errno") == 1


def test_what_differs_is_told_and_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need_kernel()
    # The strict model refuses what Linux accepts: results, entries and categories differ from then on.
    monkeypatch.setattr(replay_module, "settings_here", lambda: Settings(strict=True))
    path = script(tmp_path, TRACKED + "write a x\nprotect u a\nunprotect u a+3\nread a")
    code, out, _ = simulate(capsys, path, "--against-kernel")
    assert code == 1
    assert "DIFFERENT, result\n    model: EINVAL\n    linux: ok\n" in out
    assert "DIFFERENT, entries of main\n" in out
    assert "DIFFERENT, categories of main\n" in out
    assert "  this kernel: different as before\n" in out.split("line 8: read a\n")[1]
    assert out.endswith("3 differences from this kernel\n")
    code, out, _ = simulate(capsys, path, "--against-kernel", "--json")
    assert code == 1
    told: list[dict[str, Any]] = json.loads(out)["steps"][-2]["differences"]
    assert told[0] == {
        "what": "result",
        "model": {"kind": "errno", "value": "EINVAL"},
        "linux": {"kind": "ok", "value": None},
    }


def test_content_that_differs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    need_kernel()
    look = LinuxSide.look

    def forged(self: LinuxSide) -> dict[str, Observation]:
        seen = look(self)
        return {
            name: Observation(one.mappings, one.entries, one.categories, ()) for name, one in seen.items()
        }

    monkeypatch.setattr(LinuxSide, "look", forged)
    (difference,) = run("a = mmap 2 pages\nwrite a x", against_kernel=True)[1].differences
    assert difference.what == "contents of main"


def test_an_event_of_fork_is_for_the_model_alone() -> None:
    text = "a = mmap 1 page\nu = userfaultfd event_fork\nregister u a wp\nc = fork\nmessages u"
    assert run(text)[-1].outcome.value == {"messages": [(0x13, 0, 0, 0)]}
    need_kernel()
    with pytest.raises(UsageError, match="line 2: event_fork is shown by the model alone"):
        Replay(text, against_kernel=True)


def test_a_kernel_without_scans_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITEWATCH_HIDE", "pagemap_scan")
    with pytest.raises(KernelUnsupportedError, match="pagemap_scan does not work here") as refused:
        Replay("a = mmap 1 page", against_kernel=True)
    assert "pagemap_scan" in refused.value.missing


def test_nobody_is_left_behind_when_a_run_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    need_kernel()
    sides: list[LinuxSide] = []

    def kept(arena: Place) -> LinuxSide:
        sides.append(LinuxSide(arena))
        return sides[-1]

    monkeypatch.setattr(replay_module, "LinuxSide", kept)
    replay = Replay("a = mmap 1 page\nc = fork\nread a", against_kernel=True)
    with contextlib.closing(replay.run()) as steps:
        next(steps)
        next(steps)
        pids = [process.pid for process in sides[0]._processes.values()]
    assert len(pids) == 2
    assert not [pid for pid in pids if is_running(pid)]


def is_running(pid: int) -> bool:
    """Whether a process does anything yet; whoever adopted it may not have taken note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False

"""``writewatch run``: what it tells of made-up processes, and real programs to their end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.observe.needs import needs_attaching
from tests.observe.watch.made_up import PAGE, MadeUpTracker, epoch, mapping, runs
from writewatch.errors import TraceError
from writewatch.observe import cli
from writewatch.observe.commands import run as run_module
from writewatch.observe.reporters.run import WIDTH, epoch_line, heading_line
from writewatch.observe.reporters.summary import Ending, outcome_text, summary
from writewatch.observe.watch.book import Book
from writewatch.observe.watch.telling import teller
from writewatch.tracker.process.writes import ProcessWrites

HEAP = mapping("[heap]", 100, 90_000, "heap")
ARENA = mapping("[anonymous]", 200_000, 210_000)
OTHER = mapping("[anonymous]", 300_000, 310_000)
LIBC = mapping("/usr/lib/x86_64-linux-gnu/libc.so.6", 400_000, 400_010, "library")

# ---- lines ---------------------------------------------------------------------------------------


def test_a_line_an_interval() -> None:
    one = epoch(0, [HEAP, ARENA], (100, 1100), (200_000, 200_250), seconds=2.0)
    assert heading_line() == "ww     time      pages       rate    cost  mostly"
    assert epoch_line([one], 2.0, 0.0123) == "ww    2.0 s      1,250  2.4 MiB/s   1.2 %  [heap] 80 %"


def test_pages_that_were_assumed_make_it_at_most() -> None:
    one = epoch(0, [HEAP], (100, 200), assumed=runs((300, 400)))
    assert epoch_line([one], 1.0, 0.0) == "ww    1.0 s       ≤200  800 KiB/s     0 %  [heap] 100 %"


def test_of_several_processes_the_line_is_a_sum_and_names_the_one() -> None:
    two = [
        epoch(0, [HEAP], (100, 200)),
        epoch(0, [ARENA], (200_000, 200_300), pid=4712, command="worker"),
    ]
    line = epoch_line(two, 1.0, 0.0)
    assert line.split() == [
        "ww",
        "1.0",
        "s",
        "400",
        "1.6",
        "MiB/s",
        "0",
        "%",
        "worker:",
        "[anonymous]",
        "75",
        "%",
    ]


def test_parentheses_are_explained_where_there_are_any() -> None:
    explained = "A name in parentheses: not mapped any more."
    stays = [epoch(number, [HEAP], (100, 200)) for number in range(2)]
    assert explained not in told(stays, Ending("x"))
    assert explained in told([stays[0], epoch(1, [])], Ending("x"))


def test_many_processes_that_lived_for_a_moment_wrote_in_the_whole_interval() -> None:
    short = [
        epoch(0, [HEAP], (100, 125), pid=pid, seconds=0.001, ended_s=0.01 * pid) for pid in range(1, 101)
    ]
    line = epoch_line([epoch(0, [HEAP], (100, 200)), *short], 1.0, 0.0)
    assert line.startswith("ww    1.0 s      2,600   10 MiB/s ")


def test_an_epoch_without_writes() -> None:
    assert epoch_line([epoch(0, [HEAP])], 1.0, 0.0) == "ww    1.0 s          0      0 B/s     0 %  "


@pytest.mark.parametrize("n_pages", [1, 10**5, 10**9])
def test_lines_fit(n_pages: int) -> None:
    long = mapping("/a/very/long/path/to/some/file/that/is/mapped/by/a/program.so", 0, n_pages)
    one = epoch(0, [long], (0, n_pages), command="a-program-name-", assumed=runs((0, 1)))
    assert len(epoch_line([one, one], 99_999.0, 9.99)) <= WIDTH


# ---- the summary ---------------------------------------------------------------------------------


def told(epochs: Sequence[ProcessWrites], ending: Ending, width: int = 80) -> list[str]:
    book = Book()
    for one in epochs:
        book.add([one])
    return list(summary(book.figures(), ending, width))


def test_the_summary_of_one_process() -> None:
    mappings = [HEAP, ARENA, OTHER, LIBC]
    epochs = [
        epoch(
            number,
            mappings,
            (100 + 1000 * number, 2100 + 1000 * number),
            (200_000, 200_010),
            (300_000, 300_000 + number),
            (400_001, 400_003),
            notes=("It shares memory with others: what they write is not seen.",),
        )
        for number in range(12)
    ]
    assert told(epochs, Ending("exit status 3", 0.25)) == [
        "",
        "redis-server (4711): 12.0 s in 12 epochs, exit status 3",
        "                          pages distinct  bytes a second     written working set",
        "mapping                 written    bytes    mean    peak     1 s    10 s    60 s",
        "[heap]                   24,000   51 MiB 7.8 MiB 7.8 MiB 7.8 MiB  43 MiB  51 MiB",
        "[anonymous] 30d40000        120   40 KiB  40 KiB  40 KiB  40 KiB  40 KiB  40 KiB",
        "[anonymous] 493e0000         66   44 KiB  22 KiB  44 KiB  44 KiB  44 KiB  44 KiB",
        "…/libc.so.6                  24  8.0 KiB 8.0 KiB 8.0 KiB 8.0 KiB 8.0 KiB 8.0 KiB",
        "all                      24,210   51 MiB 7.9 MiB 7.9 MiB 7.9 MiB  43 MiB  51 MiB",
        "",
        "The written working set is distinct pages in any window of that length, at its",
        "  largest.",
        "It was watched for 12.0 s: a window of 60 s holds all of that.",
        "What was written to memory that was unmapped before the next look is not in it.",
        "What it wrote in its last 0.25 s, after the last look, is not in it.",
        "It shares memory with others: what they write is not seen.",
    ]


def test_small_mappings_are_told_together() -> None:
    many = [mapping(f"m{number:02}", number * 100, number * 100 + 50) for number in range(30)]
    lines = told(
        [epoch(0, many, *((number * 100, number * 100 + 30 - number) for number in range(30)))], Ending("x")
    )
    assert lines[4].split()[:2] == ["m00", "30"]
    assert lines[16].split()[:3] == ["18", "more", "171"]
    assert lines[17].split()[:2] == ["all", "465"]


def test_large_processes_have_tables_and_small_ones_a_line() -> None:
    epochs = [
        epoch(0, [HEAP], (100, 1100)),
        epoch(0, [HEAP], (100, 900), pid=4712, command="worker"),
        epoch(0, [HEAP], (100, 105), pid=4713, command="sh"),
    ]
    lines = told(epochs, Ending("exit status 0", n_forgotten=2, n_forgotten_pages=7))
    text = "\n".join(lines)
    assert "redis-server (4711): 1.0 s in 1 epoch\n" in text
    assert "worker (4712): 1.0 s in 1 epoch\n" in text
    assert [line.split()[:3] for line in lines if line.startswith("sh ")] == [["sh", "(4713)", "5"]]
    assert [line.split() for line in lines if line.startswith("2 more")] == [["2", "more", "7"]]
    assert "5 programs watched; the first process: exit status 0" in lines


def test_what_was_assumed_is_said() -> None:
    lines = told([epoch(0, [HEAP], (100, 200), assumed=runs((300, 400)))], Ending("x"))
    assert "≤: 100 of the pages are assumed to be written, not seen." in lines
    assert any(line.startswith("≤ all") for line in lines)


def test_a_program_that_was_too_quick_is_said() -> None:
    assert told([], Ending("exit status 0"))[-1].startswith("It ended before the first look")


@pytest.mark.parametrize("width", [80, 97, 120])
def test_the_summary_fits(width: int) -> None:
    lines = told(
        [epoch(0, [HEAP, ARENA, LIBC], (100, 80_000), (400_000, 400_010), notes=("x " * 200,))],
        Ending("x"),
        width,
    )
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "exit status 0"), (3, "exit status 3"), (-15, "killed by SIGTERM"), (-99, "killed by signal 99")],
)
def test_outcomes(status: int, text: str) -> None:
    assert outcome_text(status) == text


# ---- telling -------------------------------------------------------------------------------------


class Latin(io.StringIO):
    encoding = "latin-1"


def test_a_stream_without_unicode_gets_signs_that_it_has() -> None:
    stream = Latin()
    tell = teller(stream, as_json=False, quiet=False)
    tell.epoch([epoch(0, [HEAP], assumed=runs((100, 200)))], MadeUpTracker([]))
    assert "<100" in stream.getvalue()


def test_nobody_listening_is_no_error() -> None:
    stream = io.StringIO()
    stream.close()
    for as_json in (False, True):
        tell = teller(stream, as_json=as_json, quiet=False)
        tell.start(MadeUpTracker([]))
        tell.epoch([epoch(0, [HEAP], (100, 200))], MadeUpTracker([]))
        tell.summary(Book(), 0, 0.0)


def test_every_line_of_json_is_an_object() -> None:
    stream, book = io.StringIO(), Book()
    tell = teller(stream, as_json=True, quiet=False)
    tell.start(MadeUpTracker([]))
    rounds = [[epoch(number, [HEAP, ARENA], (100, 110), (200_000, 200_001))] for number in range(2)]
    for round_ in rounds:
        book.add(round_)
        tell.epoch(round_, MadeUpTracker([]))
    tell.problem("something")
    tell.summary(book, -9, 0.5)
    objects: list[dict[str, Any]] = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [one["event"] for one in objects] == ["start", "epoch", "epoch", "problem", "summary"]
    first, last = objects[1], objects[-1]
    assert (first["pages"], first["bytes"], first["bytes_per_s"]) == (11, 11 * PAGE, 11 * PAGE)
    assert [part["name"] for part in first["mappings"]] == ["[heap]", "[anonymous]"]
    assert (last["exit_status"], last["unseen_at_the_end_s"]) == (-9, 0.5)
    assert last["processes"][0]["mappings"][0]["distinct_pages"] == 10
    assert last["processes"][0]["working_set_pages_peak"] == [11, 11, 11]


# ---- the command on a made-up tracker ------------------------------------------------------------


def with_tracker(monkeypatch: pytest.MonkeyPatch, tracker: MadeUpTracker) -> None:
    monkeypatch.setattr(run_module, "launch_program", lambda *_args, **_keywords: tracker)


def epochs(n: int = 3) -> list[ProcessWrites]:
    return [epoch(number, [HEAP], (100, 200)) for number in range(n)]


@pytest.mark.parametrize(("status", "code"), [(0, 0), (7, 7), (-9, 137), (-15, 143)])
def test_the_exit_status_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, code: int
) -> None:
    tracker = MadeUpTracker(epochs(), pid=os.getpid(), exit_status=status)
    with_tracker(monkeypatch, tracker)
    assert cli.run(["run", "--", "anything"]) == code
    assert tracker.closed
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split()[:3] for line in captured.err.splitlines() if line.startswith("ww")] == [
        ["ww", "time", "pages"], ["ww", "1.0", "s"], ["ww", "2.0", "s"], ["ww", "3.0", "s"],
    ]  # fmt: skip


def test_quietly_there_is_the_summary_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_tracker(monkeypatch, MadeUpTracker(epochs(), pid=os.getpid()))
    assert cli.run(["run", "--quiet", "anything"]) == 0
    told = capsys.readouterr().err
    assert "ww " not in told
    assert "redis-server (4711): 3.0 s in 3 epochs, exit status 0" in told


def test_a_log_has_it_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with_tracker(monkeypatch, MadeUpTracker(epochs(), pid=os.getpid()))
    assert cli.run(["run", "--json", "--log", str(tmp_path / "log"), "anything"]) == 0
    assert capsys.readouterr() == ("", "")
    assert [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()] == [
        "start", "epoch", "epoch", "epoch", "summary",
    ]  # fmt: skip


def test_a_failure_to_watch_leaves_the_program_and_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = MadeUpTracker(epochs(1), pid=os.getpid(), exit_status=5)

    def fail() -> None:
        raise TraceError("the disk is full")

    monkeypatch.setattr(tracker, "collect", fail)
    with_tracker(monkeypatch, tracker)
    assert cli.run(["run", "anything"]) == 5
    assert "writewatch: watching ended: the disk is full; the program runs on\n" in capsys.readouterr().err


def trace_writer() -> Any:
    """The module that writes traces."""
    return pytest.importorskip(
        "writewatch.observe.trace.writer",
        reason="pyarrow, which writes traces, is missing",
        exc_type=ImportError,
    )


def test_a_trace_that_cannot_be_written_ends_alone_and_what_is_written_is_still_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    writer = trace_writer()

    def full(*_: object) -> None:
        raise TraceError("the trace x cannot be written: No space left on device")

    monkeypatch.setattr(writer.TraceWriter, "add", full)
    with_tracker(monkeypatch, MadeUpTracker(epochs(), pid=os.getpid(), exit_status=5))
    assert cli.run(["run", "--json", "-o", str(tmp_path / "trace"), "anything"]) == 5
    told = capsys.readouterr().err
    assert told.count("recording ended: the trace x cannot be written: No space left on device") == 1
    assert told.count('"event": "epoch"') == 3


def test_a_trace_that_cannot_be_finished_costs_no_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    writer = trace_writer()
    close = writer.TraceWriter.close

    def full(this: Any) -> None:
        close(this)
        raise TraceError("the trace x cannot be finished: No space left on device")

    monkeypatch.setattr(writer.TraceWriter, "close", full)
    with_tracker(monkeypatch, MadeUpTracker(epochs(1), pid=os.getpid(), exit_status=5))
    assert cli.run(["run", "--quiet", "-o", str(tmp_path / "trace"), "anything"]) == 5
    assert "writewatch: the trace x cannot be finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("no-such-program-at-all", 127, "no-such-program-at-all: command not found; give a path or add its"),
        ("./no-such-program", 127, "./no-such-program: no such file; name a program"),
        ("{file}", 126, "{file} is not executable; chmod +x it, or name its interpreter"),
        ("{folder}", 126, "{folder} is a directory; name a program"),
    ],
)
def test_what_cannot_be_run(
    name: str, code: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("x")
    names = {"file": tmp_path / "text", "folder": tmp_path}
    assert cli.run(["run", "--", name.format(**names)]) == code
    told = capsys.readouterr().err
    assert told.startswith(f"writewatch: {sentence.format(**names)}")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        *(["run", "--interval", word, "true"] for word in ("0", "-1", "nan", "inf", "soon")),
        *(["run", "--budget", word, "true"] for word in ("0", "2", "nan")),
    ],
)
def test_misuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    assert capsys.readouterr().err.endswith("see writewatch run --help\n")


# ---- real programs -------------------------------------------------------------------------------

WRITER = """
import mmap, sys, time
memory = mmap.mmap(-1, 400 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for step in range(5):
    for page in range(40):
        memory[4096 * (40 * step + page)] = 1
    sys.stdin.readline()
print("its own words")
print("its own complaint", file=sys.stderr)
sys.exit(7)
"""


def writewatch(*words: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "writewatch", "run", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **keywords)


def test_a_program_keeps_its_streams_and_its_status() -> None:
    needs_attaching()
    done = writewatch("--interval", "0.05", "--", sys.executable, "-c", WRITER, input="\n" * 5)
    assert done.stdout == "its own words\n"
    assert "its own complaint\n" in done.stderr
    assert done.returncode == 7
    assert "exit status 7" in done.stderr


def test_what_a_program_writes_is_counted_from_its_first_instruction(tmp_path: Path) -> None:
    needs_attaching()
    log = tmp_path / "log"
    os.mkfifo(log)
    command = [sys.executable, "-m", "writewatch", "run", "--json", "--log", str(log), "--interval", "0.02"]
    with subprocess.Popen(
        [*command, sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdin is not None
        with log.open() as lines:
            for _ in range(5):
                following(lines, "epoch")
                following(lines, "epoch")  # this one began after the step before it
                child.stdin.write("\n")
                child.stdin.flush()
            last = following(lines, "summary")
    assert last["exit_status"] == 7
    (process,) = last["processes"]
    assert any(one["distinct_pages"] >= 200 for one in process["mappings"])


def following(lines: Iterable[str], event: str) -> dict[str, Any]:
    """The next object of this kind."""
    found: dict[str, Any] = next(one for one in map(json.loads, lines) if one["event"] == event)
    return found


def test_a_program_shorter_than_an_interval_has_its_figures() -> None:
    needs_attaching()
    done = writewatch("--interval", "3600", "--", sys.executable, "-c", "x = bytearray(b'x') * (4 << 20)")
    assert done.returncode == 0
    assert "in 1 epoch, exit status 0" in done.stderr
    assert "after the last look" not in done.stderr
    done = writewatch("--json", "--interval", "3600", "--", "sh", "-c", "true & wait; kill -9 $$")
    *_, last = map(json.loads, done.stderr.splitlines())
    assert (last["exit_status"], last["unseen_at_the_end_s"]) == (-9, 0.0)
    assert len(last["processes"]) == 2
    assert all(one["epochs"] == 1 for one in last["processes"])


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("exec sh -c 'exit 4'", 4)],
)
def test_shells_end_as_they_would_without_us(script: str, code: int) -> None:
    needs_attaching()
    assert writewatch("--quiet", "--", "sh", "-c", script).returncode == code


def test_a_file_that_no_kernel_can_execute_is_126(tmp_path: Path) -> None:
    needs_attaching()
    odd = tmp_path / "odd"
    odd.write_bytes(b"\x7fNOT ELF")
    odd.chmod(0o755)
    done = writewatch("--", str(odd))
    assert done.returncode == 126
    assert done.stderr.startswith(
        f"writewatch: {odd} cannot be executed: no program of this machine, and no #! line;"
    )
    assert done.stderr.endswith("; name its interpreter before it\n")


def test_a_script_whose_interpreter_is_missing_says_so(tmp_path: Path) -> None:
    needs_attaching()
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    done = writewatch("--", str(script))
    assert done.returncode == 127
    assert (
        done.stderr
        == f"writewatch: {script} cannot be executed: its interpreter is missing; name one before it\n"
    )


def test_a_program_starts_with_the_signals_of_a_shell() -> None:
    needs_attaching()
    done = writewatch("--quiet", "--", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    plain = subprocess.run(
        ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"], capture_output=True, text=True
    )
    assert done.stdout == plain.stdout


def test_a_signal_to_us_reaches_the_program_and_the_summary_is_told() -> None:
    needs_attaching()
    program = (
        "import signal, sys; signal.signal(15, lambda *_: sys.exit(9)); print('ready', flush=True); input()"
    )
    command = [sys.executable, "-m", "writewatch", "run", "--quiet", "--", sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=60)  # before its input is closed, which would end it as well
        _, told = child.communicate()
    assert child.returncode == 9
    assert "exit status 9" in told


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_was_closed_costs_no_status(closed: str) -> None:
    needs_attaching()
    script = f'"$0" -m writewatch run --quiet -- sh -c "exit 7" {closed}'
    done = subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, text=True, timeout=60)
    assert done.returncode == 7
    assert "Traceback" not in done.stderr


def test_a_log_on_a_full_disk_costs_no_status() -> None:
    needs_attaching()
    done = writewatch("--log", "/dev/full", "--", "sh", "-c", "exit 7")
    assert done.returncode == 7
    assert done.stderr == "writewatch: the log /dev/full is not complete: No space left on device\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_to_the_whole_group_leaves_us_to_tell_the_end(number: signal.Signals) -> None:
    needs_attaching()
    program = "print('ready', flush=True); input()"
    command = [sys.executable, "-m", "writewatch", "run", "--quiet", "--", sys.executable, "-c", program]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        os.killpg(child.pid, number)
        _, told = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert f"killed by {number.name}" in told


def test_children_are_watched_too() -> None:
    needs_attaching()
    child = "x = bytearray(2 << 20); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], stdin=sys.stdin)"
    command = [sys.executable, "-m", "writewatch", "run", "--json", "--interval", "0.05", "--"]
    with subprocess.Popen(
        [*command, sys.executable, "-c", parent], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        pids: set[int] = set()
        while len(pids) < 2:
            found = json.loads(running.stderr.readline())
            pids |= {found["pid"]} if found["event"] == "epoch" else set()
        running.communicate("\n", timeout=60)
    assert running.returncode == 0


def test_a_trace_is_recorded_beside(tmp_path: Path) -> None:
    needs_attaching()
    pytest.importorskip("pyarrow", reason="traces need pyarrow, which is not installed here")
    from writewatch.observe.trace.reader import open_trace

    words = ["--json", "--interval", "0.05", "-o", str(tmp_path / "trace"), sys.executable, "-c", "input()"]
    command = [sys.executable, "-m", "writewatch", "run", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        first = following(child.stderr, "epoch")
        child.communicate("\n", timeout=60)
    assert child.returncode == 0
    epochs = [row for block in open_trace(tmp_path / "trace").blocks() for row in block.epochs.tolist()]
    assert epochs[0][0] == first["pid"]

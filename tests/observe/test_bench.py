"""The benchmark harness: that it measures what it says. Nothing here is about how long anything took."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.processes import children
from writewatch.observe.benchmark import peers as peers_module
from writewatch.observe.benchmark.collecting import ASYNC, backend_here
from writewatch.observe.benchmark.content import COMPARE, COPY, brute_force
from writewatch.observe.benchmark.memory import PAGE, Memory, allocate, choose_pages
from writewatch.observe.benchmark.peers import MECHANISMS, Peers, PeersUnavailable, build
from writewatch.observe.benchmark.run import N_STEPS, Report, fitting_bytes, measure
from writewatch.observe.benchmark.timing import Effort, Spread, interleave, paired_ratio, timed
from writewatch.observe.benchmark.writes import UNTRACKED, first_writes
from writewatch.observe.commands.bench import bench
from writewatch.observe.reporters.bench import as_values, duration, size

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
ONCE = Effort(warmups=0, least=1, most=1)


@pytest.fixture(scope="module")
def peers() -> Peers:
    try:
        return build()
    except PeersUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def memory() -> Memory:
    return allocate(2 * MIB, "4k")


@pytest.fixture
def pagemap() -> Iterator[int]:
    try:
        fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    except OSError as error:
        pytest.skip(f"/proc/self/pagemap cannot be opened here: {error.strerror}")
    yield fd
    os.close(fd)


# ---- timing --------------------------------------------------------------------------------------


def test_a_spread_is_median_and_quartiles() -> None:
    assert Spread.of([4, 1, 5, 2, 3]) == Spread(median=3, low=2, high=4, runs=5)


def test_one_run_is_its_own_spread() -> None:
    assert Spread.of([7]) == Spread(7, 7, 7, 1)


def test_a_scaled_spread_keeps_its_runs() -> None:
    assert Spread(2, 1, 4, 9).scaled(0.5) == Spread(1, 0.5, 2, 9)


def test_subjects_take_turns_and_warmups_are_not_counted() -> None:
    order: list[str] = []

    def subject(name: str) -> int:
        order.append(name)
        return len(order)

    effort = Effort(warmups=1, least=2, most=2)
    taken = interleave({"a": lambda: subject("a"), "b": lambda: subject("b")}, effort)
    assert order == ["a", "b"] * 3
    assert taken == {"a": [3, 5], "b": [4, 6]}


def test_rounds_end_when_the_time_is_up_but_not_before_the_least() -> None:
    taken = interleave({"a": lambda: 1}, Effort(warmups=0, least=3, most=1000, seconds=0))
    assert len(taken["a"]) == 3


def test_a_ratio_pairs_runs_of_one_round() -> None:
    drifting = [10, 20, 40]
    assert paired_ratio([30, 60, 120], drifting) == Spread(3, 3, 3, 3)


def test_timed_calls_once() -> None:
    calls: list[int] = []
    assert timed(lambda: calls.append(1)) >= 0
    assert calls == [1]


# ---- memory --------------------------------------------------------------------------------------


def test_memory_is_whole_pages_and_populated(memory: Memory, pagemap: int) -> None:
    assert memory.start % PAGE == 0
    assert memory.n_pages * PAGE == len(memory.buffer) == 2 * MIB
    entries = np.frombuffer(os.pread(pagemap, 8 * memory.n_pages, memory.start // PAGE * 8), np.uint64)
    assert (entries >> np.uint64(63)).all()


def test_touch_changes_a_byte_of_each_page_and_nothing_else(memory: Memory) -> None:
    before = memory.buffer.copy()
    memory.touch(np.array([7, 3]))
    changed = np.flatnonzero(memory.buffer != before)
    assert changed.tolist() == [3 * PAGE, 7 * PAGE]


@pytest.mark.parametrize("pattern", ["random", "contiguous"])
@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (1e-9, 1), (0.1, 100), (1.0, 1000)])
def test_chosen_pages_are_distinct_and_as_many_as_asked(pattern: str, fraction: float, count: int) -> None:
    pages = choose_pages(1000, fraction, pattern)  # type: ignore[arg-type]
    assert len(np.unique(pages)) == len(pages) == count
    assert ((pages >= 0) & (pages < 1000)).all()


def test_contiguous_pages_are_one_run() -> None:
    pages = choose_pages(1000, 0.1, "contiguous")
    assert (np.diff(pages) == 1).all()


# ---- C -------------------------------------------------------------------------------------------


def test_c_touches_like_python(peers: Peers, memory: Memory) -> None:
    before = memory.buffer.copy()
    peers.touch(memory, np.array([5, 1]))
    assert np.flatnonzero(memory.buffer != before).tolist() == [PAGE, 5 * PAGE]


def test_c_counts_the_pages_that_differ_from_a_copy(peers: Peers, memory: Memory) -> None:
    copy = memory.buffer.copy()
    memory.touch(np.array([0, 9, 511]))
    peers.compare(memory, copy)
    assert peers.found == 3
    peers.copy(memory, copy)
    peers.compare(memory, copy)
    assert peers.found == 0


def test_c_collects_what_was_written_and_protects_it_again(
    peers: Peers, memory: Memory, pagemap: int
) -> None:
    _skip_unless(peers, memory, "uffd-wp async")
    with peers.watching("uffd-wp async", memory):
        peers.is_clean(pagemap, memory)
        assert peers.found == 0
        memory.touch(np.array([4, 5, 100]))
        peers.is_clean(pagemap, memory)
        assert peers.found == 1
        peers.collect(pagemap, memory)
        pages = [(int(start), int(end)) for start, end, _ in (peers.regions.tolist())]
        at = memory.start
        assert pages == [(at + 4 * PAGE, at + 6 * PAGE), (at + 100 * PAGE, at + 101 * PAGE)]
        peers.is_clean(pagemap, memory)
        assert peers.found == 0


def test_c_refuses_memory_that_is_not_registered(peers: Peers, memory: Memory, pagemap: int) -> None:
    _skip_unless(peers, memory, "uffd-wp async")
    with pytest.raises(PermissionError):
        peers.collect(pagemap, memory)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_mechanism_lets_the_writes_through_and_leaves_no_trace(
    peers: Peers, memory: Memory, mechanism: str
) -> None:
    _skip_unless(peers, memory, mechanism)
    handler = signal.getsignal(signal.SIGSEGV)
    descriptors = set(os.listdir("/proc/self/fd"))
    others = children()
    before = memory.buffer.copy()
    with peers.watching(mechanism, memory):
        peers.touch(memory, np.array([0, 3, 511]))
    assert np.flatnonzero(memory.buffer != before).tolist() == [0, 3 * PAGE, 511 * PAGE]
    memory.touch(np.arange(memory.n_pages))  # would fault or hang on a page that was left protected
    assert signal.getsignal(signal.SIGSEGV) == handler
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert children() <= others


def _skip_unless(peers: Peers, memory: Memory, mechanism: str) -> None:
    try:
        with peers.watching(mechanism, memory):
            return
    except OSError as error:
        pytest.skip(f"the kernel refuses {mechanism}: {error.strerror}")


def test_without_a_compiler_the_sentence_names_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(PeersUnavailable, match="no C compiler; install gcc or set CC"):
        build()


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(PeersUnavailable, match="false cannot compile them"):
        build()


# ---- measurements --------------------------------------------------------------------------------


def test_first_writes_measure_a_plain_store_and_each_mechanism(peers: Peers, memory: Memory) -> None:
    found, refused = first_writes(peers, memory, effort=ONCE)
    names = [one.mechanism for one in found]
    assert UNTRACKED in names
    assert len(names) + len(refused) == 1 + len(MECHANISMS)
    medians = [one.page_ns.median for one in found]
    assert medians == sorted(medians)


def test_brute_force_without_c_still_copies(memory: Memory) -> None:
    ways, _ = brute_force(None, memory, ONCE)
    assert COPY in [way.name for way in ways]
    assert COMPARE not in [way.name for way in ways]


def test_a_missing_hash_is_named_with_its_mend(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xxhash", None)
    _, missing = brute_force(None, memory, ONCE)
    assert missing == ("XXH3 is skipped: xxhash is not installed; pip install 'writewatch[fast]'.",)


def test_a_size_that_does_not_fit_is_cut_to_whole_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("writewatch.observe.benchmark.run.available_bytes", lambda: 3 * MIB + 30)
    assert fitting_bytes(1 << 30) == MIB
    assert fitting_bytes(MIB // 2) == MIB // 2


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing once."""
    monkeypatch.setattr("writewatch.observe.benchmark.run.EFFORT", ONCE)


@pytest.mark.usefixtures("quick")
def test_a_run_tells_each_step_and_reports_every_fraction() -> None:
    steps: list[str] = []
    report = measure(2 * MIB, steps.append)
    assert len(steps) == N_STEPS
    assert [one.workload.fraction for one in report.collects] == [0.0, 0.001, 0.01, 0.1, 1.0]
    assert [one.n_pages for one in report.collects] == [0, 1, 5, 51, 512]
    assert report.backend == backend_here()[0]
    _check_c_is_beside_exactly_where_it_can_be(report)


def _check_c_is_beside_exactly_where_it_can_be(report: Report) -> None:
    has_c = not any("C peers are skipped" in note for note in report.notes)
    for one in (report.is_clean, *report.collects):
        assert (one.ratio is not None) == (one.c_ns is not None) == (has_c and report.backend == ASYNC)


@pytest.mark.usefixtures("quick")
def test_a_run_without_a_compiler_shows_what_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> list[str]:
        raise PeersUnavailable("no C here")

    monkeypatch.setattr(peers_module, "find_compiler", nobody)
    report = measure(2 * MIB)
    assert "no C here" in report.notes
    assert report.first_writes == ()
    assert report.is_clean.c_ns is None
    assert report.is_clean.ours_ns.median > 0


@pytest.mark.usefixtures("quick")
def test_the_command_prints_a_table_and_every_note() -> None:
    result = CliRunner().invoke(bench, ["--size", "2MiB"])
    assert result.exit_code == 0, result.output
    assert "What was written since last time?" in result.output
    assert "collect, 1 % random (5)" in result.output
    assert "2 MiB of 4 KiB pages" in result.output or PAGE != 4096


@pytest.mark.usefixtures("quick")
def test_the_command_prints_one_json_object() -> None:
    result = CliRunner().invoke(bench, ["--size", "2m", "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert set(values) == {
        "machine",
        "backend",
        "size_bytes",
        "is_clean",
        "collects",
        "first_writes",
        "brute_force",
        "notes",
        "is_clean_times_cheaper_than_xxh3",
    }
    assert values["size_bytes"] == 2 * MIB
    assert set(values["collects"][0]) == {
        "operation",
        "workload",
        "n_pages",
        "ours_ns",
        "c_ns",
        "ratio",
        "read_ns",
        "read_ratio",
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("big", "write it like 256MiB or 1GiB"), ("4k", "ask for 1MiB or more"), ("-1", "write it like")],
)
def test_a_size_that_cannot_be_used_is_a_usage_error(text: str, sentence: str) -> None:
    result = CliRunner().invoke(bench, [f"--size={text}"])
    assert result.exit_code == 2
    assert sentence in result.output


@pytest.mark.usefixtures("quick")
def test_json_values_are_plain() -> None:
    values = as_values(measure(2 * MIB))
    assert json.loads(json.dumps(values))["backend"] == values["backend"]


# ---- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ns", "text"),
    [(17, "17 ns"), (1234, "1.23 µs"), (261_989, "262 µs"), (9_083_909, "9.08 ms"), (2e9, "2 s")],
)
def test_durations_have_three_digits_and_a_unit_that_fits(ns: float, text: str) -> None:
    assert duration(ns) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(1000, "1000 bytes"), (16 << 10, "16 KiB"), (3 * MIB // 2, "1536 KiB"), (4 << 30, "4 GiB")],
)
def test_sizes_are_whole_numbers_of_a_binary_unit(n_bytes: int, text: str) -> None:
    assert size(n_bytes) == text


# ---- python -m benchmarks ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What ``python -m benchmarks --tiny`` prints, and what it writes."""
    directory = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "benchmarks", "--tiny", "--output", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = directory.glob("*.json")
    return done.stdout, json.loads(path.read_text(encoding="utf-8"))


def test_the_benchmarks_end_with_a_line_for_each_budget(tiny_run: tuple[str, dict[str, Any]]) -> None:
    output, _ = tiny_run
    table = output[output.index("Budgets") :]
    for words in (
        "collect, 4 MiB, 1 % random pages / the same in C",
        "is_clean, 4 MiB / the same in C",
        "XXH3 over 4 MiB / is_clean",
        "rewrite everything, tracked / untracked",
        "collect, 20 arrays of 16 KiB / one buffer",
        "memory of a tracker, any pattern",
        "import writewatch",
    ):
        assert words in table


def test_the_benchmarks_write_every_part_as_json(tiny_run: tuple[str, dict[str, Any]]) -> None:
    _, values = tiny_run
    assert values["schema"] == 1
    assert {line["verdict"] for line in values["budgets"]} <= {"within", "over", "not measured"}
    assert [one["layout"] for one in values["many_buffers"]] == ["heap", "apart"]
    assert {one["pattern"] for one in values["footprints"]} >= {"nothing", "every other page", "everything"}
    assert values["imports"][0]["optional"] == []
    assert {one["name"] for one in values["backends"]} >= {"content-hash", "every-page"}

"""``profile()``: what it finds of this process, of buffers, and how it shows it."""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

import writewatch as ww
from tests.observe.needs import needs_userfaultfd
from tests.observe.watch.made_up import epoch, mapping, runs
from tests.processes import children
from writewatch.errors import KernelUnsupportedError, TrackingLostError, UsageError
from writewatch.observe.profile import kept as kept_module
from writewatch.observe.profile import own as own_module
from writewatch.observe.profile.kept import Kept, merged
from writewatch.observe.profile.result import Profile, profile
from writewatch.observe.profile.some import mappings_of
from writewatch.observe.reporters.profile import as_html, heatmap_svg
from writewatch.observe.watch.account import Account
from writewatch.pages import expand, total

PAGE = mmap.PAGESIZE


def pages_of(memory: mmap.mmap) -> int:
    return np.frombuffer(memory, np.uint8).ctypes.data // PAGE


def written(found: Profile) -> set[int]:
    return {page for one in found.epochs for page in expand(one.page_runs).tolist()}


# ---- the whole process ---------------------------------------------------------------------------


def test_every_page_that_was_written_is_in_it() -> None:
    needs_userfaultfd()
    memory = mmap.mmap(-1, 500 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = bytes(len(memory))
    first = pages_of(memory)
    with ww.profile(interval=0.01) as found:
        for page in range(0, 500, 5):
            memory[page * PAGE] = 1
    inside = {page - first for page in written(found) if first <= page < first + 500}
    assert inside == set(range(0, 500, 5))
    assert found.exact or found.figures.n_assumed
    assert found.n_pages >= 100
    assert any(one.mapping.start <= first * PAGE < one.mapping.end for one in found.by_mapping())


def busy() -> None:
    """Some tenths of a second in which little of this process is written."""
    for _ in range(8):
        subprocess.run([sys.executable, "-c", "import json"], check=True)


def test_looking_often_is_not_seen_in_what_was_written() -> None:
    needs_userfaultfd()
    with ww.profile(interval=0.005, budget=None) as often:
        busy()
    with ww.profile(interval=1000) as once:
        busy()
    assert len(often.epochs) > len(once.epochs)
    assert often.figures.counts.n_distinct < 2 * once.figures.counts.n_distinct + 200


def test_epochs_follow_each_other() -> None:
    needs_userfaultfd()
    with profile(interval=0.01) as found:
        busy()
    assert all(a.ended_ns == b.started_ns for a, b in pairwise(found.epochs))
    assert found.elapsed_s > 0
    assert {one.pid for one in found.epochs} == {os.getpid()}


def test_buffers_of_a_tracker_are_named_and_stay_the_trackers() -> None:
    needs_userfaultfd()
    table = ww.allocate((64, PAGE), "u1")
    with ww.track(table, backend="uffd-wp") as tracker:
        with profile(interval=0.01) as found:
            table[3] = 1
        start = table.ctypes.data
        assert any(one.start <= start < one.end for one in found.not_included)
        assert "userfaultfd" in repr(found)
        assert tracker.collect().pages(table).tolist() == [3]


def test_a_profile_inside_of_another_is_refused() -> None:
    needs_userfaultfd()
    with (
        ww.profile(),
        pytest.raises(ww.AttachError, match="watched already, by another profile"),
        ww.profile(),
    ):
        pass


def test_a_fork_inside_takes_no_profile_away() -> None:
    needs_userfaultfd()
    with ww.profile() as found:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                found.__exit__(None, None, None)
            except TrackingLostError as error:
                status = 0 if "was forked from" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert found.n_pages


def test_an_exception_passes_and_the_profile_is_complete() -> None:
    needs_userfaultfd()
    found = profile()
    with pytest.raises(ZeroDivisionError), found:
        raise ZeroDivisionError
    assert found.epochs


def test_no_process_and_no_descriptor_is_left() -> None:
    needs_userfaultfd()
    with profile():
        pass
    gc.collect()
    before = children(), len(os.listdir("/proc/self/fd"))
    with profile():
        pass
    assert (children(), len(os.listdir("/proc/self/fd"))) == before


def test_a_helper_that_was_killed_is_an_error_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_userfaultfd()
    started = []
    start = own_module._start

    def keep(fd: int) -> subprocess.Popen[bytes]:
        started.append(start(fd))
        return started[-1]

    monkeypatch.setattr(own_module, "_start", keep)
    found = profile()
    found.__enter__()
    started[0].kill()
    started[0].wait()
    with pytest.raises(TrackingLostError, match="ended early"):
        found.__exit__(None, None, None)
    with profile() as again:
        pass
    assert again.epochs


def test_without_userfaultfd_it_names_the_way_that_works() -> None:
    code = (
        "import writewatch as ww\n"
        "try:\n    ww.profile().__enter__()\n"
        "except ww.KernelUnsupportedError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "WRITEWATCH_HIDE": "wp_async"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("a whole process is watched by userfaultfd alone: ")
    assert "profile(buffer, …) watches buffers by other means" in done.stdout


# ---- buffers -------------------------------------------------------------------------------------


def test_buffers_are_told_apart() -> None:
    left, right = ww.allocate((100, PAGE), "u1"), ww.allocate((50, PAGE), "u1")
    with profile(left, right, interval=0.01) as found:
        left[10:15] = 1
        right[7] = 1
    sums = {one.mapping.start: one.counts.n_distinct for one in found.by_mapping()}
    if found.exact:
        assert sums == {left.ctypes.data: 5, right.ctypes.data: 1}
    else:  # another backend than uffd-wp reports more
        assert sums[left.ctypes.data] >= 5


def test_a_backend_without_userfaultfd_will_do_for_buffers() -> None:
    code = (
        "import writewatch as ww\n"
        "a = ww.allocate((100, 4096), 'u1')\n"
        "with ww.profile(a, interval=0.01) as p:\n    a[5] = 1\n"
        "print(p.epochs[0].backend, p.figures.counts.n_distinct >= 1)\n"
    )
    environment = {**os.environ, "WRITEWATCH_HIDE": "userfaultfd"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    backend, found = done.stdout.split()
    assert backend != "uffd-wp"
    assert found == "True"


def test_buffers_that_share_a_page_share_it_in_one_place() -> None:
    memory = mmap.mmap(-1, 10 * PAGE)
    bytes_ = np.frombuffer(memory, np.uint8)
    found = mappings_of([bytes_[5 * PAGE + 10 :], bytes_[: 5 * PAGE + 10], bytes_[:0]], PAGE)
    base = bytes_.ctypes.data
    assert [((one.start - base) // PAGE, (one.end - base) // PAGE) for one in found] == [(0, 6), (6, 10)]
    del bytes_


# ---- misuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_an_interval_is_above_zero(interval: float) -> None:
    with pytest.raises(UsageError, match="give a number above 0"):
        profile(interval=interval)


def test_a_profile_is_of_one_block() -> None:
    array = ww.allocate((4, PAGE), "u1")
    with profile(array) as found:
        with pytest.raises(UsageError, match="complete when its block"):
            _ = found.figures
        assert repr(found) == "<Profile, running>"
        assert "running" in found._repr_html_()
        with pytest.raises(UsageError, match="one block"):
            found.__enter__()
    with pytest.raises(UsageError, match="one block"):
        found.__enter__()


def test_what_cannot_be_tracked_is_refused_on_entry() -> None:
    with pytest.raises(UsageError):
        profile(b"constant").__enter__()
    assert repr(profile()) == "<Profile, not begun>"


def test_the_error_is_of_the_library() -> None:
    assert issubclass(KernelUnsupportedError, ww.WriteWatchError)
    assert ww.profile is profile


# ---- what is kept --------------------------------------------------------------------------------

HEAP = mapping("[heap]", 100, 9000, "heap")
ODD = mapping("<b>&amp;", 20_000, 20_100, unseen="Others <i>may</i> write it.")


def test_neighbours_are_merged_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "MOST_EPOCHS", 8)
    kept, now, number = Kept(1.0), 0.0, 0
    while now < 100:
        now += kept.interval_s
        page = 100 + number
        kept.add(epoch(number, [HEAP], (page, page + 1), seconds=kept.interval_s, ended_s=now))
        number += 1
    assert len(kept.epochs) <= 8
    assert {page for one in kept.epochs for page in expand(one.page_runs).tolist()} == set(
        range(100, 100 + number)
    )
    assert kept.epochs[0].started_ns == 0
    assert all(a.ended_ns == b.started_ns for a, b in pairwise(kept.epochs))
    assert all(kept.interval_s / 2 <= one.elapsed_s <= kept.interval_s for one in kept.epochs)


def test_few_epochs_with_many_runs_are_merged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "MOST_RUNS", 100)
    kept = Kept(0.1)
    for number in range(40):
        kept.add(epoch(number, [HEAP], *((page, page + 1) for page in range(100, 160, 2))))
    assert sum(len(one.page_runs) for one in kept.epochs) <= 100


def test_equal_mappings_are_held_once() -> None:
    kept = Kept(0.1)
    for number in range(50):
        kept.add(epoch(number, [mapping(f"m{each}", each * 10, each * 10 + 5) for each in range(200)]))
    assert len({id(one.mappings) for one in kept.epochs}) == 1
    assert len(pickle.dumps(kept.epochs)) < 100_000


def test_merging_keeps_what_was_seen_apart_from_what_was_assumed() -> None:
    first = epoch(0, [HEAP], (100, 110), assumed=runs((200, 210)))
    second = epoch(1, [HEAP], (200, 205), assumed=runs((105, 115)), exact=False, notes=("x",))
    one = merged(first, second)
    assert one.written.tolist() == [[100, 110], [200, 205]]
    assert one.assumed.tolist() == [[110, 115], [205, 210]]
    assert (one.epoch, one.started_ns, one.ended_ns) == (0, first.started_ns, second.ended_ns)
    assert (one.exact, one.notes, total(one.page_runs)) == (False, ("x",), 25)


# ---- pictures ------------------------------------------------------------------------------------


def made_up(n: int = 300) -> Profile:
    found = profile()
    found.epochs = tuple(
        epoch(
            number,
            [HEAP, ODD],
            (100 + 20 * number, 160 + 20 * number),
            (20_000, 20_001 + number % 7),
            seconds=0.1,
        )
        for number in range(n)
    )
    return found


class Checked(HTMLParser):
    """Every element is closed, and nothing comes from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        names = {name for name, _ in attrs}
        assert not names & {"src", "href", "xlink:href", "onload", "onclick"}
        assert tag not in {"script", "link", "img", "i", "b"}

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_picture_for_notebooks_is_complete_in_itself() -> None:
    checked = Checked()
    checked.feed(made_up()._repr_html_())
    assert checked.open == []
    text = " ".join(checked.text)
    assert "<b>&amp;" in text
    assert "Others <i>may</i> write it." in text


def test_the_heatmap_is_svg_and_does_not_grow_with_time() -> None:
    sizes = []
    for n in (200, 2000):
        found = made_up(n)
        text = heatmap_svg(found.figures, found.epochs)
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        sizes.append(len(text))
    assert sizes[1] < 2 * sizes[0]


def test_every_level_that_is_drawn_has_a_colour() -> None:
    found = made_up(20)
    assert 'fill=""' not in as_html(found.figures, found.epochs, ())


def test_the_text_is_a_table() -> None:
    lines = repr(made_up(10)).splitlines()
    assert lines[0] == (
        "Profile: 634 pages written in 1 s and 10 epochs, 988 KiB of distinct pages, 2.5 MiB/s"
    )
    assert [line.split()[0] for line in lines[3:6]] == ["[heap]", "<b>&amp;", "all"]
    assert lines[6] == "Not included: <b>&amp; at 0x4e20000, 400 KiB: Others <i>may</i> write it."
    assert max(map(len, lines)) <= 90


def test_a_profile_without_writes_can_be_shown() -> None:
    found = profile()
    found.epochs = (epoch(0, [HEAP]),)
    assert "0 pages written" in repr(found)
    checked = Checked()
    checked.feed(found._repr_html_())
    assert checked.open == []


def test_the_account_of_a_profile_is_that_of_its_epochs() -> None:
    found = made_up(30)
    account = Account()
    for one in found.epochs:
        account.add(one)
    assert found.figures == account.figures()

"""The loop and the book, on trackers that were made up."""

from __future__ import annotations

import pytest

from tests.observe.watch.made_up import MadeUpBudget, MadeUpTracker, epoch, mapping
from writewatch.observe.watch import book as book_module
from writewatch.observe.watch.book import Book
from writewatch.observe.watch.loop import collect_all, cost_share, period_s, watch

HEAP = mapping("[heap]", 100, 200, "heap")


def tracker(pid: int = 4711, n: int = 3, **keywords: object) -> MadeUpTracker:
    epochs = [epoch(number, [HEAP], (100, 101 + number), pid=pid) for number in range(n)]
    return MadeUpTracker(epochs, pid=pid, **keywords)  # type: ignore[arg-type]


def test_it_ends_with_the_process_and_its_last_epoch() -> None:
    one = tracker()
    rounds = list(watch(one, 2.0, clock=one.clock))
    assert [writes.epoch for (writes,) in rounds] == [0, 1, 2]
    assert one.waits == [2.0, 2.0, 2.0]


def test_the_time_of_a_round_is_part_of_the_interval() -> None:
    one = tracker()
    for _ in watch(one, 2.0, clock=one.clock):
        one.now += 0.5
    assert one.waits == [2.0, 1.5, 1.5]


def test_after_a_slow_reader_no_epoch_is_shorter_than_half_an_interval() -> None:
    one = tracker(n=4)
    for round_ in watch(one, 2.0, clock=one.clock):
        one.now += 7.0 if round_[0].epoch == 0 else 0.0
    assert one.waits == [2.0, 1.0, 2.0, 2.0]


def test_a_budget_makes_it_wait_longer() -> None:
    one = tracker(budget=MadeUpBudget(5.0))
    list(watch(one, 2.0, clock=one.clock))
    assert one.waits == [5.0, 5.0, 5.0]


def test_a_child_is_collected_after_its_parent_until_it_ends() -> None:
    one = tracker(children=(tracker(pid=4712, n=2),))
    rounds = list(watch(one, 1.0, clock=one.clock))
    assert [[writes.pid for writes in round_] for round_ in rounds] == [[4711, 4712], [4711, 4712], [4711]]


def test_a_process_that_is_gone_has_nothing_to_tell() -> None:
    assert collect_all(tracker(n=0)) == ()


def test_the_child_that_needs_most_time_decides_and_costs_add_up() -> None:
    one = tracker(
        budget=MadeUpBudget(1.0, cost_share=0.02),
        children=(tracker(budget=MadeUpBudget(9.0, cost_share=0.03), pid=4712),),
    )
    assert period_s(one, 2.0) == 9.0
    assert cost_share(one, collect_all(one)) == 0.05


def test_a_process_that_lived_for_a_moment_costs_for_a_moment() -> None:
    short = [
        MadeUpTracker(
            [epoch(0, [HEAP], seconds=0.01, ended_s=0.5, pid=pid)],
            pid=pid,
            budget=MadeUpBudget(cost_share=0.25),
        )
        for pid in range(5000, 5100)
    ]
    one = tracker(budget=MadeUpBudget(cost_share=0.02), children=tuple(short))
    assert cost_share(one, collect_all(one)) == pytest.approx(0.02 + 100 * 0.25 * 0.01)
    assert cost_share(one, ()) == 0.02


def test_a_program_that_exec_made_is_an_account_of_its_own() -> None:
    book = Book()
    book.add([epoch(0, [HEAP], (100, 110), command="sh")])
    book.add([epoch(1, [HEAP], (100, 110), command="sh")])
    book.add([epoch(0, [HEAP], (100, 105), command="redis-server")])
    assert [(one.command, one.counts.n_pages) for one in book.figures()] == [("sh", 20), ("redis-server", 5)]
    assert [one.command for one in book.running()] == ["redis-server"]


def test_a_process_is_over_with_the_epoch_that_is_its_last() -> None:
    book = Book()
    book.add([epoch(0, [HEAP], (100, 110)), epoch(0, [HEAP], (100, 105), pid=4712)])
    assert book.unseen_since_ns(4711) == 10**9
    book.add([epoch(1, [HEAP], (100, 110), is_last=True)])
    assert book.unseen_since_ns(4711) == 0
    assert [one.pid for one in book.running()] == [4712]
    assert [one.counts.n_pages for one in book.figures()] == [20, 5]


class _Programs(MadeUpTracker):
    """Ends while several programs of it are still to be reported, one a collect."""

    def wait(self, timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        self.now += timeout_s
        return True


def test_when_it_has_ended_all_that_is_left_is_collected() -> None:
    programs = [epoch(0, [HEAP], (100, 101), command=name) for name in ("sh", "env", "true")]
    child = _Programs([epoch(0, [HEAP], pid=4712) for _ in range(5)], pid=4712)
    one = _Programs(programs, children=(child,))
    rounds = list(watch(one, 2.0, clock=one.clock))
    assert [[writes.pid for writes in round_] for round_ in rounds] == [[4711, 4712]] * 3 + [[4712]] * 2
    assert [writes.command for round_ in rounds for writes in round_ if writes.pid == 4711] == [
        *("sh", "env", "true")
    ]


def test_of_children_that_run_on_nothing_is_collected_after_the_end() -> None:
    class Daemon(MadeUpTracker):
        def wait(self, timeout_s: float) -> bool:
            return False

    one = tracker(n=1, children=(Daemon([epoch(n, [HEAP], pid=4712) for n in range(9)], pid=4712),))
    rounds = list(watch(one, 2.0, clock=one.clock))
    assert [[writes.pid for writes in round_] for round_ in rounds] == [[4711, 4712]]


def test_of_many_ended_processes_those_that_wrote_most_are_kept() -> None:
    book = Book()
    for pid in range(1, book_module.MOST_ENDED + 4):
        book.add([epoch(0, [HEAP], (100, 100 + min(pid, 90)), pid=pid)])
    book.end_all_but([])
    kept = [one.pid for one in book.figures()]
    assert len(kept) == book_module.MOST_ENDED
    assert not {1, 2, 3} & set(kept)
    assert (book.n_forgotten, book.n_forgotten_pages) == (3, 6)


def test_a_round_that_is_due_is_put_off_while_the_budget_says_so() -> None:
    one = tracker(n=2)
    one.put_offs = [3.0, 0.001]
    rounds = list(watch(one, 2.0, clock=one.clock))
    assert [writes.epoch for (writes,) in rounds] == [0, 1]
    assert one.waits == pytest.approx([2.0, 3.0, 0.05, 2.0])

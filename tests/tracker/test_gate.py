"""One operation at a time: threads wait, a signal handler is refused, what can wait is put off."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import writewatch as ww
from writewatch.kernel.calls import LinuxCalls
from writewatch.tracker.backend import Harvest
from writewatch.tracker.gate import GATE, Gate
from writewatch.tracker.ledger import Account


@pytest.fixture
def gate() -> Gate:
    return Gate()


class Elsewhere:
    """A thread that is inside an operation until it is let go."""

    def __init__(self, gate: Gate) -> None:
        self._inside, self._let_go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=gate.run, args=(self._wait,))
        self._thread.start()
        self._inside.wait()

    def _wait(self) -> None:
        self._inside.set()
        self._let_go.wait()

    def end(self) -> None:
        self._let_go.set()
        self._thread.join()


@pytest.fixture
def elsewhere(gate: Gate) -> Iterator[Elsewhere]:
    thread = Elsewhere(gate)
    yield thread
    thread.end()


# ---- one at a time -------------------------------------------------------------------------------


def test_an_operation_gets_its_arguments_and_gives_its_result(gate: Gate) -> None:
    assert gate.run(int, "ff", base=16) == 255


def test_operations_of_threads_do_not_overlap(gate: Gate) -> None:
    n_inside = 0
    seen = []

    def operation() -> None:
        nonlocal n_inside
        n_inside += 1
        seen.append(n_inside)
        threading.Event().wait(0)  # lets another thread run
        n_inside -= 1

    def many() -> None:
        for _ in range(200):
            gate.run(operation)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 800


def test_an_operation_within_an_operation_is_refused_and_harms_nothing(gate: Gate) -> None:
    def operation() -> str:
        with pytest.raises(ww.UsageError, match="set a flag in the handler and collect outside it"):
            gate.run(len, "")
        return "done"

    assert gate.run(operation) == "done"
    assert gate.run(operation) == "done"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_operation_that_fails_leaves_the_gate_open(gate: Gate, error: type[BaseException]) -> None:
    def operation() -> None:
        raise error

    with pytest.raises(error):
        gate.run(operation)
    assert gate.run(len, "abc") == 3


# ---- put off -------------------------------------------------------------------------------------


def test_what_may_wait_is_done_at_once_when_nobody_is_inside(gate: Gate) -> None:
    done: list[str] = []
    gate.run_or_put_off(lambda: done.append("closed"))
    assert done == ["closed"]


def test_inside_an_operation_it_is_put_off_to_the_next_and_comes_first(gate: Gate) -> None:
    done: list[str] = []

    def operation() -> None:
        gate.run_or_put_off(lambda: done.append("closed"))
        done.append("collected")

    gate.run(operation)
    assert done == ["collected"]
    gate.run(done.append, "collected again")
    assert done == ["collected", "closed", "collected again"]


def test_the_garbage_collector_waits_for_no_other_thread(gate: Gate, elsewhere: Elsewhere) -> None:
    done: list[str] = []
    gate.run_or_put_off(lambda: done.append("closed"), waits=False)
    assert done == []
    elsewhere.end()
    gate.run(done.append, "collected")
    assert done == ["closed", "collected"]


def test_others_wait_for_the_thread_that_is_inside(gate: Gate, elsewhere: Elsewhere) -> None:
    done: list[str] = []
    waiting = threading.Thread(target=gate.run_or_put_off, args=(lambda: done.append("closed"),))
    waiting.start()
    assert done == []
    elsewhere.end()
    waiting.join()
    assert done == ["closed"]


def put_off(gate: Gate, operation: Callable[[], None]) -> None:
    gate.run(lambda: gate.run_or_put_off(operation))


def test_what_was_put_off_and_fails_is_not_tried_again(gate: Gate) -> None:
    tried: list[int] = []

    def operation() -> None:
        tried.append(1)
        raise OSError("refused")

    put_off(gate, operation)
    with pytest.raises(OSError, match="refused"):
        gate.run(len, "")
    assert gate.run(len, "abc") == 3
    assert tried == [1]


def test_what_must_succeed_is_tried_until_it_does(gate: Gate) -> None:
    tries: list[int] = []

    def fail_twice() -> None:
        tries.append(len(tries))
        if len(tries) < 3:
            raise TimeoutError("of a signal handler")

    gate.run(lambda: gate.run_or_put_off(fail_twice, must_succeed=True))
    for _ in range(2):
        with pytest.raises(TimeoutError):
            gate.run(lambda: None)
    gate.run(lambda: None)
    gate.run(lambda: None)
    assert tries == [0, 1, 2]


def test_what_was_put_off_and_is_interrupted_is_done_again(gate: Gate) -> None:
    interruptions = [KeyboardInterrupt()]
    done: list[str] = []

    def operation() -> None:
        if interruptions:
            raise interruptions.pop()
        done.append("closed")

    put_off(gate, operation)
    with pytest.raises(KeyboardInterrupt):
        gate.run(len, "")
    assert done == []
    gate.run(len, "")
    gate.run(len, "")
    assert done == ["closed"]


class Struck(BaseException):
    """What a signal handler raises."""


@pytest.mark.parametrize("waits", [True, False])
def test_the_gate_is_open_to_others_wherever_a_signal_handler_raised(gate: Gate, waits: bool) -> None:
    done: list[str] = []
    for n in range(100):
        points = iter(range(n))

        def profile(_: object, event: str, __: object) -> None:
            if event in {"call", "c_return"} and next(points, None) is None:  # noqa: B023  # called in this turn
                raise Struck

        sys.setprofile(profile)
        try:
            gate.run_or_put_off(lambda: done.append("closed"), waits=waits)
            struck = False
        except Struck:
            struck = True
        finally:
            sys.setprofile(None)
        assert is_open_to_another_thread(gate)
        if not struck:
            return
    pytest.fail("it never came to its end")


def is_open_to_another_thread(gate: Gate) -> bool:
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(gate.run(len, "abc")), daemon=True)
    thread.start()
    thread.join(20)
    return answers == [3]


def test_several_are_done_in_order(gate: Gate) -> None:
    done: list[int] = []

    def operation() -> None:
        for number in range(3):
            gate.run_or_put_off(lambda number=number: done.append(number))  # type: ignore[misc]

    gate.run(operation)
    gate.run(len, "")
    assert done == [0, 1, 2]


def test_a_forked_child_does_not_wait_for_a_thread_that_is_not_there(gate: Gate) -> None:
    del gate
    thread = Elsewhere(GATE)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python 3.12: there are threads, which is the point
        child = os.fork()
    if not child:
        # A child that waited for ever would be ended by this, and the exit status would tell.
        signal.alarm(20)
        os._exit(GATE.run(len, "abc"))
    _, status = os.waitpid(child, 0)
    thread.end()
    assert os.waitstatus_to_exitcode(status) == 3


# ---- trackers ------------------------------------------------------------------------------------


class Interrupting(LinuxCalls):
    """The running kernel; during a scan, something else is done once."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] | None = None

    def pagemap_scan(self, fd: int, argument: Any, vec: Any, *rest: Any) -> int:
        result = super().pagemap_scan(fd, argument, vec, *rest)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return result


@pytest.fixture
def calls() -> Any:
    return Interrupting()


@pytest.fixture
def table(page_size: int) -> Any:
    return ww.allocate((20, page_size), "u1")


@contextlib.contextmanager
def handling(number: signal.Signals, handler: Callable[[], object]) -> Iterator[None]:
    before = signal.signal(number, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.kernel("uffd_wp_async")
def test_a_signal_handler_that_collects_during_a_collect_is_refused(calls: Any, table: Any) -> None:
    refused: list[ww.UsageError] = []

    def handler() -> None:
        with pytest.raises(ww.UsageError) as caught:
            tracker.collect()
        refused.append(caught.value)

    with (
        handling(signal.SIGUSR1, handler),
        ww.track(table, backend="uffd-wp", calls=calls) as tracker,
    ):
        table[5] = 1
        calls.meanwhile = lambda: signal.raise_signal(signal.SIGUSR1)
        assert tracker.collect().pages(table).tolist() == [5]
        assert len(refused) == 1


@pytest.mark.kernel("uffd_wp_async")
@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt])
def test_a_signal_handler_that_raises_during_a_collect_costs_no_page(
    calls: Any, table: Any, error: type[BaseException]
) -> None:
    def handler() -> None:
        raise error

    with (
        handling(signal.SIGUSR1, handler),
        ww.track(table, backend="uffd-wp", calls=calls) as tracker,
    ):
        table[5] = 1
        calls.meanwhile = lambda: signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(error) as caught:
            tracker.collect()
        assert type(caught.value) is error, "an exception of the program was disguised"
        assert not tracker.is_clean()
        assert 5 in tracker.collect().pages(table)
        assert not tracker.collect()


@pytest.mark.kernel("uffd_wp_async")
def test_a_tracker_that_is_dropped_during_a_collect_is_closed_by_the_next(calls: Any, table: Any) -> None:
    dropped = [ww.track(table[10:], backend="uffd-wp", calls=calls)]
    dropped[0].consumer("backup")
    holdings = dropped[0]._holdings

    def drop() -> None:
        dropped.clear()
        gc.collect()

    with ww.track(table[:10], backend="uffd-wp", calls=calls) as tracker:
        table[5] = 1
        calls.meanwhile = drop
        assert tracker.collect().pages(table[:10]).tolist() == [5]
        assert not dropped
        assert tracker.is_clean()
        assert not holdings.is_open


@pytest.mark.kernel("uffd_wp_async")
def test_closing_a_tracker_during_its_own_collect_is_put_off(calls: Any, table: Any) -> None:
    tracker = ww.track(table, backend="uffd-wp", calls=calls)
    table[5] = 1
    calls.meanwhile = tracker.close
    assert tracker.collect().pages(table).tolist() == [5]
    with pytest.raises(ww.TrackerClosedError):
        tracker.collect()
    assert tracker.closed


@pytest.mark.kernel("uffd_wp_async")
def test_giving_back_during_a_collect_is_put_off(calls: Any, table: Any) -> None:
    with ww.track(table, backend="uffd-wp", calls=calls) as tracker:
        table[5] = 1
        dirty = tracker.collect()
        table[6] = 1
        calls.meanwhile = dirty.give_back
        assert tracker.collect().pages(table).tolist() == [6]
        assert not tracker.is_clean()
        assert tracker.collect().pages(table).tolist() == [5]


@pytest.mark.kernel("uffd_wp_async")
def test_pages_that_were_put_off_go_back_although_a_signal_handler_raises_an_error(
    calls: Any, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter, errors = Account.enter, [TimeoutError("of a signal handler")]

    def interrupted(account: Account, harvest: Harvest) -> None:
        if errors:
            raise errors.pop()
        enter(account, harvest)

    with ww.track(table, backend="uffd-wp", calls=calls) as tracker:
        table[3] = 1
        dirty = tracker.collect()
        monkeypatch.setattr(Account, "enter", interrupted)
        calls.meanwhile = dirty.give_back
        tracker.collect()
        with pytest.raises(TimeoutError):
            tracker.collect()
        assert tracker.collect().pages(table).tolist() == [3]


@pytest.mark.parametrize("through", ["tracker", "consumer"])
def test_a_handler_that_collects_and_fails_before_a_set_is_received_costs_no_page(
    through: str, backend: str, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler runs where the other collect has all but returned, and is interrupted in its own."""
    run = Gate.run

    def too_late(*_: object, **__: object) -> None:
        raise TimeoutError("of another signal handler")

    def run_and_handle(gate: Gate, *arguments: Any) -> Any:
        result = run(gate, *arguments)
        monkeypatch.setattr(Gate, "run", run)
        table[7] = 1
        with monkeypatch.context() as patched, contextlib.suppress(TimeoutError):
            patched.setattr("writewatch.tracker.api.DirtySet", too_late)
            taker.collect()
        return result

    with ww.track(table, backend=backend) as tracker:
        taker = tracker if through == "tracker" else tracker.consumer("backup")
        table[3] = 1
        monkeypatch.setattr(Gate, "run", run_and_handle)
        received = taker.collect()
        assert 3 in received.pages(table)
        assert 7 in taker.collect().pages(table)


def test_threads_that_collect_at_once_each_get_what_is_theirs(backend: str, table: Any) -> None:
    n_threads = 3
    with ww.track(table, backend=backend) as tracker:
        consumers = [tracker.consumer(f"number {n}") for n in range(n_threads)]
        found: list[set[int]] = [set() for _ in range(n_threads)]
        start = threading.Barrier(n_threads)

        def collect(n: int) -> None:
            start.wait()
            for page in range(n, len(table), n_threads):
                table[page] = 1
                found[n] |= set(consumers[n].collect().pages(table).tolist())

        threads = [threading.Thread(target=collect, args=(n,)) for n in range(n_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for n, consumer in enumerate(consumers):
            found[n] |= set(consumer.collect().pages(table).tolist())
            assert found[n] == set(range(len(table)))


def test_a_tracker_is_not_sent_to_another_process(table: Any) -> None:
    with (
        ww.track(table, backend="every-page") as tracker,
        pytest.raises(ww.UsageError, match="belongs to its process"),
    ):
        pickle.dumps(tracker)

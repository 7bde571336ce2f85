"""Signals that are passed on, on children that wait for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from writewatch.observe.watch import signals as signals_module
from writewatch.observe.watch.signals import is_in_foreground, passing_signals_on

Child = subprocess.Popen[bytes]


@pytest.fixture
def child() -> Iterator[Child]:
    """Ends by whatever signal it gets."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made
        made.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_what_was_sent_to_us_reaches_the_program(child: Child, number: int) -> None:
    with passing_signals_on() as recipient:
        recipient.is_process(child.pid)
        os.kill(os.getpid(), number)
        assert child.wait(20) == -number


def test_what_came_before_there_was_a_program_waits_for_it(child: Child) -> None:
    with passing_signals_on() as recipient:
        os.kill(os.getpid(), signal.SIGTERM)
        recipient.is_process(child.pid)
        assert child.wait(20) == -signal.SIGTERM


@pytest.mark.parametrize(("foreground", "passed"), [(True, False), (False, True)])
def test_what_the_terminal_sent_to_both_is_not_sent_twice(
    child: Child, monkeypatch: pytest.MonkeyPatch, foreground: bool, passed: bool
) -> None:
    monkeypatch.setattr(signals_module, "is_in_foreground", lambda: foreground)
    with passing_signals_on() as recipient:
        sent: list[int] = []
        monkeypatch.setattr(recipient, "send", sent.append)
        os.kill(os.getpid(), signal.SIGINT)
        assert sent == ([signal.SIGINT] if passed else [])


def test_a_program_that_has_ended_gets_nothing(child: Child) -> None:
    with passing_signals_on() as recipient:
        recipient.is_process(child.pid)
        child.kill()
        child.wait()
        os.kill(os.getpid(), signal.SIGTERM)


def test_everything_is_as_before() -> None:
    numbers = [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT]
    before = [signal.getsignal(number) for number in numbers]
    with passing_signals_on():
        assert not any(signal.getsignal(number) in (signal.SIG_IGN, signal.SIG_DFL) for number in numbers)
    assert [signal.getsignal(number) for number in numbers] == before


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with passing_signals_on():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_without_a_terminal_nobody_is_in_the_foreground() -> None:
    code = "import sys; from writewatch.observe.watch.signals import is_in_foreground; sys.exit(is_in_foreground())"
    assert subprocess.run([sys.executable, "-c", code], start_new_session=True).returncode == 0
    assert isinstance(is_in_foreground(), bool)

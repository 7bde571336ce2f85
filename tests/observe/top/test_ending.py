"""``writewatch top`` that is ended by a signal: the terminal is as it was."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from tests.observe.needs import needs_attaching

#: What a terminal is told to show another screen, and its own again: xterm's ctlseqs, DECSET 1049.
OTHER_SCREEN, OWN_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"


def read(terminal: int) -> bytes:
    """What comes next; nothing when nobody has the other end any more."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_gives_the_terminal_back(number: signal.Signals) -> None:
    pytest.importorskip("textual", reason="textual, which draws the screen, is missing")
    needs_attaching()
    ours, theirs = pty.openpty()
    with subprocess.Popen(["sleep", "1000"]) as target:
        command = [sys.executable, "-m", "writewatch", "top", str(target.pid)]
        environment = os.environ | {"TERM": "xterm"}
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as top:
            os.close(theirs)
            shown = b""
            while b"q quit" not in shown:
                more = read(ours)
                assert more, shown
                shown += more
            assert OTHER_SCREEN in shown
            top.send_signal(number)
            while more := read(ours):
                shown += more
        target.kill()
    os.close(ours)
    assert top.returncode == 128 + number
    assert shown.rindex(OWN_SCREEN) > shown.rindex(OTHER_SCREEN)

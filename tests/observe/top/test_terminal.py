"""``writewatch top`` as a whole: a live redis through a terminal, one epoch for scripts, and what is
refused."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.observe.needs import needs_attaching
from writewatch.observe import cli

PATIENCE_S = 60.0
CHANGER = """
memory = bytearray(300 * 4096)
print(flush=True)
while True:
    for at in range(0, len(memory), 4096):
        memory[at] ^= 1
"""


def until(condition: Callable[[], object], what: str, told: Callable[[], str] = str) -> None:
    """Asks again and again; a machine may be slow, and only a failure takes long."""
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends, f"{what} did not happen; there is:\n{told()}"


class Terminal:
    """A tmux of its own with one window of 80 columns and 24 lines."""

    def __init__(self, folder: Path, command: list[str], **environment: str) -> None:
        self._socket = str(folder / "tmux")
        settings = [f"{name}={value}" for name, value in environment.items()]
        self._tmux("new-session", "-d", "-x", "80", "-y", "24", "-s", "top", "env", *settings, *command)
        self._tmux("set-option", "-g", "remain-on-exit", "on")

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *words], capture_output=True, text=True, timeout=PATIENCE_S
        )
        return done.stdout

    @property
    def text(self) -> str:
        return self._tmux("capture-pane", "-p", "-t", "top")

    def until(self, condition: Callable[[str], object], what: str) -> None:
        """Look until the screen is as it should be."""
        until(lambda: condition(self.text), what, lambda: self.text)

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", "-t", "top", *keys)

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server that somebody writes to all the time."""
    for program in ("tmux", "redis-server", "redis-benchmark"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}, which is not installed here")
    needs_attaching()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    server = subprocess.Popen(["redis-server", "--port", port, "--save", ""], **quiet)  # type: ignore[call-overload]
    ping = ["redis-cli", "-p", port, "ping"]
    until(lambda: subprocess.run(ping, capture_output=True).stdout == b"PONG\n", "redis answering")
    load = ["redis-benchmark", "-p", port, "-t", "set", "-r", "20000", "-n", "1000000000", "-c", "2", "-q"]
    client = subprocess.Popen(load, **quiet)  # type: ignore[call-overload]
    yield server
    for process in (client, server):
        process.kill()
        process.wait()


def test_a_live_redis_on_a_terminal(redis: subprocess.Popen[bytes], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "writewatch", "top", str(redis.pid), "--interval", "0.1"]
    terminal = Terminal(tmp_path, command, LC_ALL="C.UTF-8", TERM="screen-256color")
    try:
        terminal.until(lambda text: "█" in text, "a heatmap")
        lines = terminal.text.splitlines()
        assert lines[0].startswith(f"redis-server ({redis.pid})")
        assert "uffd-wp, every " in lines[0]  # the budget may make it longer
        assert lines[1].startswith("writes ")
        assert lines[-1].startswith("q quit  space pause")
        terminal.press("Enter")
        terminal.until(lambda text: "a row" in text, "zooming in")
        terminal.press("Escape")
        terminal.until(lambda text: "writes by address" in text, "zooming out")
        terminal.press("?")
        terminal.until(lambda text: text.startswith("KEYS"), "help")
        terminal.press("Escape")
        terminal.until(lambda text: "writes by address" in text, "leaving the help")
        redis.kill()
        terminal.until(lambda text: "This is the last picture; q leaves." in text, "noticing the end")
        assert "writes by address" in terminal.text
        terminal.press("q")
        terminal.until(lambda text: f"redis-server ({redis.pid}) has ended." in text, "leaving")
    finally:
        terminal.close()


def test_a_plain_terminal_gets_ascii_and_redis_goes_on(
    redis: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    status = tmp_path / "status"  # tmux may be late to say that what it ran has ended
    top = f"{sys.executable} -m writewatch top {redis.pid} --interval 0.1; echo $? > {status}"
    terminal = Terminal(tmp_path, ["sh", "-c", top], LC_ALL="C", TERM="vt100", NO_COLOR="1")
    try:
        terminal.until(lambda text: "@" in text, "a heatmap")
        assert terminal.text.isascii()
        terminal.press("q")
        until(lambda: status.exists() and status.read_text(), "leaving", lambda: terminal.text)
        assert status.read_text() == "0\n"
        assert redis.poll() is None
    finally:
        terminal.close()


@pytest.fixture
def changer() -> Iterator[int]:
    """A program that goes on changing 300 pages."""
    needs_attaching()
    with subprocess.Popen([sys.executable, "-c", CHANGER], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid
        child.kill()


def test_once_as_json(changer: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["top", str(changer), "--once", "--json", "--interval", "0.2"]) == 0
    found = json.loads(capsys.readouterr().out)
    (process,) = found["processes"]
    assert (process["pid"], process["epochs"], found["ended"]) == (changer, 1, False)
    assert process["elapsed_s"] >= 0.2
    assert max(one["pages"] for one in process["mappings"]) >= 300


def test_once_as_text(changer: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["top", str(changer), "--once", "--interval", "0.1"]) == 0
    told = capsys.readouterr().out
    assert f"({changer}): 0." in told
    assert "1 epoch, runs on" in told
    assert Path(f"/proc/{changer}").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            ["no-such-process-at-all", "--once"],
            2,
            "no process is named no-such-process-at-all; give its name as",
        ),
        (["999999999", "--once"], 1, "no process 999999999"),
        ([str(os.getpid())], 2, "a live screen needs a terminal; for scripts there is --once"),
        (["1", "--json"], 2, "a live screen is not JSON; give --once as well"),
        (["1", "--once", "--interval", "0"], 2, "Invalid value for '--interval'"),
    ],
)
def test_what_is_refused(
    arguments: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["top", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"writewatch: {sentence}")
    assert captured.err.count("\n") == 1


def test_one_that_cannot_be_attached_to_gets_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    needs_attaching()
    child = subprocess.Popen(["true"])
    until(lambda: "Z" in Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2][:3], "its end")
    try:
        assert cli.run(["top", str(child.pid), "--once"]) == 1
    finally:
        child.wait()
    assert f"{child.pid}" in capsys.readouterr().err

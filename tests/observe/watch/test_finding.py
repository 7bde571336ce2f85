"""Which process a word means, on a /proc that was made up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from writewatch.errors import UsageError
from writewatch.observe.watch.finding import find_process


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    def process(pid: int, comm: str, *words: str) -> None:
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "comm").write_text(comm + "\n")
        (folder / "cmdline").write_bytes("".join(f"{word}\0" for word in words).encode())

    process(10, "redis-server", "/usr/bin/redis-server", "*:6379")
    process(20, "postgres", "postgres:", "writer")
    process(
        30,
        "postgres",
        "/usr/lib/postgresql/postgres",
        "-D",
        "/var/lib/a very long path to its data",
        "x" * 50,
    )
    process(40, "a-program-with-", "/opt/a-program-with-a-long-name")
    process(50, "kworker/0:1")
    process(os.getpid(), "writewatch", "/usr/bin/redis-server")
    (tmp_path / "60").mkdir()  # it has just ended
    (tmp_path / "meminfo").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("word", "pid"),
    [
        ("4711", 4711),
        ("redis-server", 10),
        ("a-program-with-", 40),
        ("a-program-with-a-long-name", 40),
        ("kworker/0:1", 50),
    ],
)
def test_a_word_means_a_process(proc: Path, word: str, pid: int) -> None:
    assert find_process(word, proc) == pid


@pytest.mark.parametrize("word", ["redis", "REDIS-SERVER", "writewatch", "*:6379", ""])
def test_the_whole_name_has_to_match_and_we_do_not_count(proc: Path, word: str) -> None:
    with pytest.raises(
        UsageError, match=r"^no process is named .*; give its name as in ps -e, or its process id$"
    ):
        find_process(word, proc)


def test_several_are_listed_in_one_sentence(proc: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_process("postgres", proc)
    sentence = str(caught.value)
    assert sentence == (
        "2 processes are named postgres: 20 (postgres: writer), "
        "30 (/usr/lib/postgresql/postgres -D /var/li…); give the process id of one"
    )


def test_many_are_counted(proc: Path) -> None:
    for pid in range(100, 120):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "comm").write_text("sh\n")
        (proc / str(pid) / "cmdline").write_bytes(b"sh\n-c\0a\tb\0")
    with pytest.raises(
        UsageError, match=r"^20 processes are named sh: 100 \(sh -c a b\), .* and 12 more; give"
    ):
        find_process("sh", proc)

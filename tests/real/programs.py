"""Programs that people run, started as they start them, under load, each with a question that it has to answer rightly.

A program is a context manager that yields a ``Program``: whom to watch and how to ask. Everything that it started has
ended when the ``with`` statement is left.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest

HERE: Final = pathlib.Path(__file__).parent


@dataclass(frozen=True)
class Program:
    """One that runs and works.

    Attributes:
        pid: Whom to watch.
        ask: Raises unless the program answers, and rightly.
    """

    pid: int
    ask: Callable[[], None]


def need(*names: str) -> None:
    """Skip the test that asks, by name, where a program is not installed."""
    missing = [name for name in names if not shutil.which(name)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, which is not installed here")


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def until(holds: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait for a program to get somewhere."""
    ends = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > ends:
            raise TimeoutError(what)
        time.sleep(0.01)


def listens(port: int) -> bool:
    """Whether a connection is accepted."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionError:
        return False
    return True


@contextlib.contextmanager
def running(*argv: str | os.PathLike[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is terminated at the end, quiet unless told otherwise."""
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
    child: subprocess.Popen[bytes]
    with subprocess.Popen(argv, **options) as child:  # type: ignore[call-overload]
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()


def get(port: int, path: str = "/") -> bytes:
    """The body of an HTTP answer, which has to be 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read()
    finally:
        connection.close()


@contextlib.contextmanager
def repeated(work: Callable[[], object]) -> Iterator[None]:
    """Do something again and again in a thread; what it raises is raised at the end."""
    stop, errors = threading.Event(), []

    def loop() -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


# ---- programs ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def redis(directory: pathlib.Path) -> Iterator[Program]:
    """redis-server with threads for input and output, under redis-benchmark."""
    need("redis-server", "redis-benchmark", "redis-cli")
    port = str(free_port())
    threads = ("--io-threads", "2", "--io-threads-do-reads", "yes")
    server = ("redis-server", "--port", port, "--save", "", "--dir", directory, *threads)
    load = ("redis-benchmark", "-p", port, "-t", "set,get,incr", "-r", "20000", "-c", "10", "-l", "-q")

    def ask() -> None:
        words = ["redis-cli", "-p", port, "incr", "asked"]
        counts.append(int(subprocess.run(words, check=True, capture_output=True).stdout))
        assert counts == list(range(1, len(counts) + 1))

    counts: list[int] = []
    with running(*server) as child:
        until(lambda: listens(int(port)), "redis-server listens")
        with running(*load):
            yield Program(child.pid, ask)


@contextlib.contextmanager
def postgres(directory: pathlib.Path) -> Iterator[Program]:
    """A backend of PostgreSQL that serves pgbench. What pgbench keeps in balance has to balance."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("needs initdb of PostgreSQL, which is not installed here")
    need("psql", "pgbench")
    user = _postgres_user(directory)
    data, sockets = directory / "data", ("-h", str(directory))

    def ask() -> None:
        query = "SELECT sum(bbalance) - (SELECT sum(delta) FROM pgbench_history) FROM pgbench_branches"
        words = ["psql", *sockets, "-U", "bench", "-Atc", query, "postgres"]
        assert int(subprocess.run(words, check=True, capture_output=True, user=user).stdout or 0) == 0

    subprocess.run(
        [found[-1], "-D", data, "-U", "bench", "-A", "trust", "--no-sync"],
        check=True,
        capture_output=True,
        user=user,
    )
    options = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={directory}", "-c", "fsync=off")
    with running(found[-1].with_name("postgres"), "-D", data, *options, user=user) as server:
        until(lambda: any(directory.glob(".s.PGSQL.*")), "PostgreSQL makes its socket")
        bench = ("pgbench", *sockets, "-U", "bench")
        until(
            lambda: (
                not subprocess.run([*bench, "-iq", "postgres"], capture_output=True, user=user).returncode
            ),
            "-i",
        )
        with running(*bench, "-T", "600", "-c", "2", "postgres", user=user):
            backends: list[int] = []

            def serves() -> bool:
                backends[:] = [pid for pid in children(server.pid) if b"bench" in command_line(pid)]
                return len(backends) >= 2

            until(serves, "pgbench is connected")
            yield Program(backends[0], ask)
        server.send_signal(2)  # the fast shutdown: a terminated server waits for its clients


def _postgres_user(directory: pathlib.Path) -> str | None:
    """PostgreSQL refuses to run as root: its own account then, which gets the directory."""
    if os.geteuid() != 0:
        return None
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no account postgres")
    for place in (directory, *directory.parents):
        if place.stat().st_uid == 0 and place.stat().st_mode & 0o005 != 0o005:
            place.chmod(place.stat().st_mode | 0o011)
    shutil.chown(directory, account.pw_name)
    return account.pw_name


def children(pid: int) -> list[int]:
    """Direct children of all threads of a process."""
    found: list[int] = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def command_line(pid: int) -> bytes:
    """``/proc/PID/cmdline``; empty when it has ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def nginx(directory: pathlib.Path) -> Iterator[Program]:
    """A worker of nginx that serves a file."""
    need("nginx")
    port, body = free_port(), b"x" * 200_000
    (directory / "index.html").write_bytes(body)
    (directory / "nginx.conf").write_text(
        f"daemon off; pid {directory}/pid; error_log stderr; worker_processes 1;\n"
        + ("user root;\n" if os.geteuid() == 0 else "")
        + "events {}\n"
        + f"http {{ access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;\n"
        + f"fastcgi_temp_path {directory}/fcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;\n"
        + f"server {{ listen 127.0.0.1:{port}; root {directory}; gzip on; gzip_types *; sendfile off; }} }}\n"
    )

    def ask() -> None:
        assert get(port) == body

    with running("nginx", "-c", directory / "nginx.conf", "-p", directory) as master:
        until(lambda: listens(port), "nginx listens")
        with repeated(ask):
            yield Program(children(master.pid)[0], ask)


@contextlib.contextmanager
def node(directory: pathlib.Path) -> Iterator[Program]:
    """A node server that makes garbage and sums it."""
    need("node")
    port = free_port()

    def ask() -> None:
        assert get(port) == b"4999950000"

    with running("node", HERE / "server.js", str(port), cwd=directory) as child:
        until(lambda: listens(port), "node listens")
        with repeated(ask):
            yield Program(child.pid, ask)


@contextlib.contextmanager
def jvm(directory: pathlib.Path) -> Iterator[Program]:
    """A JVM whose collector is busy."""
    need("java", "javac")
    subprocess.run(["javac", "-d", directory, HERE / "Churn.java"], check=True)
    words = ("java", "-XX:+UseG1GC", "-Xmx128m", "-cp", directory, "Churn")
    with running(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        ask_at, answers = child.stdin, child.stdout

        def ask() -> None:
            ask_at.write(b"?\n")
            ask_at.flush()
            assert answers.readline() == b"right\n"

        ask()
        yield Program(child.pid, ask)


@contextlib.contextmanager
def gunicorn(directory: pathlib.Path) -> Iterator[Program]:
    """A worker of gunicorn that shares data with its parent, loaded before the fork."""
    pytest.importorskip("gunicorn", reason="needs gunicorn, which is not installed here")
    port = free_port()
    words = ("-m", "gunicorn", "--preload", "--workers", "2", "--bind", f"127.0.0.1:{port}", "preloaded:app")

    def ask() -> None:
        assert get(port) == b"1999999000000"

    with running(sys.executable, *words, cwd=HERE) as master:
        until(lambda: len(children(master.pid)) >= 2 and listens(port), "gunicorn listens")
        ask()
        with repeated(ask):
            yield Program(children(master.pid)[0], ask)


PROGRAMS: Final = {
    "redis": redis,
    "postgres": postgres,
    "nginx": nginx,
    "node": node,
    "jvm": jvm,
    "gunicorn": gunicorn,
}

"""The entry point: exit codes, one sentence an error, and nothing imported that is not used."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from typing import Any

import click
import pytest

from writewatch.errors import KernelUnsupportedError, UsageError
from writewatch.observe import cli
from writewatch.observe import commands as commands_module
from writewatch.observe.commands import COMMANDS


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let ``writewatch doctor`` raise this."""

    @click.command()
    def doctor() -> None:
        raise error

    monkeypatch.setattr(commands_module.CommandGroup, "get_command", lambda *_: doctor)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UsageError("give a page; pages are whole"), 2, "writewatch: give a page; pages are whole\n"),
        (KernelUnsupportedError("no such kernel"), 1, "writewatch: no such kernel\n"),
        (FileNotFoundError(2, "No such file", "/x"), 1, "writewatch: /x: No such file\n"),
        (click.ClickException("it failed"), 1, "writewatch: it failed\n"),
        (click.Abort(), 130, ""),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=["usage", "unsupported", "os", "click", "abort", "interrupt"],
)
def test_an_error_is_one_sentence_and_a_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    sentence: str,
) -> None:
    raising(monkeypatch, error)
    assert cli.run(["doctor"]) == code
    captured = capsys.readouterr()
    assert captured.err.removeprefix("\n") == sentence
    assert captured.out == ""


def test_a_programming_error_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.run(["doctor"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["docter"], "No such command 'docter'"),
        (["doctor", "--jason"], "No such option"),
        (["--nonsense"], "No such option"),
        (["doctor", "superfluous"], "unexpected extra argument"),
    ],
)
def test_misuse_is_two_and_points_to_the_help(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("writewatch: ")
    assert sentence in told
    assert told.endswith(" --help\n")
    assert told.count("\n") == 1


def test_without_a_command_the_help_and_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    told = capsys.readouterr().err
    assert all(name in told for name in COMMANDS)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_help_lists_every_command(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([option]) == 0
    told = capsys.readouterr().out
    for name, line in COMMANDS.items():
        assert name in told
        assert line in told


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("writewatch ")


def test_main_exits_with_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(["nonsense"])
    assert leaving.value.code == 2
    with pytest.raises(SystemExit) as leaving:
        cli.main(["--version"])
    assert leaving.value.code == 0
    capsys.readouterr()


@pytest.mark.parametrize("package", ["click", "rich"])
def test_without_its_packages_it_says_how_to_install_them(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *arguments, **keywords)

    for name in [name for name in sys.modules if name.startswith("writewatch.observe.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SystemExit) as leaving:
        cli.main(["doctor"])
    assert leaving.value.code == 1
    expected = (
        f'writewatch: the command line needs {package}; install it with: pip install "writewatch[cli]"\n'
    )
    assert capsys.readouterr().err == expected


def test_one_command_does_not_import_another() -> None:
    code = (
        "import sys; from writewatch.observe.cli import run; run(['doctor', '--json']);"
        "sys.exit([m for m in sys.modules if m.startswith('writewatch.observe.commands.')] "
        "!= ['writewatch.observe.commands.doctor'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_help_imports_no_command() -> None:
    code = (
        "import sys; from writewatch.observe.cli import run; run(['--help']);"
        "sys.exit(any(m.startswith('writewatch.observe.commands.') for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_has_seen_enough_gets_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-c", "from writewatch.observe.cli import main; main()", "doctor"]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1

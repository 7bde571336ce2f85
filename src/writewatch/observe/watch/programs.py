"""Which file a command names, and why it cannot be run: 127 and 126, as shells number it."""

from __future__ import annotations

import errno
import os
import shutil
from typing import Final

import click

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126


class CannotRunError(click.ClickException):
    """A program cannot be executed; the command line tells the sentence and exits with the code."""

    exit_code = NOT_EXECUTABLE


class NotFoundError(CannotRunError):
    """There is no such program."""

    exit_code = NOT_FOUND


def find_program(name: str) -> str:
    """The path of a program, found as a shell finds it.

    Raises:
        CannotRunError: There is none, or it may not be executed.
    """
    if not name:
        raise NotFoundError("the program's name is empty; name one")
    found = shutil.which(name)
    if found is not None:
        return found
    if os.sep not in name:
        raise NotFoundError(f"{name}: command not found; give a path or add its folder to PATH")
    if os.path.isdir(name):
        raise CannotRunError(f"{name} is a directory; name a program")
    if os.path.exists(name):
        raise CannotRunError(f"{name} is not executable; chmod +x it, or name its interpreter")
    raise NotFoundError(f"{name}: no such file; name a program")


def cannot_execute(name: str, error: OSError) -> CannotRunError:
    """What execve(2) refused."""
    if isinstance(error, FileNotFoundError) and os.path.exists(name):
        return NotFoundError(f"{name} cannot be executed: its interpreter is missing; name one before it")
    if error.errno == errno.ENOEXEC:
        return CannotRunError(
            f"{name} cannot be executed: no program of this machine, and no #! line; name its interpreter before it"
        )
    kind = NotFoundError if isinstance(error, FileNotFoundError) else CannotRunError
    return kind(f"{name} cannot be executed: {error.strerror or error}")

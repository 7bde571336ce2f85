"""What ``launch()`` is given, looked at before anything is started: afterwards it is a helper's child that fails.

The rules are execve(2)'s: words and variables end with a NUL byte, so none may hold one, and a variable's name ends
with the first ``=``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from writewatch.errors import UsageError


def words_of(argv: Sequence[Any]) -> list[str]:
    """The program and its arguments, as text.

    Raises:
        UsageError: There is no program, it is one string, or a word can be none.
    """
    if isinstance(argv, str | bytes):
        raise UsageError(f"{argv!r} is one string; give a list of words, such as shlex.split() makes")
    if not argv or not argv[0]:
        raise UsageError("name a program to launch")
    return [_text(word, "argument") for word in argv]


def variables_of(env: Mapping[Any, Any]) -> dict[str, str]:
    """An environment, as text.

    Raises:
        UsageError: A name or a value can be none.
    """
    found = {_text(name, "variable"): _text(value, "value") for name, value in env.items()}
    for name in found:
        if not name or "=" in name:
            raise UsageError(f"no environment variable can be named {name!r}; leave it out")
    return found


def folder_of(cwd: str | os.PathLike[str] | None) -> str | None:
    """A working directory that is there.

    Raises:
        OSError: It is not, or is no directory.
    """
    if cwd is None:
        return None
    os.close(os.open(cwd, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    return os.fspath(cwd)


def _text(word: Any, what: str) -> str:
    try:
        text = os.fsdecode(word)
    except TypeError as error:
        raise UsageError(f"the {what} {word!r} is not text; write str({word!r})") from error
    if "\0" in text:
        raise UsageError(f"the {what} {text!r} holds a NUL byte, which Linux takes for its end; leave it out")
    return text

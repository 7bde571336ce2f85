"""``writewatch``: the entry point, where every error becomes one sentence and an exit code.

0: it worked; 1: it failed; 2: it was used wrongly. Library code raises; nobody else prints an error or exits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from writewatch.errors import UsageError, WriteWatchError

#: What ``pip install "writewatch[cli]"`` brings.
_CLI_PACKAGES: Final = ("click", "rich", "textual")

FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        arguments: Words after the program's name; None takes those of the process.
    """
    _fill_standard_streams()
    try:
        sys.exit(run(arguments))
    except KeyboardInterrupt:  # while modules are imported
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        if error.name not in _CLI_PACKAGES:
            raise
        _say(f'the command line needs {error.name}; install it with: pip install "writewatch[cli]"')
        sys.exit(FAILED)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. An error has been told on stderr by then."""
    import click

    from writewatch.observe.commands import writewatch

    try:
        # Without standalone mode click hands its own exit codes back as the result.
        result = writewatch.main(arguments, prog_name="writewatch", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        _say(_with_help(error))
        return error.exit_code
    except UsageError as error:
        _say(str(error))
        return MISUSED
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python must not try to flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        _say(": ".join(str(part) for part in (error.filename, error.strerror) if part) or str(error))
        return FAILED
    except WriteWatchError as error:
        _say(str(error))
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def _fill_standard_streams() -> None:
    """A stream that we were started without lends its number to no file of ours: what is said on it is gone."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null > fd:
                null = os.dup2(null, fd)
            os.set_inheritable(null, True)
            mode = "r" if fd == 0 else "w"
            setattr(sys, name, open(null, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


def _with_help(error: object) -> str:
    import click

    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.format_message().rstrip('.')}; see {error.ctx.command_path} --help"
    assert isinstance(error, click.ClickException)
    return error.format_message()


def _say(sentence: str) -> None:
    print(f"writewatch: {sentence}", file=sys.stderr)

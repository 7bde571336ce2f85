"""The commands of ``writewatch``, one module each, imported when they are used.

``COMMANDS`` is the whole list, with the line that ``writewatch --help`` shows: so neither the help nor one
command pays for the imports of the others. A module ``NAME`` holds a click command ``NAME``.
"""

from __future__ import annotations

import importlib
from typing import Final

import click

#: Name -> what it does, in the order of the help.
COMMANDS: Final = {
    "doctor": "What works here, and for what does not, why.",
    "bench": "This machine's figures, beside C and other ways.",
    "simulate": "Operations on the model of Linux, step by step.",
    "run": "Run a program and show what it writes.",
    "top": "What a running process writes, live.",
    "record": "What a process writes, into a trace.",
    "report": "A trace as a page with pictures.",
}


class CommandGroup(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None for a name that is no command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, from ``COMMANDS`` alone."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=CommandGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="writewatch", prog_name="writewatch", message="%(prog)s %(version)s")
@click.pass_context
def writewatch(context: click.Context) -> None:
    """Know which memory was written."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)

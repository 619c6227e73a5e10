"""A command group that lists its commands from a table and imports a body only when it is called."""

import importlib
from collections.abc import Collection, Mapping
from typing import Any

import click

Table = Mapping[str, tuple[str, str]]
"""Commands by name in reading order: module below ``pps_agent.cli``, one-line help."""


class LazyGroup(click.Group):
    """Shows the table of its commands without importing them.

    A body is the module's attribute of the command's name, with ``-`` as ``_``; ``attributes`` names
    the others (``list`` would hide Python's own).
    """

    def __init__(
        self,
        *arguments: Any,
        table: Table,
        hidden: Collection[str] = (),
        attributes: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._table = table
        self._hidden = hidden
        self._attributes = attributes or {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Give the names in reading order."""
        return [name for name in self._table if name not in self._hidden]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Import and give one command."""
        if cmd_name not in self._table:
            return None
        module = importlib.import_module(f"pps_agent.cli.{self._table[cmd_name][0]}")
        attribute = self._attributes.get(cmd_name, cmd_name.replace("-", "_"))
        command: click.Command = getattr(module, attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command named; suggest the nearest one when there is none."""
        if args and args[0] not in self._table:
            import difflib  # only on the way to an error

            close = difflib.get_close_matches(args[0], self._table, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else f" See {ctx.command_path} --help."
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands from the one-line helps."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._table[name][1]) for name in self.list_commands(ctx)])

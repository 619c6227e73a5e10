"""Options that several sub-commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from pps_collector.settings import DEFAULT_FILE, Settings, load_settings

_Command = TypeVar("_Command", bound=Callable[..., object])

output_option = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of stdout."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing.")


def settings_options(command: _Command) -> _Command:
    """Add ``--config``, ``--state`` and ``--database``."""
    for option in (
        click.option("--database", metavar="URL", help="sqlite:///PATH or postgresql://HOST/NAME."),
        click.option("--state", metavar="DIR", help="Directory of the certificate authority and embedded database."),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help=f"Settings file. [default: {DEFAULT_FILE}]",
        ),
    ):
        command = option(command)
    return command


def read_settings(config: Path | None, **options: str | None) -> Settings:
    """Build the settings from the file and the options that were given."""
    return load_settings(config, options)

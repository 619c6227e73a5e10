"""What every command needs: the settings of this call, and one way to print a result."""

import codecs
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:  # each command loads only what it reads: the tag commands' part costs half of the whole
    from pps_agent.settings import Settings
    from pps_agent.settings_reader import Loaded
    from pps_agent.settings_tags import TagSettings

_CONTROLS: Final = dict.fromkeys((*range(10), *range(11, 32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")
_Command = TypeVar("_Command", bound=Callable[..., Any])


def output_option(command: _Command) -> _Command:
    """Add ``--output text|json`` as ``output``."""
    return click.option(
        "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of stdout."
    )(command)


def dry_run_option(command: _Command) -> _Command:
    """Add ``--dry-run`` as ``dry_run``."""
    return click.option("--dry-run", is_flag=True, help="Say what would change; change nothing.")(command)


def config_path() -> Path:
    """Give the settings file of this call."""
    return Path(click.get_current_context().find_root().obj).absolute()


def load() -> "Loaded[Settings]":
    """Read the settings of this call. Raises: ConfigError."""
    from pps_agent.settings_file import load_settings  # here and below: see above

    return load_settings(config_path())


def settings() -> "Settings":
    """Give the settings of this call. Raises: ConfigError."""
    return load().settings


def tag_settings() -> "TagSettings":
    """Give what of them concerns tags: a fault in another section stops no tag command. Raises: ConfigError."""
    from pps_agent.settings_tags_file import load_tag_settings

    return load_tag_settings(config_path())


def print_json(value: Any) -> None:
    """Print one JSON document on stdout, in pure ASCII where that cannot take UTF-8."""
    is_utf8 = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    click.echo(json.dumps(value, indent=2, ensure_ascii=not is_utf8, default=str))


def print_line(text: str) -> None:
    """Print text that others wrote (reasons, summaries, errors): a terminal gets none of its control characters."""
    click.echo(text.translate(_CONTROLS))


def print_plan(text: str, output: str) -> None:
    """Print what a dry run would do."""
    if output == "json":
        print_json({"dry_run": True, "would": text})
    else:
        click.echo(f"dry run: would {text}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as their widest cell, the last one free."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        cells = [
            cell.replace("\n", "\N{REPLACEMENT CHARACTER}").ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        print_line("  ".join(cells).rstrip())

"""Options and output that the commands share."""

import json
import os
import stat
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pps_publisher.errors import UsageError

repo_option = click.option(
    "--repo",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default="this directory",
    help="Repository directory; a web server shows its served/ and nothing else.",
)
key_option = click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), help="Private key to sign with, e.g. keys/sa3.pem."
)
passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File whose first line is the key's passphrase, readable by its owner only; asked for when absent.",
)
output_option = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print the result."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; sign and change nothing.")


def current_time() -> datetime:
    """Give the time that the whole command goes by."""
    return datetime.now(UTC)


def demand_key(key: Path | None) -> Path:
    """Give the key option's value. Raises: UsageError when it is missing."""
    if key is None:
        raise UsageError("name the key to sign with: --key FILE")
    return key


def read_passphrase(file: Path | None, what: str, *, confirm: bool = False) -> bytes:
    """Give a passphrase from its file, or ask for it. Raises: UsageError where neither is possible, OSError."""
    if file is None:
        if not sys.stdin.isatty():
            raise UsageError(f"no terminal to ask for the passphrase of {what}; give --passphrase-file FILE")
        asked: str = click.prompt(f"Passphrase of {what}", hide_input=True, confirmation_prompt=confirm, err=True)
        return asked.encode()
    with file.open("rb") as stream:
        others = stat.S_IRWXO if _is_credential(file) else stat.S_IRWXG | stat.S_IRWXO
        if os.fstat(stream.fileno()).st_mode & others:
            raise UsageError(f"{file}: others may read it; run: chmod 600 {file}")
        line = stream.readline().rstrip(b"\r\n")
    if not line:
        raise UsageError(f"{file}: its first line is empty; write the passphrase there")
    return line


def show_json(facts: Mapping[str, Any]) -> None:
    """Print facts as one JSON object."""
    click.echo(json.dumps(facts, indent=2, default=str))


def _is_credential(file: Path) -> bool:
    """Say whether systemd handed the file over: it grants access by an ACL, which shows as the group's mode."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return directory is not None and file.parent.samefile(directory)


def show(output: str, facts: Mapping[str, Any], lines: Iterable[str], following: str) -> None:
    """Print a command's result and its next step, as text or as one JSON object."""
    if output == "json":
        show_json({**facts, "next": following})
        return
    for line in lines:
        click.echo(line)
    click.echo(f"Next: {following}")

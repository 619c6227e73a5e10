"""``pps-publish keys``."""

from pathlib import Path

import click

from pps_publisher.cli.options import dry_run_option, output_option, passphrase_option, read_passphrase, show
from pps_publisher.keys import KEY_NAMES, create_key, list_keys, private_path, public_path

_directory_argument = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))


@click.group("keys")
def command() -> None:
    """List keys, or make one for somebody."""


@command.command("list")
@_directory_argument
@output_option
def list_command(directory: Path, output: str) -> None:
    """List the keys of DIRECTORY; no passphrase is needed."""
    found = list_keys(directory)
    facts = {"keys": [{"name": key.name, "keyid": key.keyid, "private": key.private} for key in found]}
    lines = [
        f"{key.name:16} {key.keyid[:16]} {'private and public' if key.private else 'public only'}" for key in found
    ]
    missing = [name for name in KEY_NAMES if name not in {key.name for key in found}]
    show(output, facts, lines, f"'init' would make {', '.join(missing)}" if missing else "nothing, all keys exist")


@command.command("new")
@_directory_argument
@click.argument("name", type=click.Choice(KEY_NAMES))
@passphrase_option
@dry_run_option
@output_option
def new_command(directory: Path, name: str, passphrase_file: Path | None, dry_run: bool, output: str) -> None:
    """Make the key NAME in DIRECTORY, on its owner's machine; only the .pub file leaves it."""
    facts = {"private": private_path(directory, name), "public": public_path(directory, name)}
    if not dry_run:
        create_key(directory, name, read_passphrase(passphrase_file, name, confirm=True))
    did = "would make" if dry_run else "made"
    following = f"copy {facts['public']} into the directory that 'pps-publish init --keys' names"
    show(output, facts, [f"{did} {path}" for path in facts.values()], following)

"""``pps-publish keys``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pps_publisher.cli.options import (
    current_time,
    dry_run_option,
    key_option,
    output_option,
    passphrase_option,
    read_passphrase,
    repo_option,
    show,
)
from pps_publisher.cli.progress import facts_of, lines_of, next_step, planned_facts, planned_lines
from pps_publisher.exchange import Exchange, Planned, load_new_keys
from pps_publisher.keys import (
    KEY_NAMES,
    create_key,
    list_keys,
    load_signer,
    parse_key_name,
    private_path,
    public_path,
)
from pps_publisher.repository import Repository
from pps_publisher.rotation import holders_of

_directory_argument = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
_new_keys_option = click.option(
    "--keys",
    "directory",
    required=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Directory of the new NAME.pub files; their private halves stay with their holders.",
)
_replace_option = click.option(
    "--replace-staged", is_flag=True, help="Drop what waits for signatures in the roles that change."
)


@click.group("keys")
def command() -> None:
    """List keys, make one for somebody, or exchange the keys of a repository."""


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


@command.command("show")
@repo_option
@output_option
def show_command(repo: Path, output: str) -> None:
    """Show whose keys the served metadata of a repository names."""
    store = Repository(repo).store
    holders = sorted(holders_of(store.load_root().signed, store.load_targets().signed).items(), key=lambda one: one[1])
    facts = {"keys": [{"name": name, "keyid": keyid} for keyid, name in holders]}
    show(output, facts, [f"{name:16} {keyid[:16]}" for keyid, name in holders], "compare the ids with their holders'")


@command.command("new")
@_directory_argument
@click.argument("name")
@passphrase_option
@dry_run_option
@output_option
def new_command(directory: Path, name: str, passphrase_file: Path | None, dry_run: bool, output: str) -> None:
    """Make the key NAME in DIRECTORY, on its owner's machine; only the .pub file leaves it."""
    name = parse_key_name(name)
    facts = {"private": private_path(directory, name), "public": public_path(directory, name)}
    if not dry_run:
        create_key(directory, name, read_passphrase(passphrase_file, name, confirm=True))
    did = "would make" if dry_run else "made"
    following = f"give {facts['public']} to whoever runs 'pps-publish init' or 'pps-publish keys rotate'"
    show(output, facts, [f"{did} {path}" for path in facts.values()], following)


@command.command("rotate")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_new_keys_option
@repo_option
@key_option
@passphrase_option
@_replace_option
@dry_run_option
@output_option
def rotate_command(names: tuple[str, ...], directory: Path, **options: Any) -> None:
    """Let each NAME hold a new key; the old ones are not needed.

    The change is staged, and served when enough people have signed: two of the root keys for root-*,
    targets and online, the targets key for the others, and the new keys where they sign something.
    """
    new = load_new_keys(directory, tuple(parse_key_name(name) for name in names))
    _exchange(lambda exchange: exchange.rotate(new), **options)


@command.command("add")
@click.argument("name")
@_new_keys_option
@repo_option
@key_option
@passphrase_option
@_replace_option
@dry_run_option
@output_option
def add_command(name: str, directory: Path, **options: Any) -> None:
    """Let NAME sign releases and withdrawals too; two signatures stay enough to publish."""
    name = parse_key_name(name)
    new = load_new_keys(directory, (name,))
    _exchange(lambda exchange: exchange.add(name, new[name]), **options)


@command.command("remove")
@click.argument("name")
@repo_option
@key_option
@passphrase_option
@_replace_option
@dry_run_option
@output_option
def remove_command(name: str, **options: Any) -> None:
    """Let NAME no longer sign releases and withdrawals."""
    _exchange(lambda exchange: exchange.remove(name), **options)


def _exchange(
    plan: Callable[[Exchange], Planned],
    *,
    repo: Path,
    key: Path | None,
    passphrase_file: Path | None,
    replace_staged: bool,
    dry_run: bool,
    output: str,
) -> None:
    """Stage an exchange of keys and tell how far it has come; shared by the commands above."""
    exchange = Exchange(Repository(repo), current_time(), replace_staged=replace_staged)
    if dry_run:
        changes = plan(exchange)
        lines = [line for change in changes for line in planned_lines(change)] or ["the keys are exchanged already"]
        following = "run it again without --dry-run" if changes else "nothing"
        show(output, {"roles": [planned_facts(change) for change in changes]}, lines, following)
        return
    signer = None if key is None else load_signer(key, read_passphrase(passphrase_file, str(key)))
    done = exchange.stage(lambda: plan(exchange), signer)
    lines = [line for progress in done for line in lines_of(progress)] or ["the keys are exchanged already"]
    show(output, {"roles": [facts_of(progress) for progress in done]}, lines, next_step(done))

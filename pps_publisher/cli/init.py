"""``pps-publish init``."""

from pathlib import Path

import click

from pps_publisher.cli.options import (
    current_time,
    dry_run_option,
    output_option,
    passphrase_option,
    read_passphrase,
    repo_option,
    show,
)
from pps_publisher.cli.progress import facts_of, lines_of, next_step
from pps_publisher.keys import KEY_NAMES, gather_keys, load_fleet_keys, private_path, public_path
from pps_publisher.repository import Repository
from pps_publisher.roles import authorities_of


@click.command("init")
@repo_option
@click.option(
    "--keys",
    "keys_directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of the keys, REPO/keys by default; keys found there are used, missing ones made.",
)
@click.option(
    "--fleet-key",
    "fleet_keys",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Public key (PEM) by which a collector signs requests; repeatable.",
)
@passphrase_option
@dry_run_option
@output_option
def command(
    repo: Path,
    keys_directory: Path | None,
    fleet_keys: tuple[Path, ...],
    passphrase_file: Path | None,
    dry_run: bool,
    output: str,
) -> None:
    """Make the keys and an empty signed repository.

    One passphrase protects all keys made here; move each to its owner afterwards. A NAME.pub without
    its NAME.pem is somebody else's key: that person signs with 'pps-publish sign'.
    """
    directory = keys_directory or repo / "keys"
    fleet = load_fleet_keys(fleet_keys)
    if dry_run:
        places = [private_path(directory, name) for name in KEY_NAMES if not public_path(directory, name).exists()]
        lines = [f"would make {path}" for path in places] + [f"would make the repository {repo}"]
        show(output, {"keys": places, "repository": repo}, lines, "run it again without --dry-run")
        return
    repository = Repository(repo)
    repository.refuse_existing()
    passphrase = read_passphrase(passphrase_file, "the keys", confirm=True)
    keys, signers = gather_keys(directory, KEY_NAMES, passphrase)
    made = repository.create(authorities_of(keys), signers, fleet, current_time())
    facts = {
        "repository": repo,
        "served": repository.served,
        "keys": directory,
        "roles": [facts_of(one) for one in made],
    }
    lines = [line for one in made for line in lines_of(one)]
    place = f"{repository.served}/metadata/1.root.json is what sites pin"
    show(
        output,
        facts,
        [*lines, place, f"keys: {directory}; give each to its owner, the root keys to a safe"],
        next_step(made),
    )

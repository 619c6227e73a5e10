"""``pps-publish publish``."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from pps_publisher.bundle import Bundle, load_bundle
from pps_publisher.cli.options import (
    current_time,
    demand_key,
    dry_run_option,
    key_option,
    output_option,
    passphrase_option,
    read_passphrase,
    repo_option,
    show,
)
from pps_publisher.cli.progress import facts_of, lines_of, next_step, planned_facts, planned_lines
from pps_publisher.deltas import Gain, Progress, add_deltas, find_sources, keep_served
from pps_publisher.keys import load_signer
from pps_publisher.repository import Repository


@click.command("publish")
@click.argument("builds", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@repo_option
@key_option
@passphrase_option
@click.option("--replace-staged", is_flag=True, help="Drop what waits for signatures and stage this instead.")
@click.option("--deltas", is_flag=True, help="Add deltas from the last two versions, so that sites fetch less.")
@dry_run_option
@output_option
def command(
    builds: tuple[Path, ...],
    repo: Path,
    key: Path | None,
    passphrase_file: Path | None,
    replace_staged: bool,
    deltas: bool,
    dry_run: bool,
    output: str,
) -> None:
    """Stage BUILDS (*.release.json, or a directory with one) with the first of two signatures."""
    repository = Repository(repo)
    with tempfile.TemporaryDirectory(prefix="pps-publish-") as scratch:
        if not dry_run:
            path = demand_key(key)
            signer = load_signer(path, read_passphrase(passphrase_file, str(path)))
        bundles = [load_bundle(build) for build in builds]
        if deltas:
            bundles = [_with_deltas(repository, bundle, Path(scratch)) for bundle in bundles]
        if dry_run:
            change = repository.plan_publish(bundles, current_time(), replace_staged=replace_staged)
            show(output, planned_facts(change), planned_lines(change), "run it again without --dry-run")
            return
        progress = repository.publish(bundles, signer, current_time(), replace_staged=replace_staged)
    show(output, facts_of(progress), lines_of(progress), next_step([progress]))


def _with_deltas(repository: Repository, bundle: Bundle, scratch: Path) -> Bundle:
    """Make the deltas of one build and tell on stderr what they save."""
    kept = keep_served(repository.store, bundle)
    if kept.pack is not None:
        click.echo(f"pps-publish: {bundle.release.id} keeps the deltas it is served with", err=True)
        return kept
    sources = find_sources(repository.store, bundle.release)
    with _progress(bundle.release.id) as progress:
        made, gain = add_deltas(bundle, sources, scratch, progress)
    click.echo(f"pps-publish: {_gain_line(bundle.release.id, gain)}", err=True)
    return made


def _gain_line(release: str, gain: Gain) -> str:
    if not gain.sources:
        return f"{release}: no earlier version is served, so there is nothing to make deltas from"
    sources = " and ".join(gain.sources)
    return f"{release}: {gain.deltas} deltas from {sources}: {gain.pack_bytes} bytes for frames of {gain.frame_bytes}"


@contextlib.contextmanager
def _progress(release: str) -> Iterator[Progress]:
    """Show a progress bar on a person's terminal, nothing elsewhere: large files take minutes."""
    if not sys.stderr.isatty():
        yield lambda _done_bytes, _total_bytes: None
        return
    with click.progressbar(length=1, label=f"deltas of {release}", file=sys.stderr) as bar:

        def advance(done_bytes: int, total_bytes: int) -> None:
            bar.length = total_bytes
            bar.update(done_bytes - bar.pos)

        yield advance

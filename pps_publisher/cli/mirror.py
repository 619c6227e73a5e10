"""``pps-publish mirror``."""

from pathlib import Path

import click

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
from pps_publisher.errors import EXIT_PEOPLE, UsageError
from pps_publisher.keys import load_signer
from pps_publisher.mirror import Drift, Upstream, compare, keep_origin
from pps_publisher.repository import Repository
from pps_wire.names import parse_release_id


@click.command("mirror")
@click.option(
    "--from",
    "source",
    required=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The upstream's served directory, or a copy of it.",
)
@click.option(
    "--root",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The upstream's root.json, had by a way you trust.",
)
@click.option("--release", "releases", multiple=True, metavar="ID", help="A release to mirror; repeatable.")
@click.option("--check", is_flag=True, help="Only say what upstream withdrew or replaced meanwhile; changes nothing.")
@click.option("--allow-expired", is_flag=True, help="Take an upstream copy whose only fault is that it has expired.")
@repo_option
@key_option
@passphrase_option
@click.option("--replace-staged", is_flag=True, help="Drop what waits for signatures and stage this instead.")
@dry_run_option
@output_option
def command(
    source: Path,
    root: Path,
    releases: tuple[str, ...],
    check: bool,
    allow_expired: bool,
    repo: Path,
    key: Path | None,
    passphrase_file: Path | None,
    replace_staged: bool,
    dry_run: bool,
    output: str,
) -> int:
    """Publish chosen releases of another repository in REPO, a pilot's own, byte for byte.

    Upstream is verified first, to the last byte. The releases are staged with the first of two
    signatures, as 'publish' does. With --check, exit code 5 says that upstream withdrew something that
    is offered here.
    """
    if check == bool(releases):
        raise UsageError("name releases with --release ID, or compare those mirrored already with --check")
    repository = Repository(repo)
    now = current_time()
    upstream = Upstream(source, root.read_bytes(), now, allow_expired=allow_expired)
    if check:
        return _check(repository, upstream, output)
    bundles = upstream.bundles(parse_release_id(release) for release in releases)
    bundles = keep_origin(bundles, repository.known_releases())
    if dry_run:
        change = repository.plan_publish(bundles, now, replace_staged=replace_staged)
        show(output, planned_facts(change), planned_lines(change), "run it again without --dry-run")
        return 0
    path = demand_key(key)
    signer = load_signer(path, read_passphrase(passphrase_file, str(path)))
    progress = repository.publish(bundles, signer, now, replace_staged=replace_staged)
    show(output, facts_of(progress), lines_of(progress), next_step([progress]))
    return 0


def _check(repository: Repository, upstream: Upstream, output: str) -> int:
    found = compare(repository, upstream)
    lines = [
        f"{one.release}: {one.drift.value}{': ' * bool(one.detail)}{one.detail}"
        f"{' (withdrawn here too)' if one.withdrawn_here else ''}"
        for one in found
    ]
    urgent = [one.release for one in found if one.drift in {Drift.WITHDRAWN, Drift.GONE} and not one.withdrawn_here]
    following = f"look into {', '.join(urgent)}; 'pps-publish withdraw' takes it back here" if urgent else "nothing"
    facts = [
        {
            "release": one.release,
            "upstream": one.drift.value,
            "detail": one.detail,
            "withdrawn_here": one.withdrawn_here,
        }
        for one in found
    ]
    show(output, {"releases": facts}, lines or ["nothing here was mirrored from there"], following)
    return EXIT_PEOPLE if urgent else 0

"""``./run bench [NAME…]``: measure the claims named (all by default), print one JSON object each."""

import sys
from collections.abc import Callable, Iterator
from typing import Final

import click

from benchmarks import (
    check_pps,
    cli_start,
    deltas,
    disk,
    false_announce,
    install,
    probes,
    refresh,
    rollback,
    runs,
    scale,
    tags,
    updates,
    withdrawal,
)
from benchmarks.measure import Claim

CLAIMS: Final[dict[str, Callable[[], Iterator[Claim]]]] = {
    "cli-start": cli_start.measure,
    "check-pps": check_pps.measure,
    "false-announce": false_announce.measure,
    "install-full": install.measure,
    "update-wall": updates.measure_wall,
    "update-bytes": updates.measure_bytes,
    "update-bytes-delta": deltas.measure_deltas,
    "disk-two-versions": disk.measure,
    "refresh-noop": refresh.measure,
    "install-scale": scale.measure,
    "rollback": rollback.measure,
    "withdraw-to-untag": withdrawal.measure,
    "probe-cpu": probes.measure_cpu,
    "probe-flood": runs.measure_flood,
    "probe-daemon": runs.measure_daemon,
    "probe-burst": probes.measure_burst,
    "probe-memory": probes.measure_memory,
    "probe-reload": probes.measure_reload,
    "tag-provider": tags.measure_provider,
    "tag-provider-scale": tags.measure_scale,
    "tag-cli": tags.measure_cli,
    "tag-imports": tags.measure_imports,
    "tag-concurrent": tags.measure_concurrent,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CLAIMS)))
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(names: tuple[str, ...], output: str) -> None:
    """Measure claims beside their peers; exit 1 when one does not hold."""
    holds = True
    for name in names or CLAIMS:
        for claim in CLAIMS[name]():
            holds = holds and claim.holds
            click.echo(claim.render() if output == "json" else _line(claim))
    sys.exit(0 if holds else 1)


def _line(claim: Claim) -> str:
    mark = "holds" if claim.holds else "MISSED"
    limits = f"; limits {', '.join(f'{key} {value:g}' for key, value in claim.limit.items())}" if claim.limit else ""
    note = f"; {claim.note}" if claim.note else ""
    return (
        f"{mark:<6} {claim.claim}: {claim.value:g} {claim.unit}, {claim.ratio:g} x {claim.peer}"
        f" ({claim.peer_value:g} {claim.unit}), target {claim.target}{limits}{note}"
    )


if __name__ == "__main__":
    main()

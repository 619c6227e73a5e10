"""``./run bench [NAME…]``: measure the claims named (all by default), print one JSON object each."""

import sys
from collections.abc import Callable, Iterator
from typing import Final

import click

from benchmarks import cli_start, distribution
from benchmarks.measure import Claim

CLAIMS: Final[dict[str, Callable[[], Iterator[Claim]]]] = {
    "cli-start": cli_start.measure,
    "install-full": distribution.measure_install,
    "update-bytes": distribution.measure_update,
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
    return (
        f"{mark:<6} {claim.claim}: {claim.value:g} {claim.unit}, {claim.ratio:g} x {claim.peer}"
        f" ({claim.peer_value:g} {claim.unit}), target {claim.target}"
    )


if __name__ == "__main__":
    main()

"""``tag reconcile``: the lists beside what the information system shows."""

import click

from pps_agent.cli import context
from pps_agent.cli.tag_site import refuse, sc_option, subclusters
from pps_agent.infosys import Expectation, Published, observe_published, wait_published
from pps_agent.settings import Settings
from pps_agent.state import Unknown
from pps_agent.tags.comparison import Compared, Finding, compare, find_removed
from pps_agent.tags.errors import UnknownTargetError
from pps_agent.tags.open import open_tags
from pps_agent.tags.store import TagStore
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag

EXIT_DIFFERS = 1
EXIT_UNREACHABLE = 2


@click.command()
@sc_option
@click.option(
    "--server", "servers", multiple=True, help="LDAP address; may be repeated. Else infosys.url and its mirrors."
)
@click.option("--wait", "wait_s", type=click.IntRange(0), default=0, help="Seconds to wait until all tags are shown.")
@context.output_option
def reconcile(sc: str | None, servers: tuple[str, ...], wait_s: int, output: str) -> int:
    """Compare the lists with what the information system shows: published, missing, stale, extra, unreachable.

    The first server that answers is believed. Exit codes: 0 all published, 1 not all, 2 not reachable.
    """
    settings = context.settings()
    try:
        chosen = subclusters(settings, sc)
    except WireError as exc:
        return refuse(exc)
    store = open_tags(settings)
    listed = {subcluster: store.announced(subcluster) for subcluster in chosen}
    urls = servers or tuple(filter(None, (settings.infosys.url, *settings.infosys.mirrors)))
    if not urls:
        raise UnknownTargetError("no information system is named: set infosys.url, or give --server")
    problems: list[str] = []
    seen, server, delay_s = _look(settings, urls, listed, wait_s, problems)
    removed = {subcluster: _removed(store, subcluster) for subcluster in chosen}
    found = compare(listed, {} if isinstance(seen, Unknown) else seen, removed)
    if output == "json":
        rows = [{"subcluster": one.subcluster, "tag": one.tag, "finding": one.finding.value} for one in found]
        context.print_json({"server": server, "delay_s": round(delay_s, 3), "problems": problems, "tags": rows})
    else:
        _print(found, server, problems)
    return _exit_code(found)


def _look(
    settings: Settings,
    urls: tuple[str, ...],
    listed: dict[Subcluster, frozenset[Tag]],
    wait_s: int,
    problems: list[str],
) -> tuple[Published | Unknown, str, float]:
    """Give what the first server shows that answers, its address, and how long it took until all was shown."""
    infosys = settings.infosys
    for url in urls:
        if wait_s:
            wanted = {subcluster: Expectation(present=_publishable(tags)) for subcluster, tags in listed.items()}
            waited = wait_published(url, infosys.base, wanted, timeout_s=infosys.timeout_s, wait_s=wait_s)
            seen, delay_s = waited.observed, waited.delay_s
        else:
            seen, delay_s = observe_published(url, infosys.base, listed, infosys.timeout_s), 0.0
        if not isinstance(seen, Unknown):
            return seen, url, delay_s
        problems.append(seen.reason)
    return Unknown("; ".join(problems)), "", 0.0


def _publishable(tags: frozenset[Tag]) -> frozenset[Tag]:
    """Give what publishers publish: of tags that differ in letter case only, the first."""
    unique: dict[str, Tag] = {}
    for tag in sorted(tags):
        unique.setdefault(tag.lower(), tag)
    return frozenset(unique.values())


def _removed(store: TagStore, subcluster: Subcluster) -> frozenset[str]:
    return frozenset(tag for vo in store.known_vos() for tag in find_removed(store.ledger(vo).entries(), subcluster))


def _print(found: tuple[Compared, ...], server: str, problems: list[str]) -> None:
    for problem in problems:
        click.echo(f"pps-agent: warning: {problem}", err=True)
    if server:
        click.echo(f"looked at {server}", err=True)
    for one in found:
        context.print_line(f"{one.finding.value:<11} {one.subcluster} {one.tag}".rstrip())


def _exit_code(found: tuple[Compared, ...]) -> int:
    findings = {one.finding for one in found}
    if Finding.UNREACHABLE in findings:
        return EXIT_UNREACHABLE
    return EXIT_DIFFERS if findings - {Finding.PUBLISHED} else 0

"""``tag reconcile``: the lists beside what the information system shows."""

import click

from pps_agent.cli import context
from pps_agent.cli.tag_site import meant, preproduction_option, refuse, sc_option
from pps_agent.infosys import Answer, Expectation, ask_servers, wait_published
from pps_agent.state import Unknown
from pps_agent.tags.comparison import Compared, Finding, compare, find_removed
from pps_agent.tags.errors import UnknownTargetError
from pps_agent.tags.lists import TagLists
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag

EXIT_DIFFERS = 1
EXIT_UNREACHABLE = 2


@click.command()
@sc_option
@preproduction_option
@click.option(
    "--server", "servers", multiple=True, help="LDAP address; may be repeated. Else infosys.url and its mirrors."
)
@click.option("--base", help="Search base, e.g. o=glue for GLUE 2; else infosys.base.")
@click.option("--wait", "wait_s", type=click.IntRange(0), default=0, help="Seconds to wait until all tags are shown.")
@context.output_option
def reconcile(
    sc: str | None, preproduction: bool, servers: tuple[str, ...], base: str | None, wait_s: int, output: str
) -> int:
    """Compare the lists with what the information system shows: published, missing, stale, extra, unreachable.

    The first server that answers is believed. Exit codes: 0 all published, 1 not all, 2 not reachable.
    """
    settings = context.tag_settings()
    try:
        area, chosen = meant(settings, sc, preproduction=preproduction)
    except WireError as exc:
        return refuse(exc)
    store = area.open()
    listed = {subcluster: store.announced(subcluster) for subcluster in chosen}
    urls = servers or area.servers
    if not urls:
        raise UnknownTargetError("no information system is named: set infosys.url, or give --server")
    answer, delay_s = _look(base or area.search_base, urls, listed, settings.infosys.timeout_s, wait_s)
    removed = {subcluster: _removed(store, subcluster) for subcluster in chosen}
    found = compare(listed, {} if isinstance(answer.shown, Unknown) else answer.shown, removed)
    if output == "json":
        rows = [{"subcluster": one.subcluster, "tag": one.tag, "finding": one.finding.value} for one in found]
        told = {"server": answer.server, "delay_s": round(delay_s, 3), "problems": answer.problems}
        context.print_json(told | {"tags": rows})
    else:
        _print(found, answer)
    return _exit_code(found)


def _look(
    base: str, urls: tuple[str, ...], listed: dict[Subcluster, frozenset[Tag]], timeout_s: int, wait_s: int
) -> tuple[Answer, float]:
    """Give what the first server shows that answers, and how long it took until all was shown."""
    if not wait_s:
        return ask_servers(urls, base, listed, timeout_s), 0.0
    wanted = {subcluster: Expectation(present=_publishable(tags)) for subcluster, tags in listed.items()}
    waited = wait_published(urls, base, wanted, timeout_s=timeout_s, wait_s=wait_s)
    return waited.answer, waited.delay_s


def _publishable(tags: frozenset[Tag]) -> frozenset[Tag]:
    """Give what publishers publish: of tags that differ in letter case only, the first."""
    unique: dict[str, Tag] = {}
    for tag in sorted(tags):
        unique.setdefault(tag.lower(), tag)
    return frozenset(unique.values())


def _removed(store: TagLists, subcluster: Subcluster) -> frozenset[str]:
    return frozenset(tag for vo in store.known_vos() for tag in find_removed(store.ledger(vo).entries(), subcluster))


def _print(found: tuple[Compared, ...], answer: Answer) -> None:
    for problem in answer.problems:
        click.echo(f"pps-agent: warning: {problem}", err=True)
    if answer.server:
        click.echo(f"looked at {answer.server}", err=True)
    for one in found:
        context.print_line(f"{one.finding.value:<11} {one.subcluster} {one.tag}".rstrip())


def _exit_code(found: tuple[Compared, ...]) -> int:
    findings = {one.finding for one in found}
    if Finding.UNREACHABLE in findings:
        return EXIT_UNREACHABLE
    return EXIT_DIFFERS if findings - {Finding.PUBLISHED} else 0

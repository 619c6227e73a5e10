"""Which version is where: built from the latest states, pure, the same for the page and for JSON."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import msgspec

from pps_wire.names import DEFAULT_GROUP, version_key
from pps_wire.report import BODIES, Body, ProbeBody, ReleaseBody, RoundBody, Status, TagBody

MAX_DETAILS: Final = 4096
_Place = tuple[str, str]
"""Site and host group."""
_WORST_FIRST: Final = (Status.CRITICAL, Status.UNKNOWN, Status.WARNING, Status.OK)


@dataclass(frozen=True, slots=True)
class LatestRow:
    """One row of ``latest``: the body as JSON text, when it was true, and when its agent was last heard of."""

    site: str
    kind: str
    body: str
    at: datetime
    group: str = DEFAULT_GROUP
    last_seen_at: datetime | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Site and host group."""
        return self.site, self.group


@dataclass(frozen=True, slots=True)
class SiteRow:
    """A site that has enrolled agents, and when any of them last sent something."""

    site: str
    agents: int
    last_seen_at: datetime | None


class ProbeCell(msgspec.Struct, frozen=True, kw_only=True):
    """A probe's latest result; ``details`` only when it is not OK, and clipped."""

    probe: str
    status: str
    summary: str
    details: str
    host: str
    at: datetime


class TagCell(msgspec.Struct, frozen=True, kw_only=True):
    """A tag's latest known state."""

    tag: str
    vo: str
    subcluster: str
    state: str
    at: datetime


class SiteCell(msgspec.Struct, frozen=True, kw_only=True):
    """One release in one host group; ``state`` is empty when only probes or tags were reported yet."""

    site: str
    group: str
    silent: bool
    state: str
    current: bool
    reason: str
    at: datetime | None
    probes: list[ProbeCell]
    tags: list[TagCell]


class ReleaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """One release and the sites that reported it."""

    release: str
    component: str
    version: str
    platform: str
    sites: list[SiteCell]


class RoundCell(msgspec.Struct, frozen=True, kw_only=True):
    """A site's latest reconcile round."""

    state: str
    done: int
    failed: int
    took_s: float
    trust: str
    agent_version: str
    single_user: bool
    paused: bool
    at: datetime


class SiteLife(msgspec.Struct, frozen=True, kw_only=True):
    """A host group's sign of life; ``silent`` is judged by the collector's clock, at the time of asking."""

    site: str
    group: str
    agents: int
    silent: bool
    last_seen_at: datetime | None
    round: RoundCell | None
    production: list[ProbeCell]


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """The whole page. ``unreadable`` counts stored states that this program cannot read."""

    generated_at: datetime
    silent_after_s: int
    sites: list[SiteLife]
    releases: list[ReleaseRow]
    unreadable: int


@dataclass(slots=True)
class _Gathered:
    """What was reported of one release in one host group."""

    state: tuple[ReleaseBody, datetime] | None = None
    probes: list[ProbeCell] = field(default_factory=list)
    tags: list[TagCell] = field(default_factory=list)


def build_matrix(rows: Iterable[LatestRow], sites: Sequence[SiteRow], now: datetime, silent_after_s: int) -> Matrix:
    """Arrange the latest states by release, site and host group: components by name, newest version first."""
    rows = list(rows)
    life = _find_life(rows, sites, now, silent_after_s)
    silent = {(one.site, one.group): one.silent for one in life}
    releases: dict[str, dict[_Place, _Gathered]] = defaultdict(lambda: defaultdict(_Gathered))
    production: dict[_Place, list[ProbeCell]] = defaultdict(list)
    rounds: dict[_Place, RoundCell] = {}
    unreadable = 0
    for row in rows:
        match _read_body(row):
            case None:
                unreadable += 1
            case ProbeBody(partial=True):
                pass  # what the nodes say together is a result of its own
            case ProbeBody() as body if body.release is None:
                production[row.place].append(_probe_cell(body, row.at))
            case ProbeBody(release=str(release)) as body:
                releases[release][row.place].probes.append(_probe_cell(body, row.at))
            case ReleaseBody() as body:
                releases[body.release][row.place].state = (body, row.at)
            case TagBody() as body if body.release is not None:
                releases[body.release][row.place].tags.append(_tag_cell(body, row.at))
            case RoundBody() as body:
                rounds[row.place] = _round_cell(body, row.at)
            case _:
                pass  # a tag without a release is not one of ours to show here
    return Matrix(
        generated_at=now,
        silent_after_s=silent_after_s,
        sites=[
            msgspec.structs.replace(
                one,
                round=rounds.get((one.site, one.group)),
                production=_sorted_probes(production.get((one.site, one.group), [])),
            )
            for one in life
        ],
        releases=_newest_first(_release_row(release, cells, silent) for release, cells in releases.items()),
        unreadable=unreadable,
    )


def _find_life(
    rows: Iterable[LatestRow], sites: Iterable[SiteRow], now: datetime, silent_after_s: int
) -> list[SiteLife]:
    """Give every host group that reported, and each site that has not yet, with its sign of life.

    A site's only group lives as long as any agent of the site is heard of; several are told apart by
    the agents that reported for them.
    """
    heard: dict[str, dict[str, datetime | None]] = defaultdict(dict)
    for row in rows:
        known = heard[row.site].get(row.group)
        heard[row.site][row.group] = max((at for at in (known, row.last_seen_at) if at is not None), default=None)
    life = []
    for site in sorted(sites, key=lambda one: one.site):
        groups = heard.get(site.site) or {DEFAULT_GROUP: None}
        for group, last in sorted(groups.items()):
            seen = last if len(groups) > 1 else site.last_seen_at
            life.append(
                SiteLife(
                    site=site.site,
                    group=group,
                    agents=site.agents,
                    silent=seen is None or now - seen > timedelta(seconds=silent_after_s),
                    last_seen_at=seen,
                    round=None,
                    production=[],
                )
            )
    return life


def _read_body(row: LatestRow) -> Body | None:
    kind = BODIES.get(row.kind)
    try:
        return msgspec.json.decode(row.body, type=kind) if kind is not None else None
    except msgspec.MsgspecError:
        return None  # stored by a program with another idea of this kind; counted by the caller


def _probe_cell(body: ProbeBody, at: datetime) -> ProbeCell:
    return ProbeCell(
        probe=body.probe,
        status=body.status.name.lower(),
        summary=body.summary,
        details=body.details[:MAX_DETAILS] if body.status is not Status.OK else "",
        host=body.host,
        at=at,
    )


def _tag_cell(body: TagBody, at: datetime) -> TagCell:
    return TagCell(tag=body.tag, vo=body.vo, subcluster=body.subcluster, state=body.state.value, at=at)


def _round_cell(body: RoundBody, at: datetime) -> RoundCell:
    return RoundCell(
        state="failed" if body.failed else "ok",
        done=body.done,
        failed=body.failed,
        took_s=body.took_s,
        trust=body.trust,
        agent_version=body.agent_version,
        single_user=body.single_user,
        paused=body.paused,
        at=at,
    )


def _release_row(release: str, cells: dict[_Place, _Gathered], silent: dict[_Place, bool]) -> ReleaseRow:
    known = next((one.state[0] for one in cells.values() if one.state is not None), None)
    component, version = (known.component, known.version) if known is not None else (release, "")
    # An id is never parsed: what is left of it after the two reported parts is the platform.
    platform = release.removeprefix(f"{component}-{version}-") if known is not None else ""
    return ReleaseRow(
        release=release,
        component=component,
        version=version,
        platform=platform if platform != release else "",
        sites=[_site_cell(place, cells[place], silent.get(place, True)) for place in sorted(cells)],
    )


def _site_cell(place: _Place, gathered: _Gathered, silent: bool) -> SiteCell:
    body, at = gathered.state if gathered.state is not None else (None, None)
    return SiteCell(
        site=place[0],
        group=place[1],
        silent=silent,
        state=body.word if body is not None else "",
        current=body.current if body is not None else False,
        reason=body.reason if body is not None else "",
        at=at,
        probes=_sorted_probes(gathered.probes),
        tags=sorted(gathered.tags, key=lambda one: (one.vo, one.subcluster, one.tag)),
    )


def _sorted_probes(probes: list[ProbeCell]) -> list[ProbeCell]:
    order = {status.name.lower(): place for place, status in enumerate(_WORST_FIRST)}
    return sorted(probes, key=lambda one: (order[one.status], one.probe))


def _newest_first(rows: Iterable[ReleaseRow]) -> list[ReleaseRow]:
    by_version = sorted(rows, key=lambda row: (version_key(row.version), row.platform), reverse=True)
    return sorted(by_version, key=lambda row: row.component)

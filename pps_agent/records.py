"""Turns what one round knows into records for the collector. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from pps_agent.standing import Standing
from pps_agent.state import (
    Action,
    AddTags,
    Compose,
    Drain,
    Install,
    Outcome,
    Probe,
    ProbeResult,
    Remove,
    RemoveTags,
    Switch,
    Undrain,
)
from pps_wire.names import DEFAULT_GROUP, HostGroup
from pps_wire.report import Body, ProbeBody, ReleaseBody, ReleaseState, RoundBody, TagBody, TagState

_WORDS: Final[Mapping[type[Action], str]] = {
    RemoveTags: "untag",
    Undrain: "stop draining",
    Install: "install",
    Compose: "compose",
    Probe: "probe",
    Switch: "switch",
    AddTags: "tag",
    Drain: "drain",
    Remove: "remove",
}


def describe_round(
    summary: RoundBody,
    outcomes: tuple[Outcome, ...],
    standings: tuple[Standing, ...],
    host: str,
    withheld: tuple[Action, ...] = (),
) -> Iterable[Body]:
    """Give all records of one round, the summary last. A failed or finished release comes after its standing.

    ``withheld`` is what a site that only observes would have done: told in the reasons. All are of the
    summary's host group.
    """
    for body in _describe_parts(outcomes, standings, host, withheld):
        yield msgspec.structs.replace(body, group=summary.group)
    yield msgspec.structs.replace(summary, would=len(withheld))


def _describe_parts(
    outcomes: tuple[Outcome, ...], standings: tuple[Standing, ...], host: str, withheld: tuple[Action, ...]
) -> Iterable[Body]:
    standing_of: Mapping[str, Standing] = {standing.release: standing for standing in standings}
    for outcome in outcomes:
        yield from describe_results(outcome.results, host)
    yield from describe_untagging(outcomes)
    yield from _describe_standings(standings, withheld)
    for outcome in outcomes:
        yield from _describe_end(outcome, standing_of)


def describe_untagging(outcomes: tuple[Outcome, ...], group: HostGroup = DEFAULT_GROUP) -> Iterator[TagBody]:
    """Give the records of the tags that were removed."""
    for outcome in outcomes:
        match outcome.action:
            case RemoveTags(release, subcluster, tags) if not outcome.error:
                for vo, tag in tags:
                    yield TagBody(
                        tag=tag, vo=vo, subcluster=subcluster, state=TagState.REMOVED, release=release, group=group
                    )


def _describe_end(outcome: Outcome, standing_of: Mapping[str, Standing]) -> Iterable[ReleaseBody]:
    """Give the release records that a standing cannot show: removed for good, or an action that failed."""
    action = outcome.action
    release = getattr(action, "release", None)
    standing = standing_of.get(release) if release is not None else None
    removed = isinstance(action, Remove) and not outcome.error
    if release is None or (not removed and not outcome.error):
        return
    reason = action.reason if isinstance(action, Remove) and removed else f"{type(action).__name__}: {outcome.error}"
    yield ReleaseBody(
        release=release,
        component=standing.component if standing else "",
        version=standing.version if standing else "",
        state=ReleaseState.REMOVED if removed else ReleaseState.FAILED,
        reason=reason[:1024],
        current=standing.current if standing else False,
        stage=standing.stage if standing else "",
    )


def describe_results(
    results: tuple[ProbeResult, ...], host: str, group: HostGroup = DEFAULT_GROUP
) -> Iterator[ProbeBody]:
    """Give the records of probe runs; ``host`` is where they ran if they do not say."""
    for result in results:
        yield ProbeBody(
            probe=result.probe,
            release=result.release,
            status=result.status,
            summary=result.summary[:1024],
            details=result.details[:65_536],
            duration_s=result.duration_s,
            host=result.host or host,
            cause=result.cause,
            perfdata=result.perfdata,
            attempt=result.attempt,
            hard=result.hard,
            exit_code=result.exit_code,
            signal=result.signal,
            timed_out=result.timed_out,
            truncated_bytes=result.truncated_bytes,
            output_bytes=result.output_bytes,
            leftovers_killed=result.leftovers_killed,
            cpu_s=result.cpu_s,
            max_rss_bytes=result.max_rss_bytes,
            digest=result.digest,
            client=result.client,
            parent=result.parent,
            partial=bool(result.host),
            group=group,
        )


def _describe_standings(
    standings: tuple[Standing, ...], withheld: tuple[Action, ...]
) -> Iterator[ReleaseBody | TagBody]:
    """Give the records of releases and their tags."""
    for standing in standings:
        due = {_WORDS[type(action)]: None for action in withheld if action.release == standing.release}
        would = f"would {', '.join(due)}: " if due else ""
        yield ReleaseBody(
            release=standing.release,
            component=standing.component,
            version=standing.version,
            state=standing.state,
            reason=f"{would}{standing.reason}"[:1024],
            current=standing.current,
            stage=standing.stage,
        )
        for tag in standing.tags:
            yield TagBody(tag=tag.tag, vo=tag.vo, subcluster=tag.subcluster, state=tag.state, release=standing.release)

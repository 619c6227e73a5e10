"""Turns what one round knows into records for the collector. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from pps_agent.standing import Standing
from pps_agent.state import Outcome, ProbeResult, Remove, RemoveTags
from pps_wire.report import Body, ProbeBody, ReleaseBody, ReleaseState, RoundBody, TagBody, TagState


def describe_round(
    summary: RoundBody, outcomes: tuple[Outcome, ...], standings: tuple[Standing, ...], host: str
) -> Iterable[Body]:
    """Give all records of one round, the summary last. A failed or finished release comes after its standing."""
    standing_of: Mapping[str, Standing] = {standing.release: standing for standing in standings}
    for outcome in outcomes:
        yield from _describe_results(outcome.results, host)
        match outcome.action:
            case RemoveTags(release, subcluster, tags) if not outcome.error:
                for vo, tag in tags:
                    yield TagBody(tag=tag, vo=vo, subcluster=subcluster, state=TagState.REMOVED, release=release)
    yield from _describe_standings(standings)
    for outcome in outcomes:
        yield from _describe_end(outcome, standing_of)
    yield summary


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
    )


def _describe_results(results: tuple[ProbeResult, ...], host: str) -> Iterator[ProbeBody]:
    """Give the records of probe runs."""
    for result in results:
        yield ProbeBody(
            probe=result.probe,
            release=result.release,
            status=result.status,
            summary=result.summary[:1024],
            details=result.details[:65_536],
            duration_s=result.duration_s,
            host=host,
        )


def _describe_standings(standings: tuple[Standing, ...]) -> Iterator[ReleaseBody | TagBody]:
    """Give the records of releases and their tags."""
    for standing in standings:
        yield ReleaseBody(
            release=standing.release,
            component=standing.component,
            version=standing.version,
            state=standing.state,
            reason=standing.reason[:1024],
            current=standing.current,
        )
        for tag in standing.tags:
            yield TagBody(tag=tag.tag, vo=tag.vo, subcluster=tag.subcluster, state=tag.state, release=standing.release)

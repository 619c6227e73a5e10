"""What a site's information systems show, all of them together: the answer that ``job published`` gives.

Importing it costs 200 ms, for ldap3.
"""

import time
from collections.abc import Iterable
from typing import Final

from pps_agent.infosys import Answer, Expectation, ask_servers, wait_published
from pps_agent.jobs import Expected, PublishedReply
from pps_agent.state import Unknown
from pps_agent.tags.areas import Area
from pps_wire.names import Subcluster, Tag

_LONGEST_POLL_S: Final = 10.0


def look_at_areas(areas: Iterable[Area], expected: Expected, timeout_s: float) -> PublishedReply:
    """Look at each information system that has a server, waiting for what is expected of its subclusters.

    One that cannot be looked at makes the whole unknown: nothing is to be removed that may be shown there.
    """
    began = time.monotonic()
    tags: dict[str, list[str]] = {}
    problems: list[str] = []
    missed = waited = False
    for area in areas:
        wanted = _expectations(expected, area)
        left_s = expected.wait_s - (time.monotonic() - began)
        if not area.servers:
            continue
        if wanted and expected.wait_s:
            ended = wait_published(
                area.servers,
                area.search_base,
                wanted,
                timeout_s=timeout_s,
                wait_s=max(0.0, left_s),
                poll_s=min(_LONGEST_POLL_S, max(1.0, expected.wait_s / 100)),
            )
            waited, missed = True, missed or not ended.reached
        # Those that nothing is expected of count too: what they show keeps trees from being removed.
        answer = ask_servers(area.servers, area.search_base, area.subclusters, timeout_s)
        _take(answer, tags, problems)
    if problems:
        return PublishedReply(unknown="; ".join(problems))
    delay_s = max(0.0, time.time() - expected.changed_at) if waited and not missed else None
    return PublishedReply(tags=tags, delay_s=delay_s)


def _expectations(expected: Expected, area: Area) -> dict[Subcluster, Expectation]:
    return {
        name: Expectation(
            frozenset(Tag(tag) for tag in expected.present.get(name, ())),
            frozenset(Tag(tag) for tag in expected.absent.get(name, ())),
        )
        for name in area.subclusters
        if name in expected.present or name in expected.absent
    }


def _take(answer: Answer, tags: dict[str, list[str]], problems: list[str]) -> None:
    if isinstance(answer.shown, Unknown):
        problems.append(answer.shown.reason)
    else:
        tags |= {name: sorted(there) for name, there in answer.shown.items()}

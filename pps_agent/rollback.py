"""Back to the release before, at once and without a network.

The decision is recorded first, so that no round goes forward again; then the tags go, then ``current``
is switched. Ended in between, the same command goes on where it stopped.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from pps_agent.errors import AgentError
from pps_agent.history import History
from pps_agent.policy import Consent
from pps_agent.store import Store
from pps_agent.tags.areas import SiteTags
from pps_agent.tags.change import Request
from pps_agent.tags.errors import TagError
from pps_wire.names import Component, ReleaseId, Subcluster, Tag, Vo


@dataclass(frozen=True, slots=True)
class Rollback:
    """One decided rollback. ``tags`` are those to withdraw; ``problem`` says why they could not be read."""

    component: Component
    left: ReleaseId
    target: ReleaseId
    tags: tuple[tuple[Subcluster, Vo, Tag], ...] = ()
    problem: str = ""


def decide_rollback(component: Component, store: Store, tags: SiteTags, history: History) -> Rollback:
    """Find the newest earlier release of a component that is still complete.

    One that was declined, rolled back or is draining is passed over. Raises: AgentError when there is
    none; SiteError.
    """
    current = store.current()
    left = current.get(component)
    if left is None:
        known = ", ".join(sorted(current)) or "none"
        raise AgentError(f"{component}: has no current release; components that have one: {known}")
    refused = []
    spurned = history.spurned()
    for release in store.earlier(component):
        seen = None if release in spurned else store.look(release)
        if seen is not None and not seen.fault:
            doomed, problem = _find_tags(left, store, tags)
            return Rollback(component, left, release, doomed, problem)
        refused.append(f"{release} {_fault(release in spurned, seen.fault if seen else '')}")
    why = "; ".join(refused) or "no other release of it was current before and is still installed"
    raise AgentError(f"{component}: no release to go back to ({why}); pps-agent release list shows what there is")


def roll_back(decided: Rollback, consent: Consent, store: Store, tags: SiteTags, history: History, at: datetime) -> str:
    """Carry out a decided rollback; give what of its tags could not be withdrawn, or an empty text.

    ``consent`` is a person's word for it; without a reason it names the release that comes instead.
    Tags that stay are withdrawn by the next round. Raises: AgentError when another process switched
    meanwhile; SiteError.
    """
    with store.lock():
        if store.current().get(decided.component) != decided.left:
            raise AgentError(f"{decided.component}: was switched meanwhile; look at pps-agent release list")
        reason = consent.reason or f"in favour of {decided.target}"
        history.decide(decided.left, replace(consent, reason=reason), at)
        problem = decided.problem
        for subcluster, vo, tag in decided.tags:
            try:
                tags.remove(vo, tag, subcluster, request=Request(reason=reason, person=False))
            except TagError as exc:
                problem = str(exc)
        store.switch(decided.component, decided.target)
    return problem


def _find_tags(left: ReleaseId, store: Store, tags: SiteTags) -> tuple[tuple[tuple[Subcluster, Vo, Tag], ...], str]:
    """Give the release's tags that stand somewhere, but for those another installed release has as well."""
    description = store.description(left)
    if description is None:
        return (), f"{left}: its description is lost, so its tags are not known"
    others = (store.description(release) for release in store.ids() if release != left)
    shared = {tag for other in others if other is not None for tag in other.tags().values()}
    found, problems = [], dict[str, None]()
    for subcluster, lists in tags.serving():
        for vo, tag in sorted(description.tags().items()):
            try:
                if tag not in shared and tag in lists.standing(vo, subcluster):
                    found.append((subcluster, vo, tag))
            except TagError as exc:  # one list keeps no tag in another
                problems[str(exc)] = None
    return tuple(found), "; ".join(problems)


def _fault(spurned: bool, fault: str) -> str:
    if spurned:
        return "was declined, rolled back or is on its way out"
    return f"is damaged ({fault}; see pps-agent release repair)" if fault else "is not complete"

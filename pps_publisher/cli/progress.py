"""How the commands tell what became of a signature and what comes next."""

from collections.abc import Iterable, Iterator
from typing import Any

from pps_publisher.roles import ROOT
from pps_publisher.staging import Change, Progress

SEEN_AFTER = "the online signer runs 'pps-publish refresh' on this served directory: sites see it only then"


def facts_of(progress: Progress) -> dict[str, Any]:
    """Give one version of a role for JSON output."""
    return {
        "role": progress.role,
        "version": progress.version,
        "changes": list(progress.lines),
        "signed_by": list(progress.signatures.signed),
        "may_still_sign": list(progress.signatures.waiting),
        "threshold": progress.signatures.threshold,
        "served": progress.served,
    }


def lines_of(progress: Progress) -> Iterator[str]:
    """Give one version of a role for people."""
    signatures = progress.signatures
    count = f"{min(len(signatures.signed), signatures.threshold)} of {signatures.threshold} signatures"
    yield f"{progress.role} version {progress.version}: {count} ({', '.join(signatures.signed) or 'none'})"
    for line in progress.lines:
        yield f"  {line}"
    if progress.served and progress.role == ROOT:
        yield "  served, and seen by sites at once"
    elif progress.served:
        yield "  served, and seen by sites after the next refresh"
    elif signatures.complete:
        yield "  signed; served when what it vouches for is: after other signatures, or a refresh with the new key"
    else:
        yield f"  staged: no site can see it; may still sign: {', '.join(signatures.waiting) or 'nobody'}"


def next_step(many: Iterable[Progress]) -> str:
    """Give what to do after these signatures."""
    for progress in many:
        if not progress.signatures.complete:
            names = " or ".join(progress.signatures.waiting)
            return f"{names} runs 'pps-publish sign'"
    return SEEN_AFTER


def planned_facts(change: Change) -> dict[str, Any]:
    """Give a change that was not made, for JSON output."""
    return {
        "role": change.role,
        "version": change.metadata.signed.version,
        "changes": list(change.lines),
        "expires_at": change.metadata.signed.expires,
    }


def planned_lines(change: Change) -> Iterator[str]:
    """Give a change that was not made, for people."""
    expires = change.metadata.signed.expires
    yield f"{change.role} version {change.metadata.signed.version}, valid until {expires:%Y-%m-%d}:"
    for line in change.lines:
        yield f"  {line}"

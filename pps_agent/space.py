"""Is there room: file system, quota of the account, and what the site allows; asked before a byte is fetched."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pps_agent.disk import Space, measure_free, measure_used, site_error
from pps_agent.errors import SiteError
from pps_agent.quota import observe_quotas
from pps_agent.settings import StoreSettings


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound: what it is called, how much is left of it, who can move it."""

    name: str
    left: Space
    advice: str


def find_shortages(needed: Space, limits: Iterable[Limit]) -> list[Limit]:
    """Give the limits that ``needed`` does not fit into. Pure."""
    return [limit for limit in limits if not limit.left.holds(needed)]


def require_space(root: Path, what: str, needed: Space, settings: StoreSettings) -> None:
    """Refuse what does not fit. Raises: SiteError with required and available space of each limit that is short."""
    try:
        limits = _observe_limits(root, settings)
    except OSError as exc:
        raise site_error(exc, root) from exc
    short = find_shortages(needed, limits)
    if short:
        figures = "; ".join(f"{limit.name}: {limit.left} are free; {limit.advice}" for limit in short)
        raise SiteError(f"{root}: {what} needs {needed}; {figures}")


def require_allowed(release: str, installed_bytes: int, settings: StoreSettings) -> None:
    """Refuse a release that is larger than the site allows. Raises: SiteError."""
    if installed_bytes > settings.max_bytes:
        raise SiteError(
            f"{release}: takes {installed_bytes} bytes, store.max_bytes allows {settings.max_bytes}; "
            "raise it or leave this release out"
        )


def _observe_limits(root: Path, settings: StoreSettings) -> list[Limit]:
    limits = [Limit("the file system", measure_free(root), "free space on that file system, or move the store")]
    limits += [
        Limit(f"the {quota.kind} quota of {quota.owner}", quota.left, "raise that quota, or free space")
        for quota in observe_quotas(root)
    ]
    if settings.max_total_bytes:
        left = max(0, settings.max_total_bytes - measure_used(root))
        limits.append(Limit("store.max_total_bytes", Space(left, None), "raise it, or run pps-agent release gc"))
    return limits

"""One probe on production and on previews, side by side, as JSON and text."""

from collections.abc import Iterable
from typing import Any

from pps_agent.cli import context
from pps_agent.errors import SiteError
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.matrix import compare
from pps_agent.site import Site


def describe_comparisons(site: Site, probes: Iterable[ProbeDefinition]) -> list[dict[str, Any]]:
    """Give, of the probes that compare, what production and each installed preview have; nothing that is not known."""
    names = [probe.name for probe in probes if probe.matrix]
    try:
        installed = {None, *site.store.installed()}
        known = [site.history.recorded.newest_by_release(name) for name in names]
    except SiteError:
        return []
    results = {key: seen for each in known for key, seen in each.items() if key.release in installed}
    return [
        {
            "metric": one.metric,
            "production": one.production.name if one.production is not None else None,
            "production_summary": one.production_summary,
            "previews": {release: {"status": status.name, "summary": text} for release, status, text in one.previews},
            "differing": list(one.differing),
            "text": one.describe(),
        }
        for one in compare(results, names)
    ]


def print_comparisons(comparisons: Iterable[dict[str, Any]]) -> None:
    """Print one line for each."""
    for one in comparisons:
        context.print_line(f"compared  {one['metric']}: {one['text']}")

"""Runs a shipped probe through a runner of its own, contained as at a site: ``python -m`` with name and environment.

A program, so that a test can have it inside a network of its own. It prints each result's metric and status as JSON.
"""

import json
import sys

from pps_agent.probes.catalogue import load_catalogue
from pps_agent.probes.client import start_runner


def main() -> None:
    """Run the probe named first in the environment given second, as JSON."""
    definition = load_catalogue().find(sys.argv[1])
    assert definition is not None
    with start_runner() as runner:
        results = runner.run_all((definition,), json.loads(sys.argv[2]), None)
    json.dump([[result.probe, result.status.name, result.summary] for result in results], sys.stdout)


if __name__ == "__main__":
    main()

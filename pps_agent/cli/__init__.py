"""The command line. ``main`` imports nothing heavy, so that ``--version`` costs what Python costs."""

import sys


def main() -> None:
    """Run ``pps-agent`` and exit with the documented code."""
    if sys.argv[1:] == ["--version"]:
        from pps_agent import __version__  # here and below: the fast path must stay bare

        print(f"pps-agent {__version__}")
        return
    from pps_agent.cli.app import run

    sys.exit(run())

"""``pps-publish``: the entry point. ``--version`` is answered before anything else is imported."""

import sys

from pps_publisher import __version__


def main() -> None:
    """Run ``pps-publish`` with the process's arguments and end with its exit code."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"pps-publish {__version__}\n")
        return
    from pps_publisher.cli.program import run  # imported late: click costs more than the answer above

    sys.exit(run(sys.argv[1:]))

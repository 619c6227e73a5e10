"""The ``pps-collector`` command. Sub-commands are imported when they are called."""

import sys


def main() -> None:
    """Run the command line; ``--version`` answers before anything heavy is imported."""
    if sys.argv[1:] == ["--version"]:
        from pps_collector import __version__

        print(f"pps-collector {__version__}")
        return
    from pps_collector.cli.main import run

    run()

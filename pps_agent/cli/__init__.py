"""The command line. ``main`` imports nothing heavy, so that ``--version`` costs what Python costs."""

import os
import sys


def main() -> None:
    """Run ``pps-agent`` and exit with the documented code."""
    if sys.argv[1:] == ["--version"]:
        from pps_agent import __version__  # here and below: the fast path must stay bare

        try:
            print(f"pps-agent {__version__}", flush=True)
        except OSError as exc:
            # A reader that went away is told nothing, and the interpreter has nothing to flush at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1 if isinstance(exc, BrokenPipeError) else f"pps-agent: error: standard output: {exc.strerror}")
        return
    from pps_agent.cli.app import run

    sys.exit(run())

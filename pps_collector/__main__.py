"""``python -m pps_collector``: the same as ``pps-collector``."""

from pps_collector.cli import main

main()

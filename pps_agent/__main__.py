"""``python -I …/pps_agent/__main__.py``: how the agent starts its own children, wherever it is installed."""

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pps_agent.cli import main

if __name__ == "__main__":
    main()

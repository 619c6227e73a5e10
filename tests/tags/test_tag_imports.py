"""What the tag code may load: a new interpreter runs it on every call of the command or the plugin."""

import subprocess
import sys
from pathlib import Path

HEAVY = {"ldap3", "requests", "apscheduler", "structlog", "cryptography", "msgspec"}


def test_the_tag_modules_load_none_of_the_heavy_packages() -> None:
    code = "import sys, pps_agent.tags.store, pps_agent.tags.glue1; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert HEAVY & set(done.stdout.split()) == set()

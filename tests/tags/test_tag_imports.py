"""What the tag code may load: a new interpreter runs it on every call of the command or the plugin."""

import subprocess
import sys
from pathlib import Path

HEAVY = {"ldap3", "requests", "apscheduler", "structlog", "cryptography", "msgspec"}


def test_the_tag_modules_load_none_of_the_heavy_packages() -> None:
    code = "import sys, pps_agent.tags.store, pps_agent.tags.glue1; print(*{m.split('.')[0] for m in sys.modules})"
    assert HEAVY & set(_run(code)) == set()


def test_the_settings_of_everything_else_stay_away() -> None:
    tools = "lcg_tags, cli.tag_change, cli.tag_list, cli.tag_publish, settings_tags_file"
    names = ", ".join(f"pps_agent.{name}" for name in tools.split(", "))
    loaded = set(_run(f"import sys, {names}; print(*sys.modules)"))
    assert loaded & {"pps_agent.settings", "pps_agent.settings_file", "pps_agent.quiet_hours"} == set()


def _run(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    return done.stdout.split()

"""The tutorial on probes does what it says: each of its commands is run, in order, by a shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pps_publisher.bundle import load_bundle
from tests.support.repository import SmallRepository
from tests.support.site import SmallSite

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "write-a-probe.md"


@pytest.fixture
def script(site: SmallSite, tmp_path: Path) -> str:
    """Give all commands of the page as one script, for this site instead of the machine's own."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    text = "set -eu\n" + "".join(f"echo '--- {number}'\n{block}" for number, block in enumerate(blocks, 1))
    return text.replace("/etc/pps-agent", str(site.base)).replace("/tmp/ship", str(tmp_path / "ship"))


def test_every_command_of_the_tutorial_works_and_the_release_is_announced(
    script: str, site: SmallSite, repository: SmallRepository, tmp_path: Path
) -> None:
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    env = {**os.environ, "PATH": path, "PPS_AGENT_CONFIG": str(site.config)}
    done = subprocess.run(["/bin/bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    told = dict(re.findall(r"^--- (\d+)\n((?:(?!--- ).*\n)*)", done.stdout, re.MULTILINE))
    assert "1 probe, 0 faults" in told["4"]
    assert "passed broken\npassed new\npassed old\n3 cases, 0 failed" in told["4"]
    assert "PPS_PYTHON_MINIMUM=3.10 \\" in told["5"]
    assert re.search(r"^OK - PYTHON: python3 is 3\.\d+\|version=", told["5"], re.MULTILINE)
    assert "approved org.example.wn.python" in told["6"]
    bundle = load_bundle(tmp_path / "ship" / "build")
    repository.publish_bundle(bundle)
    site.configure(environment={"profile": [str(site.profile / "*.sh")]})
    seen = site.once()
    (outcome,) = (one for one in seen.value["outcomes"] if one["action"] == "probe")
    assert {result["probe"]: result["status"] for result in outcome["results"]} == {
        "org.pps.wn.softver": "OK",
        "org.example.hello.python": "OK",
    }
    assert seen.release(bundle.release.id)["current"]
    assert site.listed() == ["VO-dteam-pps-1.0.0"]

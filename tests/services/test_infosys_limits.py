"""A real slapd that gives few entries at a time, or none."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import bdii as demo_bdii
from pps_agent import infosys
from pps_agent.state import Unknown
from pps_wire.names import Subcluster
from tests.support.servers import free_port, listens, running
from tests.support.services import need

SUBCLUSTERS = tuple(Subcluster(f"ce{number:03}.example.org") for number in range(250))


def serve_entries(base: Path, limits: str) -> Iterator[str]:
    """Run a slapd with these limits over the static entries of all subclusters; give its address."""
    packages = demo_bdii.missing_packages()
    need(f"the information system needs: apt-get install {' '.join(packages)}" if packages else "")
    (base / "db").mkdir()
    conf, content, port = base / "slapd.conf", base / "content.ldif", free_port()
    includes = "".join(f"include {name}\n" for name in demo_bdii.SCHEMAS)
    conf.write_text(
        f"{includes}modulepath /usr/lib/ldap\nmoduleload back_mdb\n{limits}\n"
        f'database mdb\nsuffix "o=grid"\ndirectory {base}/db\nindex GlueSubClusterUniqueID eq\n'
    )
    content.write_text(demo_bdii.render_static_ldif("SITE", SUBCLUSTERS))
    subprocess.run(["/usr/sbin/slapadd", "-q", "-f", conf, "-l", content], check=True, capture_output=True)
    url = f"ldap://127.0.0.1:{port}"
    with running(["/usr/sbin/slapd", "-d", "0", "-f", conf, "-h", url], lambda: listens(port), base / "slapd.log"):
        yield url


@pytest.fixture(params=["sizelimit 300", "sizelimit 1", "limits anonymous size.soft=300 size.pr=7"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from serve_entries(tmp_path, request.param)


def test_all_subclusters_are_seen_whatever_a_server_gives_at_a_time(url: str) -> None:
    assert infosys.observe_published(url, "o=grid", SUBCLUSTERS, 10) == dict.fromkeys(SUBCLUSTERS, frozenset())


def test_the_first_server_that_answers_is_believed_and_those_before_it_are_told_of(url: str, tmp_path: Path) -> None:
    silent = f"ldap://127.0.0.1:{free_port()}"
    answer = infosys.ask_servers((silent, url), "o=grid", SUBCLUSTERS[:1], 5)
    assert (answer.shown, answer.server, len(answer.problems)) == ({SUBCLUSTERS[0]: frozenset()}, url, 1)
    assert silent in answer.problems[0]
    nobody = infosys.ask_servers((silent, silent), "o=grid", SUBCLUSTERS[:1], 5)
    assert isinstance(nobody.shown, Unknown)
    assert (nobody.server, nobody.shown.reason.count("refused")) == ("", 2)

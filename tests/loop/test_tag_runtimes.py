"""Runtime environments of ARC follow the tags, with the real ``arcctl``."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.releases import publish_passing, release_id
from tests.support.repository import SmallRepository
from tests.support.services import need
from tests.support.site import SmallSite

ARCCTL = "/usr/sbin/arcctl"
ONE, TAG_ONE = release_id("1.0.0"), "VO-dteam-pps-1.0.0"
NAME_ONE = f"APPS/PPS/{TAG_ONE}"


class Element:
    """The directories and the configuration of a computing element that does not run."""

    def __init__(self, base: Path) -> None:
        need("" if shutil.which(ARCCTL) else "apt-get install nordugrid-arc-arcctl")
        self.runtime, control = base / "rte", base / "control"
        for directory in (self.runtime, control / "rte"):
            directory.mkdir(parents=True)
        self.config = base / "arc.conf"
        self.config.write_text(
            f"[common]\nhostname = ce.example.org\n[lrms]\nlrms = fork\n[arex]\ncontroldir = {control}\n"
            f"runtimedir = {self.runtime}\nsessiondir = {base}/session\n"
        )

    def words(self) -> list[str]:
        return ["tag", "arc", "--runtime-dir", str(self.runtime), "--arcctl", ARCCTL, "--arc-config", str(self.config)]

    def enabled(self) -> set[str]:
        command = [ARCCTL, "--config", self.config, "rte", "list", "--enabled"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {line.split()[0] for line in done.stdout.splitlines() if line.startswith("APPS/")}


@pytest.fixture
def element(tmp_path: Path) -> Element:
    return Element(tmp_path / "ce")


def test_each_tag_has_an_enabled_script_that_uses_its_release_until_it_goes(
    repository: SmallRepository, site: SmallSite, element: Element
) -> None:
    publish_passing(repository)
    site.once()
    assert site.run("tag", "add", "VO-dteam-plain", "--vo", "dteam").code == 0
    said = site.run(*element.words(), "--dry-run")
    assert (said.code, said.stdout) == (0, f"dry run: wrote APPS/PPS/VO-dteam-plain\ndry run: wrote {NAME_ONE}\n")
    assert element.enabled() == set()
    assert site.run(*element.words()).code == 0
    assert element.enabled() == {NAME_ONE, "APPS/PPS/VO-dteam-plain"}
    script = f'. "{element.runtime / NAME_ONE}" 1; echo "$PPS_RELEASE_ROOT"'
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert found == str(site.store / "releases" / ONE / "tree")
    before = (element.runtime / NAME_ONE).stat().st_mtime_ns
    assert site.run(*element.words()).stdout == "nothing to do\n"
    assert (element.runtime / NAME_ONE).stat().st_mtime_ns == before
    assert site.run("tag", "remove", TAG_ONE, "--vo", "dteam").code == 0
    assert json.loads(site.run(*element.words(), "--output", "json").stdout)["removed"] == [NAME_ONE]
    assert element.enabled() == {"APPS/PPS/VO-dteam-plain"}
    assert not (element.runtime / NAME_ONE).exists()


def test_lists_that_cannot_be_read_take_no_script_away(site: SmallSite, element: Element) -> None:
    assert site.run("tag", "add", "VO-dteam-plain", "--vo", "dteam").code == 0
    assert site.run(*element.words()).code == 0
    path = next(site.tags.glob("*/dteam/dteam.list"))
    path.unlink()
    path.mkdir()
    said = site.run(*element.words())
    assert (said.code, said.stdout) == (6, "")
    assert element.enabled() == {"APPS/PPS/VO-dteam-plain"}


def test_a_directory_that_is_not_there_or_a_command_that_fails_is_told(site: SmallSite, element: Element) -> None:
    assert site.run("tag", "add", "VO-dteam-plain", "--vo", "dteam").code == 0
    said = site.run("tag", "arc", "--runtime-dir", "/no/such")
    assert (said.code, "name the runtimedir of arc.conf" in said.stderr) == (6, True)
    said = site.run("tag", "arc", "--runtime-dir", str(element.runtime), "--arcctl", "/bin/false")
    assert (said.code, "/bin/false rte enable" in said.stderr) == (6, True)
    said = site.run("tag", "arc", "--runtime-dir", str(element.runtime), "--arcctl", "")
    assert said.code == 0


def test_a_subcluster_that_is_not_the_sites_takes_no_script_away(site: SmallSite, element: Element) -> None:
    assert site.run("tag", "add", "VO-dteam-plain", "--vo", "dteam").code == 0
    assert site.run(*element.words()).code == 0
    said = site.run(*element.words(), "--sc", "ce99.example.org")
    assert (said.code, said.stdout, "not a subcluster of this site" in said.stderr) == (2, "", True)
    assert element.enabled() == {"APPS/PPS/VO-dteam-plain"}

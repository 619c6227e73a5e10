"""Runtime environments of ARC follow the tags, with the real ``arcctl``."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.releases import publish_passing, release_id
from tests.support.repository import SmallRepository
from tests.support.services import need
from tests.support.site import SUBCLUSTER, SmallSite

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


def two_vos(site: SmallSite, element: Element) -> None:
    site.configure(site={"vos": ["dteam", "ops"]})
    for vo in ("dteam", "ops"):
        assert site.run("tag", "add", f"VO-{vo}-a", "--vo", vo).code == 0
    assert site.run(*element.words()).code == 0
    assert element.enabled() == {"APPS/PPS/VO-dteam-a", "APPS/PPS/VO-ops-a"}
    assert site.run("tag", "replace", "VO-ops-a", "VO-ops-b", "--vo", "ops").code == 0


def test_one_vos_list_that_cannot_be_read_keeps_no_other_vos_scripts(site: SmallSite, element: Element) -> None:
    two_vos(site, element)
    path = next(site.tags.glob("*/dteam/dteam.list"))
    path.unlink()
    path.mkdir()
    said = site.run(*element.words())
    assert (said.code, said.stdout) == (6, "wrote APPS/PPS/VO-ops-b\nremoved APPS/PPS/VO-ops-a\n")
    assert element.enabled() == {"APPS/PPS/VO-dteam-a", "APPS/PPS/VO-ops-b"}


@pytest.mark.parametrize("release", ["../../evil", "none-1.0.0-noarch-glibc2.0", "x\n"])
def test_a_release_that_a_manager_made_up_gives_no_script_and_holds_up_nobody(
    site: SmallSite, element: Element, release: str
) -> None:
    """A VO's manager writes life.json, and root's cron job the scripts that jobs source."""
    two_vos(site, element)
    evil = site.base / "evil"
    evil.mkdir()
    record = {"variables": {}, "assign": {"X; touch /tmp/x; Y": "1"}, "prepend": {}}
    (evil / "environment.json").write_text(json.dumps(record))
    (site.store / "releases").mkdir(parents=True, exist_ok=True)
    life = {"state": "installedverified", "release": release}
    lives = {"format": 1, "written_at": 0, "tags": {SUBCLUSTER: {"VO-dteam-a": life}}}
    (site.tags / ".pps-tags" / "dteam" / "life.json").write_text(json.dumps(lives))
    said = site.run(*element.words())
    assert (said.code, said.stdout) == (6, "wrote APPS/PPS/VO-ops-b\nremoved APPS/PPS/VO-ops-a\n")
    assert "VO-dteam-a: " in said.stderr
    assert "touch" not in (element.runtime / "APPS/PPS/VO-dteam-a").read_text()


def test_a_tag_too_long_for_a_file_gives_no_script_and_holds_up_nobody(site: SmallSite, element: Element) -> None:
    two_vos(site, element)
    assert site.run("tag", "add", "VO-dteam-" + "x" * 240, "--vo", "dteam").code == 0
    said = site.run(*element.words())
    assert (said.code, said.stdout) == (6, "wrote APPS/PPS/VO-ops-b\nremoved APPS/PPS/VO-ops-a\n")
    assert "too long for the name of a file" in said.stderr


def test_more_tags_than_one_command_line_holds_are_enabled(site: SmallSite, tmp_path: Path) -> None:
    runtime, said = tmp_path / "rte", tmp_path / "said"
    runtime.mkdir()
    command = tmp_path / "arcctl"
    command.write_text(f'#!/bin/sh\necho "$2 $#" >> {said}\n')
    command.chmod(0o755)
    tags = "\n".join(f"VO-dteam-{'x' * 200}-{number:05}" for number in range(9_000))
    assert site.run("tag", "add", "--file", "-", "--vo", "dteam", stdin=tags).code == 0
    done = site.run("tag", "arc", "--runtime-dir", str(runtime), "--arcctl", str(command))
    assert done.code == 0, done.stderr[-500:]
    assert sum(int(line.split()[1]) - 2 for line in said.read_text().splitlines()) == 9_000


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

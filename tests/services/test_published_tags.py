"""Tag file, BDII plugin, bdii-update, slapd and ldap3 in one chain, all of them real."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.bdii import start_bdii
from pps_agent import infosys
from pps_agent.infosys import Expectation, Propagation
from pps_agent.state import Unknown
from pps_agent.tags.life import Life, TagState
from pps_agent.tags.store import TagStore
from pps_wire.names import Subcluster, Tag, Vo
from tests.services.conftest import ROOT, SERVICE, SITE, SUBCLUSTERS, Bdii

SC1, SC2 = SUBCLUSTERS
DTEAM, OPS = Vo("dteam"), Vo("ops")


def wait(bdii: Bdii, wanted: dict[Subcluster, Expectation]) -> Propagation:
    return infosys.wait_published((bdii.url,), bdii.base, wanted, timeout_s=10, wait_s=60, poll_s=0.2)


def test_a_tag_in_the_file_is_published_and_one_taken_out_vanishes(bdii: Bdii) -> None:
    tag = Tag("VO-dteam-roundtrip-6.1.0")
    bdii.store.add(DTEAM, [tag])
    shown = wait(bdii, {SC1: Expectation(present=frozenset({tag})), SC2: Expectation(present=frozenset({tag}))})
    assert (shown.reached, shown.looks >= 1, shown.delay_s > 0) == (True, True, True)
    assert isinstance(shown.observed, dict)
    assert tag in shown.observed[SC1] & shown.observed[SC2]

    bdii.store.remove(DTEAM, [tag], [SC1])
    gone = wait(bdii, {SC1: Expectation(absent=frozenset({tag})), SC2: Expectation(present=frozenset({tag}))})
    assert gone.reached

    bdii.store.remove(DTEAM, [tag])
    assert wait(bdii, {SC2: Expectation(absent=frozenset({tag}))}).reached


def test_the_search_of_the_how_to_finds_the_subclusters_with_the_tag_and_no_other(bdii: Bdii) -> None:
    page = (ROOT / "docs" / "howto" / "select-a-preview.md").read_text()
    written = re.search(r"^ldapsearch (?:.*\\\n)*.*$", page, re.MULTILINE)
    assert written
    words = shlex.split(written[0].replace("\\\n", " ").replace("ldap://bdii.example.org:2170", bdii.url))

    def found() -> list[str]:
        shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return [name for name in SUBCLUSTERS if f"GlueSubClusterUniqueID: {name}" in shown]

    tag = Tag("VO-dteam-pps-6.1.0")
    assert found() == []
    bdii.store.add(DTEAM, [tag], [SC1])
    bdii.store.add(DTEAM, [Tag(f"{tag}.1")], [SC2])
    wanted = {
        SC1: Expectation(present=frozenset({tag})),
        SC2: Expectation(present=frozenset({Tag(f"{tag}.1")})),
    }
    assert wait(bdii, wanted).reached
    assert found() == [SC1]
    bdii.store.remove(DTEAM, [tag], [SC1])
    bdii.store.remove(DTEAM, [Tag(f"{tag}.1")], [SC2])


def test_the_sites_own_middleware_tags_stay_beside_ours_and_are_not_taken_for_vo_tags(bdii: Bdii) -> None:
    tag = Tag("VO-dteam-beside-1")
    bdii.store.add(DTEAM, [tag], [SC2])
    shown = wait(bdii, {SC2: Expectation(present=frozenset({tag}))})
    assert isinstance(shown.observed, dict)
    assert all(value.startswith("VO-") for value in shown.observed[SC2])
    argv = ["ldapsearch", "-LLL", "-x", "-H", bdii.url, "-b", bdii.base, f"(GlueSubClusterUniqueID={SC2})"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "gluehostapplicationsoftwareruntimeenvironment: glite-3_2_0" in text.lower()


def test_a_subcluster_the_server_does_not_know_is_missing_and_letter_case_does_not_matter(bdii: Bdii) -> None:
    other, wild = Subcluster("ce99.example.org"), Subcluster("*)(objectClass=*")
    shouted = Subcluster(SC1.upper())
    found = infosys.observe_published(bdii.url, bdii.base, [shouted, other, wild], 10)
    assert isinstance(found, dict)
    assert set(found) == {shouted}


def test_a_search_base_that_does_not_exist_is_unknown_with_the_next_thing_to_try(bdii: Bdii) -> None:
    found = infosys.observe_published(bdii.url, "o=nowhere", [SC1], 10)
    assert isinstance(found, Unknown)
    assert "set infosys.base" in found.reason


def test_a_search_base_that_is_no_dn_is_unknown(bdii: Bdii) -> None:
    assert isinstance(infosys.observe_published(bdii.url, "nowhere", [SC1], 10), Unknown)


def test_a_stopped_information_system_is_unknown_and_leaves_no_process(tmp_path: Path, bdii: Bdii) -> None:
    with start_bdii(tmp_path, SITE, [SC1], ["/bin/true"]) as server:
        assert infosys.observe_published(server.url, server.base, [SC1, SC2], 10) == {SC1: frozenset()}
    found = infosys.observe_published(server.url, server.base, [SC1], 10)
    assert isinstance(found, Unknown)
    assert "refused" in found.reason
    for pid in server.pids:
        stat = Path(f"/proc/{pid}/stat")
        assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_wait_ends_at_once_when_told_to_stop(bdii: Bdii) -> None:
    stop = threading.Event()
    stop.set()
    wanted = {SC1: Expectation(present=frozenset({Tag("VO-dteam-never")}))}
    ended = infosys.wait_published((bdii.url,), bdii.base, wanted, timeout_s=10, wait_s=600, stop=stop)
    assert (ended.reached, ended.looks) == (False, 1)


def glue2(bdii: Bdii, tag: str) -> list[str]:
    """Give the lines that the server shows of a tag, of all subclusters."""
    argv = ["ldapsearch", "-LLL", "-x", "-o", "ldif_wrap=no", "-H", bdii.url, "-b", "o=glue"]
    argv += [f"(GLUE2ApplicationEnvironmentID={tag})"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def await_glue2(bdii: Bdii, tag: str, fits: Callable[[list[str]], bool]) -> list[str]:
    deadline = time.monotonic() + 60
    while not fits(lines := glue2(bdii, tag)):
        assert time.monotonic() < deadline, lines
        threading.Event().wait(0.2)
    return lines


@pytest.mark.parametrize("release", ["bdii", "newer_bdii"])
def test_tags_go_in_by_the_old_command_and_come_out_in_both_schemas(
    release: str, request: pytest.FixtureRequest
) -> None:
    bdii: Bdii = request.getfixturevalue(release)
    tag = "VO-dteam-commanded-6.1.0"
    manage = [str(Path(sys.executable).parent / "lcg-ManageVOTag"), "-config", str(bdii.config), "-host", SC1]
    manage += ["-vo", "dteam"]
    subprocess.run([*manage, "--add", "-tag", tag], check=True)
    lines = await_glue2(bdii, tag, lambda lines: len(lines) > 5)
    assert wait(bdii, {SC1: Expectation(present=frozenset({Tag(tag)}))}).reached
    above = f"GLUE2ResourceID={SC1},GLUE2ServiceID={SERVICE},GLUE2GroupID=resource,o=glue"
    names = [line for line in lines if line.startswith("dn: ")]
    assert names == [f"dn: GLUE2ApplicationEnvironmentID={tag},{above}"]
    for line in (
        "GLUE2ApplicationEnvironmentAppName: VO-dteam-commanded",
        "GLUE2ApplicationEnvironmentAppVersion: 6.1.0",
        f"GLUE2ApplicationEnvironmentComputingManagerForeignKey: {SERVICE}_Manager",
        "GLUE2EntityOtherInfo: InfoProviderName=pps-agent",
    ):
        assert line in lines
    subprocess.run([*manage, "--remove", "-tag", tag], check=True)
    await_glue2(bdii, tag, lambda lines: not lines)
    assert wait(bdii, {SC1: Expectation(absent=frozenset({Tag(tag)}))}).reached


def test_state_and_end_of_a_releases_tag_are_shown_while_no_job_is_sent_to_it(bdii: Bdii) -> None:
    tag, end = Tag("VO-dteam-broken-1.0"), 4_000_000_000.0
    bdii.store.set_life(DTEAM, {SC1: {tag: Life(TagState.BROKEN, "r", end)}})
    lines = await_glue2(bdii, tag, lambda lines: len(lines) > 5)
    assert "GLUE2ApplicationEnvironmentState: installedbroken" in lines
    assert "GLUE2ApplicationEnvironmentRemovalDate: 2096-10-02T07:06:40Z" in lines
    shown = infosys.observe_published(bdii.url, bdii.base, [SC1], 10)
    assert isinstance(shown, dict)
    assert tag not in shown[SC1]
    bdii.store.set_life(DTEAM, {SC1: {tag: Life(TagState.BROKEN, "r", 1.0)}})
    await_glue2(bdii, tag, lambda lines: not lines)


def reconcile(bdii: Bdii, *words: str) -> tuple[int, dict[str, object]]:
    command = [sys.executable, "-m", "pps_agent", "--config", str(bdii.config), "tag", "reconcile", "--output", "json"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def test_lists_and_what_is_shown_are_told_apart(bdii: Bdii) -> None:
    shown, late, old = (Tag(f"VO-dteam-rec-{name}") for name in ("shown", "late", "old"))
    bdii.store.add(DTEAM, [shown, old], [SC1])
    code, _ = reconcile(bdii, "--server", bdii.url, "--wait", "60", "--sc", SC1)
    assert code == 0
    # What is shown meanwhile cannot be held still, so lists of another base stand for a provider that is late.
    other = bdii.config.with_name("other.toml")
    other.write_text(bdii.config.read_text().replace('tags = "tags"', 'tags = "other"'))
    shutil.copytree(bdii.tag_base, bdii.tag_base.with_name("other"), dirs_exist_ok=True)
    store = TagStore(bdii.tag_base.with_name("other"), (SC1, SC2))
    store.add(DTEAM, [late], [SC1])
    store.remove(DTEAM, [old], [SC1])
    list_of = bdii.tag_base.with_name("other") / SC1 / OPS / "ops.list"
    if list_of.exists():
        list_of.unlink()
    changed = Bdii(bdii.url, bdii.base, store_base := bdii.tag_base.with_name("other"), other, bdii.plugins)
    code, seen = reconcile(changed, "--server", "ldap://127.0.0.1:9", "--server", bdii.url, "--sc", SC1)
    found = {row["tag"]: row["finding"] for row in seen["tags"]}  # type: ignore[attr-defined]
    assert (found[shown], found[late], found[old]) == ("published", "missing", "stale")
    assert (code, seen["server"], len(seen["problems"])) == (1, bdii.url, 1)  # type: ignore[arg-type]
    bdii.store.remove(DTEAM, [shown, old], [SC1])
    assert store_base.exists()


def test_a_server_that_does_not_answer_or_does_not_know_the_subcluster_is_unreachable(bdii: Bdii) -> None:
    code, seen = reconcile(bdii, "--server", "ldap://127.0.0.1:9")
    assert (code, {row["finding"] for row in seen["tags"]}) == (2, {"unreachable"})  # type: ignore[attr-defined]
    done = reconcile(bdii, "--server", bdii.url)
    assert done[1]["server"] == bdii.url


def test_glue_2_is_read_back_as_glue_1_is_and_a_tag_no_job_goes_to_is_not_shown(bdii: Bdii) -> None:
    tag, broken = Tag("VO-dteam-both-1.0"), Tag("VO-dteam-both-2.0")
    bdii.store.add(DTEAM, [tag], [SC1])
    bdii.store.set_life(DTEAM, {SC1: {broken: Life(TagState.BROKEN, "r")}})
    await_glue2(bdii, broken, lambda lines: len(lines) > 5)
    wanted = {SC1: Expectation(present=frozenset({tag})), SC2: Expectation(absent=frozenset({tag}))}
    seen = infosys.wait_published((bdii.url,), "o=glue", wanted, timeout_s=10, wait_s=60, poll_s=0.2)
    assert seen.reached
    assert isinstance(seen.observed, dict)
    assert (broken in seen.observed[SC1], tag in seen.observed[SC2]) == (False, False)
    unknown = infosys.observe_published(bdii.url, "o=glue", [Subcluster("ce99.example.org")], 10)
    assert unknown == {}
    command = [sys.executable, "-m", "pps_agent", "--config", str(bdii.config), "tag", "reconcile", "--sc", SC1]
    command += ["--server", bdii.url, "--output", "json"]
    for base in ("o=glue", "o=grid"):
        done = subprocess.run([*command, "--base", base], capture_output=True, text=True, check=False, cwd=ROOT)
        found = {row["tag"]: row["finding"] for row in json.loads(done.stdout)["tags"]}
        assert (found[tag], broken in found) == ("published", False), (base, done)
    bdii.store.remove(DTEAM, [tag], [SC1])
    bdii.store.set_life(DTEAM, {SC1: {broken: None}})


def test_thousands_of_tags_of_glue_2_are_read_in_pages(bdii: Bdii) -> None:
    tags = [Tag(f"VO-dteam-many-{number:05}") for number in range(3000)]
    bdii.store.add(DTEAM, tags, [SC2])
    wanted = {SC2: Expectation(present=frozenset(tags))}
    assert infosys.wait_published((bdii.url,), "o=glue", wanted, timeout_s=10, wait_s=120, poll_s=1).reached
    bdii.store.remove(DTEAM, tags, [SC2])
    assert infosys.wait_published(
        (bdii.url,), "o=glue", {SC2: Expectation(absent=frozenset(tags))}, timeout_s=10, wait_s=120, poll_s=1
    ).reached

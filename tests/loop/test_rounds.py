"""The whole loop: a real repository over HTTP, the real program as processes, real trees, probes and tag files."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pps_agent.metadata import ROLES, Bundle, render_bundle
from pps_wire.names import ProbeName
from pps_wire.release import ConfigStep, ReleaseClass, Requires
from tests.distribution.site import picture
from tests.support.releases import publish_broken, publish_passing, release_id
from tests.support.repository import FaultyServer, Program, SmallRepository
from tests.support.site import SUBCLUSTER, SmallSite

ONE, TWO = release_id("1.0.0"), release_id("1.1.0")
TAG_ONE, TAG_TWO = "VO-dteam-pps-1.0.0", "VO-dteam-pps-1.1.0"
FIRST = ["install", "compose", "probe", "switch", "addtags"]
CLOSED_PORT = "http://127.0.0.1:9"


def still(site: SmallSite) -> dict[str, tuple[str, str]]:
    """Give a picture of store and tags; a lock names its last holder."""
    return {name: seen for name, seen in (picture(site.store) | picture(site.tags)).items() if name != "lock"}


def write_probe(site: SmallSite, name: str, body: str) -> None:
    """Give the site a probe of its own; the shipped ones are gone then."""
    directory = site.base / "probes" / name
    directory.mkdir(parents=True)
    (directory / "probe.toml").write_text(f'[probe]\nname = "{name}"\naliases = ["alias.{name}"]\ntimeout_s = 20\n')
    (directory / "run").write_text(f"#!/bin/sh\n{body}\n")
    (directory / "run").chmod(0o755)
    site.configure(paths={"probes": ["probes"]})


def keep_expired(site: SmallSite, repository: SmallRepository, age: timedelta) -> None:
    """Let the site's last good metadata be what was signed so long ago: all signatures are right."""
    repository.refresh(now=datetime.now(UTC) - age)
    metadata = repository.served / "metadata"
    newest = {
        role: max(
            metadata.glob(f"*{role}.json"), key=lambda path: int(path.name.split(".")[0]) if role != "timestamp" else 0
        )
        for role in ROLES
    }
    bundle = Bundle(roots=(), roles={role: path.read_text() for role, path in newest.items()})
    (site.state / "tuf" / "last-good.json").write_bytes(render_bundle(bundle))


def test_a_preview_is_installed_and_tagged_in_one_round_and_the_next_one_only_reports(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    seen = site.once()
    assert seen.actions == FIRST
    assert [result["status"] for result in seen.outcome("probe")["results"]] == ["OK", "OK"]
    assert site.listed() == [TAG_ONE]
    assert site.current() == {"grid-clients": ONE}
    assert seen.release(ONE)["state"] == "tagged"
    hello = site.store / "current" / "grid-clients" / "tree" / "bin" / "hello"
    assert (hello.stat().st_mode & 0o777, hello.parent.stat().st_mode & 0o777) == (0o555, 0o755)

    before, waiting = still(site), seen.value["reported"]["waiting"]
    again = site.once()
    assert again.actions == []
    assert again.value["reported"]["waiting"] > waiting
    assert still(site) == before


def test_an_update_comes_beside_the_old_release_and_fetches_only_what_changed(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    site.once()
    publish_passing(repository, "1.1.0")
    seen = site.once()
    assert seen.actions == FIRST
    assert (
        seen.outcome("install")["facts"]["files_fetched"],
        seen.outcome("install")["facts"]["files_linked"],
    ) == (2, 1)
    assert site.installed() == [ONE, TWO]
    assert site.current() == {"grid-clients": TWO}
    assert site.listed() == [TAG_ONE, TAG_TWO]


def test_a_broken_preview_is_neither_switched_to_nor_tagged_and_the_old_one_stays(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    site.once()
    before = picture(site.tags)
    publish_broken(repository, "1.1.0")
    seen = site.once()
    assert seen.actions == ["install", "compose", "probe"]
    standing = seen.release(TWO)
    assert (standing["state"], standing["tags"]) == ("broken", [])
    assert "org.pps.wn.softver CRITICAL" in standing["reason"]
    summary = standing["probes"]["org.pps.wn.softver"]["summary"]
    assert "xrdcp: --version fails with exit 127: xrdcp: symbol lookup error" in summary
    assert site.current() == {"grid-clients": ONE}
    assert before == picture(site.tags)
    assert site.once().actions == []


def test_a_release_that_breaks_later_is_untagged_and_the_older_one_becomes_current_again(
    repository: SmallRepository, site: SmallSite
) -> None:
    flag = site.base / "broken"
    write_probe(site, "org.test.flag", f'[ -e {flag} ] && [ "$PPS_RELEASE_VERSION" = 1.1.0 ] && exit 2; echo ok')
    site.configure(probes={"max_age_s": 10, "retry_s": 300}, daemon={"interval_s": 5})
    for version in ("1.0.0", "1.1.0"):
        publish_passing(repository, version, probes=(ProbeName("org.test.flag"),))
    assert (site.once(), site.current())[1] == {"grid-clients": TWO}
    flag.touch()
    site.configure(environment={"profile": [str(site.profile / "*.sh"), "/dev/null"]})  # new profile: probed anew
    seen = site.once()
    assert seen.actions.index("removetags") < seen.actions.index("switch")
    assert site.listed() == [TAG_ONE]
    assert site.current() == {"grid-clients": ONE}
    assert seen.release(TWO)["state"] == "broken"


def test_a_probe_that_exits_127_is_unknown_and_says_what_to_do(repository: SmallRepository, site: SmallSite) -> None:
    write_probe(site, "org.test.gone", "no-such-command-anywhere")
    publish_passing(repository, probes=(ProbeName("org.test.gone"),))
    seen = site.once()
    (result,) = seen.outcome("probe")["results"]
    assert (result["status"], result["exit_code"]) == ("UNKNOWN", 127)
    assert "127" in result["summary"]
    assert "not found" in result["summary"] + result["details"]
    assert (seen.release(ONE)["state"], site.listed()) == ("installed", [])
    assert site.current() == {}


def test_a_probe_that_is_not_installed_is_unknown_and_one_may_be_asked_for_by_its_alias(
    repository: SmallRepository, site: SmallSite
) -> None:
    write_probe(site, "org.test.fine", "echo fine")
    publish_passing(repository, probes=(ProbeName("alias.org.test.fine"), ProbeName("org.test.absent")))
    seen = site.once()
    assert seen.actions == ["install", "compose", "probe"]
    results = {result["probe"]: result for result in seen.outcome("probe")["results"]}
    assert results["alias.org.test.fine"]["status"] == "OK"
    assert results["org.test.absent"]["status"] == "UNKNOWN"
    assert "is not installed here: see pps-agent probe list" in results["org.test.absent"]["summary"]


def test_a_probe_slower_than_its_retry_time_runs_once_a_round(repository: SmallRepository, site: SmallSite) -> None:
    site.configure(probes={"retry_s": 1, "timeout_s": 1})
    write_probe(site, "org.test.hang", "exec tail -f /dev/null")
    publish_passing(repository, probes=(ProbeName("org.test.hang"),))
    seen = site.once()
    assert seen.actions == ["install", "compose", "probe"]
    assert seen.outcome("probe")["results"][0]["timed_out"]


def test_a_withdrawn_release_is_untagged_first_and_kept_until_it_is_drained(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    site.once()
    repository.withdraw(release_id("1.0.0"))
    seen = site.once()
    assert seen.actions == ["removetags", "switch", "drain"]
    assert seen.outcome("removetags")["reason"] == "withdrawn: crashes"
    assert (site.listed(), site.current(), site.installed()) == ([], {}, [ONE])
    assert (seen.release(ONE)["state"], seen.release(ONE)["reason"]) == ("draining", "withdrawn: crashes")
    assert site.once().actions == []


def test_without_a_drain_time_a_withdrawn_release_is_removed_in_the_next_round(
    repository: SmallRepository, site: SmallSite
) -> None:
    site.configure(store={"drain_s": 0})
    publish_passing(repository)
    site.once()
    repository.withdraw(ONE)
    assert site.once().actions == ["removetags", "switch", "drain"]
    assert site.installed() == [ONE]
    seen = site.once()
    assert seen.actions == ["remove"]
    assert (site.installed(), seen.release(ONE)["state"]) == ([], "refused")
    assert list((site.store / "staging").iterdir()) == []


def test_consent_is_awaited_given_taken_back_and_given_again(repository: SmallRepository, site: SmallSite) -> None:
    site.configure(policy={"install_bc": "manual"})
    publish_passing(repository)
    seen = site.once()
    assert ([], "offered", f"waits for consent: pps-agent release accept {ONE}") == (
        seen.actions,
        seen.release(ONE)["state"],
        seen.release(ONE)["reason"],
    )
    assert site.run("release", "accept", ONE).code == 0
    assert site.once().actions == FIRST
    assert site.run("release", "decline", ONE, "no time").code == 0
    seen = site.once()
    assert seen.actions == ["removetags", "switch", "drain"]
    assert seen.release(ONE)["reason"] == "declined by the site: no time"
    assert site.run("release", "accept", ONE).code == 0
    assert site.once().actions == ["undrain", "switch", "addtags"]


def test_a_paused_site_changes_nothing_but_what_must_not_stay_announced(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    site.once()
    assert site.run("pause").code == 0
    publish_passing(repository, "1.1.0")
    assert site.once().actions == []
    repository.withdraw(ONE)
    assert site.once().actions == ["removetags"]
    assert site.run("resume").code == 0
    assert {*FIRST, "drain"} == set(site.once().actions)


def test_leaving_untags_drains_and_removes_everything_and_resume_takes_it_back(
    repository: SmallRepository, site: SmallSite
) -> None:
    site.configure(store={"drain_s": 0})
    publish_passing(repository)
    site.once()
    assert site.run("leave").code == 0
    assert site.once().actions == ["removetags", "switch", "drain"]
    assert site.once().actions == ["remove"]
    assert (site.listed(), site.installed(), site.current()) == ([], [], {})
    assert site.run("resume").code == 0
    assert site.once().actions == FIRST


def test_a_release_with_configuration_steps_is_installed_and_probed_but_not_announced(
    repository: SmallRepository, site: SmallSite
) -> None:
    site.configure(policy={"install_nbc": "auto"})
    steps = (ConfigStep(id="open-port", text="open 1094"),)
    publish_passing(repository, class_=ReleaseClass.CLIENT_NBC, config_steps=steps)
    seen = site.once()
    assert seen.actions == ["install", "compose", "probe", "switch"]
    assert (
        seen.release(ONE)["state"],
        seen.release(ONE)["reason"],
    ) == ("verified", "awaits configuration steps: open-port")
    assert site.listed() == []


def test_metadata_expired_beyond_the_grace_untags_and_keeps_the_tree(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    site.once()
    keep_expired(site, repository, timedelta(days=10))
    seen = site.once(4)
    assert seen.actions == ["removetags"]
    assert "longer ago than the grace" in seen.outcome("removetags")["reason"]
    assert (site.listed(), site.installed(), site.current()) == ([], [ONE], {"grid-clients": ONE})
    assert "metadata expired" in seen.value["trust"]
    repository.refresh()
    assert site.once().actions == ["addtags"]


def test_metadata_expired_within_the_grace_keeps_everything_and_takes_in_nothing_new(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    site.once()
    before = still(site)
    publish_passing(repository, "1.1.0", refresh=False)
    keep_expired(site, repository, timedelta(days=3, hours=1))
    seen = site.once(4)
    assert seen.actions == []
    assert "expired" in seen.errors
    assert (seen.release(ONE)["state"], seen.release(TWO)["state"]) == ("tagged", "offered")
    assert before == still(site)


def test_while_the_repository_is_down_nothing_changes_and_the_exit_code_says_try_again(
    repository: SmallRepository, server: FaultyServer, site: SmallSite
) -> None:
    publish_passing(repository)
    site.configure(repository={"url": CLOSED_PORT})
    seen = site.once(75)
    assert (seen.actions, seen.value["releases"]) == ([], [])
    assert seen.value["trust"].startswith("unknown: the repository was never reached")
    site.configure(repository={"url": server.url})
    site.once()
    before = still(site)
    repository.withdraw(ONE)
    site.configure(repository={"url": CLOSED_PORT})
    assert site.once(75).actions == []
    assert before == still(site)


def test_an_unmet_requirement_is_refused_before_a_byte_of_the_release_is_fetched(
    repository: SmallRepository, server: FaultyServer, site: SmallSite
) -> None:
    publish_passing(repository, platform="x86_64-glibc2.99")
    publish_passing(repository, "1.1.0", requires=Requires(arch="x86_64", glibc="2.17", os="plan9"))
    seen = site.once()
    assert seen.actions == []
    assert {"refused"} == {release["state"] for release in seen.value["releases"]}
    reasons = sorted(release["reason"].split(",")[0] for release in seen.value["releases"])
    assert reasons == ["requires OS plan9", "requires glibc 2.99"]
    assert {"metadata"} == {path.split("/")[0] for path in server.paths()}


def test_a_tampered_frame_is_refused_and_leaves_nothing_behind(
    repository: SmallRepository, server: FaultyServer, site: SmallSite
) -> None:
    release = publish_passing(repository)
    server.plant(release.artifact.path, flip_at=release.artifact.length // 2)
    seen = site.once(4)
    assert seen.actions == ["install!"]
    assert (site.installed(), site.listed(), site.current()) == ([], [], {})
    assert ONE in seen.stderr
    server.heal()
    assert site.once().actions == FIRST


def test_a_release_with_one_signature_is_not_on_offer(
    repository: SmallRepository, server: FaultyServer, site: SmallSite
) -> None:
    publish_passing(repository, signatures=1)
    seen = site.once()
    assert (seen.actions, seen.value["releases"]) == ([], [])
    assert {"metadata"} == {path.split("/")[0] for path in server.paths()}


def test_a_repository_of_other_keys_is_not_believed(
    tmp_path: Path, repository: SmallRepository, server: FaultyServer
) -> None:
    publish_passing(repository)
    other = SmallRepository(tmp_path / "other")
    site = SmallSite(tmp_path / "site", server.url, other.root_bytes)
    seen = site.once(4)
    assert (seen.actions, seen.value["releases"]) == ([], [])
    assert "the last good state stays" in seen.errors


def test_a_pinned_root_that_is_not_there_is_a_fault_of_the_settings(site: SmallSite) -> None:
    (site.base / "root.json").unlink()
    seen = site.once(78)
    assert seen.actions == []
    assert f"{site.base}/root.json: No such file or directory; get root.json from the publisher" in seen.errors


def test_one_broken_release_holds_up_no_other(
    repository: SmallRepository, server: FaultyServer, site: SmallSite
) -> None:
    bad = publish_passing(repository, "1.0.0", component="aaa", tag_suffix="pps-aaa")
    publish_passing(repository, "1.0.0")
    server.plant(bad.artifact.path, status=404)
    seen = site.once(69)
    assert "install!" in seen.actions
    assert site.listed() == [TAG_ONE]
    assert site.current() == {"grid-clients": ONE}


def test_a_damaged_tree_is_untagged_repaired_probed_and_tagged_again(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    site.once()
    hello = site.store / "releases" / ONE / "tree" / "bin" / "hello"
    hello.unlink()
    seen = site.once()
    assert seen.actions[:3] == ["removetags", "install", "switch"]
    assert seen.actions[-4:] == FIRST[1:]
    assert "bin/hello" in seen.outcome("removetags")["reason"]
    assert (hello.exists(), site.listed()) == (True, [TAG_ONE])


def test_a_tag_list_that_cannot_be_read_is_the_machines_fault_and_the_rest_is_done(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    (site.tags / SUBCLUSTER).mkdir()
    (site.tags / SUBCLUSTER / "dteam").mkdir()
    (site.tags / SUBCLUSTER / "dteam" / "dteam.list").symlink_to("/dev/full")
    seen = site.once(6)
    assert seen.actions == FIRST[:-1]
    assert "the tag files: " in seen.errors
    assert site.current() == {"grid-clients": ONE}


@pytest.mark.parametrize("tag", ["VO-dteam-a b", "VO-dteam-", "VO-ops-x", "VO-dteam-ä", ""])
def test_a_tag_that_is_none_is_refused_and_the_file_untouched(site: SmallSite, tag: str) -> None:
    path = site.tags / SUBCLUSTER / "dteam" / "dteam.list"
    path.parent.mkdir(parents=True)
    path.write_text("VO-dteam-old\n")
    before = picture(site.tags)
    answer = site.run("tag", "add", tag, "VO-dteam-good", "--vo", "dteam")
    assert (answer.code, answer.stdout) == (1, "")
    assert "VO-dteam-<name> with letters, digits and . _ - only" in answer.stderr
    assert before == picture(site.tags)


KILLER = Program(b"#!/bin/sh\nset -- $(cat /proc/$PPID/stat)\nkill -9 $4\nsleep 60\n")
"""As a client of the release: kills the parent of the probe that starts it, which is the runner."""


def test_a_probe_that_kills_its_runner_costs_no_other_release_its_verdict(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository, "1.0.0", files={"bin/xrdcp": KILLER})
    publish_passing(repository, "1.1.0")
    seen = site.once()
    assert seen.release(ONE)["state"] == "installed"
    assert "lost: the probe runner ended" in seen.release(ONE)["probes"]["org.pps.wn.softver"]["summary"]
    assert seen.release(release_id("1.1.0"))["state"] == "tagged"

"""The whole loop: a real repository over HTTP, the real program as processes, real trees, probes and tag files."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pps_agent.metadata import ROLES, Bundle, render_bundle
from pps_agent.quiet_hours import DAYS
from pps_wire.names import ProbeName
from pps_wire.release import ConfigStep, ReleaseClass, Requires
from tests.distribution.site import picture
from tests.support.processes import find_process, runner_above
from tests.support.releases import publish_broken, publish_passing, release_id
from tests.support.repository import FaultyServer, Program, SmallRepository
from tests.support.services import need
from tests.support.site import SUBCLUSTER, SmallSite

ONE, TWO = release_id("1.0.0"), release_id("1.1.0")
TAG_ONE, TAG_TWO = "VO-dteam-pps-1.0.0", "VO-dteam-pps-1.1.0"
FIRST = ["install", "compose", "probe", "switch", "addtags"]
CLOSED_PORT = "http://127.0.0.1:9"


def still(site: SmallSite) -> dict[str, tuple[str, str]]:
    """Give a picture of store and tags; a lock names its last holder."""
    return {
        name: seen for name, seen in (picture(site.store) | picture(site.tags)).items() if not name.endswith("lock")
    }


def write_probe(site: SmallSite, name: str, body: str) -> None:
    """Give the site a probe of its own, beside the shipped ones."""
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
    before = picture(site.tags / SUBCLUSTER)
    publish_broken(repository, "1.1.0")
    seen = site.once()
    assert seen.actions == ["install", "compose", "probe"]
    standing = seen.release(TWO)
    assert (standing["state"], standing["tags"]) == ("broken", [])
    assert "org.pps.wn.softver CRITICAL" in standing["reason"]
    summary = standing["probes"]["org.pps.wn.softver"]["summary"]
    assert "xrdcp: --version fails with exit 127: xrdcp: symbol lookup error" in summary
    assert site.current() == {"grid-clients": ONE}
    assert before == picture(site.tags / SUBCLUSTER)
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


def test_a_release_with_configuration_steps_is_announced_once_each_is_acknowledged_and_its_check_passes(
    repository: SmallRepository, site: SmallSite
) -> None:
    site.configure(policy={"install_nbc": "auto"})
    done = site.base / "done"
    check = Program(f'#!/bin/sh\necho "looking for $1 in $PPS_SITE"; [ -e {done} ]\n'.encode())
    steps = (
        ConfigStep(id="open-port", text="open 1094", check=("bin/check", "1094")),
        ConfigStep(id="tell-users", text="tell them"),
    )
    publish_passing(repository, class_=ReleaseClass.CLIENT_NBC, config_steps=steps, files={"bin/check": check})
    early = site.run("release", "acknowledge", ONE, "open-port")
    assert early.code == 1
    seen = site.once()
    assert seen.actions == ["install", "compose", "probe"]
    standing = seen.release(ONE)
    assert (standing["state"], standing["reason"]) == (
        "awaiting-config",
        "awaits configuration steps: open-port, tell-users",
    )
    assert standing["next_command"] == f"pps-agent release acknowledge {ONE} open-port"
    assert standing["next_command"] in site.run("status").stdout
    wrong = site.run("release", "acknowledge", ONE, "open-prot")
    assert (wrong.code, "it has open-port, tell-users" in wrong.stderr) == (1, True)
    refused = site.run("release", "acknowledge", ONE, "open-port")
    assert (refused.code, refused.stdout) == (1, "looking for 1094 in TEST-SITE\n")
    assert "failed: exit 1; do what the step says (open 1094)" in refused.stderr
    done.touch()
    assert site.run("release", "acknowledge", ONE, "open-port").code == 0
    assert (site.once().actions, site.listed()) == ([], [])
    assert site.run("release", "acknowledge", ONE, "tell-users").code == 0
    assert "was acknowledged before" in site.run("release", "acknowledge", ONE, "tell-users").stdout
    shown = site.run("release", "show", ONE, "--output", "json").json()["steps"]
    assert [(step["id"], step["done"], f"uid {os.getuid()}" in step["actor"]) for step in shown] == [
        ("open-port", True, True),
        ("tell-users", True, True),
    ]
    assert site.once().actions == ["switch", "addtags"]
    (site.store / "releases" / ONE / "tree" / "bin" / "hello").unlink()
    assert site.once().actions[-1] == "addtags"  # installed anew, acknowledged all the same


def test_tags_on_a_subcluster_and_of_a_vo_that_the_settings_dropped_are_removed(
    repository: SmallRepository, site: SmallSite
) -> None:
    site.configure(site={"vos": ["dteam", "ops"]})
    publish_passing(repository, vos=("dteam", "ops"))
    site.once()
    assert (site.listed(), site.listed("ops")) == ([TAG_ONE], ["VO-ops-pps-1.0.0"])
    site.configure(site={"vos": ["dteam"]})
    assert site.once().actions == ["removetags"]
    assert (site.listed(), site.listed("ops")) == ([TAG_ONE], [])
    site.configure(site={"subclusters": ["ce02.example.org"]})
    assert site.once().actions == ["removetags", "addtags"]
    assert site.listed() == []
    assert site.once().actions == []


def test_a_site_that_observes_says_what_it_would_do_and_changes_nothing(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    site.configure(policy={"mode": "observe"})
    seen = site.once()
    assert (seen.actions, [action["action"] for action in seen.value["withheld"]]) == ([], ["install"])
    assert not site.store.exists()
    answer = site.run("release", "install", ONE)
    assert (answer.code, 'not done yet (policy.mode is "observe")' in answer.stderr) == (75, True)
    site.configure(policy={"mode": "act"})
    site.once()
    repository.withdraw(ONE)
    site.configure(policy={"mode": "observe"})
    before = still(site)
    assert site.run("release", "gc").code == 1
    seen = site.once()
    assert [action["action"] for action in seen.value["withheld"]] == ["removetags", "switch"]
    assert f"would untag {SUBCLUSTER}: {TAG_ONE}" in site.run("plan").stdout
    assert before == still(site)
    with contextlib.closing(sqlite3.connect(site.state / "state.db")) as database:
        bodies = [row[0].decode() for row in database.execute("SELECT body FROM outbox ORDER BY id")]
    assert any("would untag: withdrawn: crashes" in body for body in bodies)
    assert '"observing":true,"would":2' in bodies[-1]


def test_in_quiet_hours_only_what_must_not_stand_is_untagged(repository: SmallRepository, site: SmallSite) -> None:
    publish_passing(repository)
    site.once()
    today = datetime.now(UTC)
    days = ",".join(DAYS[(today.weekday() + step) % 7] for step in (-1, 0, 1))
    site.configure(policy={"quiet_hours": [days], "time_zone": "UTC"}, store={"drain_s": 0})
    publish_passing(repository, "1.1.0")
    seen = site.once()
    assert (seen.actions, [action["action"] for action in seen.value["withheld"]]) == ([], ["install"])
    assert site.run("release", "accept", TWO).code == 0
    assert site.once().actions == []
    repository.withdraw(ONE)
    assert site.once().actions == ["removetags"]
    assert "quiet hours until" in site.run("status").stdout
    site.configure(policy={"quiet_hours": []})
    assert {"switch", "drain", "install"} <= set(site.once().actions)


def test_a_release_is_held_for_a_while_and_a_person_may_take_it_sooner(
    repository: SmallRepository, site: SmallSite
) -> None:
    site.configure(policy={"hold_for_h": 24})
    publish_passing(repository)
    seen = site.once()
    assert (seen.actions, seen.release(ONE)["state"]) == ([], "offered")
    assert (
        f"on offer for 0.0 of policy.hold_for_h = 24 hours; sooner with: pps-agent release accept {ONE}"
        in (seen.release(ONE)["reason"])
    )
    typo = site.run("release", "accept", ONE.replace("1.0.0", "1.0.9"))
    assert (typo.code, f"is not on offer: did you mean {ONE}?" in typo.stderr) == (1, True)
    assert site.run("release", "accept", ONE).code == 0
    assert site.once().actions == FIRST
    decision = site.run("release", "show", ONE, "--output", "json").json()["decision"]
    assert (decision["decision"], f"uid {os.getuid()}" in decision["actor"]) == ("accept", True)


def test_a_preview_that_production_has_reached_is_handed_over_and_not_brought_back_when_production_is_unknown(
    repository: SmallRepository, site: SmallSite
) -> None:
    version = site.base / "version"
    version.write_text("v0.9\n")
    source = f'\n[production.grid-clients]\ncommand = ["/bin/cat", "{version}"]\npattern = "v([0-9.]+)"\n'
    site.configure(store={"drain_s": 0})
    site.config.write_text(site.config.read_text() + source)
    publish_passing(repository)
    assert site.once().actions == FIRST
    assert "PPS_PRODUCTION_VERSION='grid-clients 0.9'" in site.run("probe", "explain", "sys.disk").stdout
    version.write_text("v1.0.0\n")
    seen = site.once()
    assert seen.actions == ["removetags", "switch", "drain"]
    standing = seen.release(ONE)
    assert (standing["state"], standing["reason"]) == ("handed-over", "handed over: production runs 1.0.0")
    version.unlink()
    seen = site.once()
    assert seen.actions == []
    assert "production ran 1.0.0; what it runs now is unknown" in seen.release(ONE)["reason"]
    version.write_text("v1.0.0\n")
    assert site.once().actions == ["remove"]
    version.unlink()
    assert site.once().actions == []


def test_a_withdrawn_release_is_untagged_even_where_the_disk_of_the_state_is_full(
    tmp_path: Path, repository: SmallRepository, server: FaultyServer
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], capture_output=True, check=False)
    need("" if done.returncode == 0 else "needs a tmpfs of its own, so root")
    try:
        release = publish_passing(repository)
        site = SmallSite(tmp_path / "site", server.url, repository.root_bytes, paths={"state": str(disk)})
        site.once()
        assert site.listed() == ["VO-dteam-pps-1.0.0"]
        repository.withdraw(release.id)
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        seen = site.once(6)
        assert seen.actions[0] == "removetags"
        assert "No space left on device" in seen.errors
        assert site.listed() == []
        (disk / "filler").unlink()
        site.once()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_withdrawn_release_is_untagged_even_where_state_db_is_damaged(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    publish_passing(repository, "1.1.0")
    site.once()
    repository.withdraw(ONE)
    for path in site.state.glob("state.db*"):
        path.unlink()
    (site.state / "state.db").write_bytes(b"rubbish " * 1000)
    seen = site.once(6)
    assert (seen.actions, site.listed()) == (["removetags"], [TAG_TWO])
    assert "could not be recorded and are lost" in seen.errors
    assert site.installed() == [ONE, TWO]


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
    assert not [path for path in server.paths() if path.startswith(("artifacts/", "targets/clients/"))]


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
    assert not [path for path in server.paths() if path.startswith(("artifacts/", "targets/clients/"))]


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


def test_a_runner_that_is_killed_costs_no_other_release_its_verdict(
    repository: SmallRepository, site: SmallSite, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    publish_passing(repository, "1.0.0", files={"bin/xrdcp": Program(f"#!/bin/sh\nexec cat {fifo}\n".encode())})
    publish_passing(repository, "1.1.0")

    def kill_the_runner() -> None:
        with fifo.open("w"):  # which waits for the client that a probe tests
            os.kill(runner_above(find_process("cat", str(fifo))), signal.SIGKILL)

    killer = threading.Thread(target=kill_the_runner)
    killer.start()
    seen = site.once()
    killer.join()
    assert seen.release(ONE)["state"] == "installed"
    assert "lost: the probe runner ended" in seen.release(ONE)["probes"]["org.pps.wn.softver"]["summary"]
    assert seen.release(release_id("1.1.0"))["state"] == "tagged"


def lives_of(site: SmallSite) -> dict[str, dict[str, object]]:
    path = site.tags / ".pps-tags" / "dteam" / "life.json"
    return json.loads(path.read_text())["tags"].get(SUBCLUSTER, {}) if path.exists() else {}


def test_a_tag_follows_its_release_and_a_persons_word_holds(repository: SmallRepository, site: SmallSite) -> None:
    publish_passing(repository)
    assert site.once().actions == FIRST
    assert lives_of(site) == {TAG_ONE: {"state": "installedverified", "release": ONE}}
    publish_broken(repository, "1.1.0")
    site.once()
    assert lives_of(site)[TAG_TWO] == {"state": "installedbroken", "release": TWO}
    assert site.run("tag", "add", TAG_TWO, "--vo", "dteam").code == 1
    assert site.run("tag", "add", TAG_TWO, "--vo", "dteam", "--force", "--reason", "we know").code == 0
    assert site.run("tag", "remove", TAG_ONE, "--vo", "dteam").code == 0
    seen = site.once()
    assert ("addtags" in seen.actions, "removetags" in seen.actions) == (False, False)
    assert site.listed() == [TAG_TWO]
    assert {tag: life["forced"] for tag, life in lives_of(site).items()} == {TAG_ONE: "unlisted", TAG_TWO: "listed"}
    assert site.run("tag", "add", TAG_ONE, "--vo", "dteam").code == 0
    repository.withdraw(TWO)
    site.once()
    assert site.listed() == [TAG_ONE]
    assert lives_of(site)[TAG_ONE] == {"state": "installedverified", "release": ONE}
    assert lives_of(site)[TAG_TWO]["state"] == "pendingremoval"
    head = site.run("tag", "audit", "--verify", "--output", "json").json()["dteam"]
    with sqlite3.connect(site.state / "state.db") as database:
        bodies = [
            json.loads(row[0])
            for row in database.execute("SELECT body FROM outbox WHERE kind = 'round' ORDER BY rowid")
        ]
    assert bodies[-1]["tag_logs"] == {"dteam": {"lines": head["entries"], "digest": head["head"]}}


@pytest.mark.parametrize("spoilt", ["list", "ledger"])
def test_what_one_vo_spoils_holds_up_no_other_vos_tags(
    repository: SmallRepository, site: SmallSite, spoilt: str
) -> None:
    site.configure(site={"vos": ["dteam", "ops"]})
    publish_passing(repository, vos=("dteam", "ops"))
    if spoilt == "list":
        (site.tags / SUBCLUSTER / "ops" / "ops.list").mkdir(parents=True)
    else:
        (site.tags / ".pps-tags" / "ops").mkdir(parents=True)
        (site.tags / ".pps-tags" / "ops" / "life.json").write_text("{")
    seen = site.once(code=6)
    assert "ops" in seen.errors
    assert (site.listed(), site.listed("ops") if spoilt == "ledger" else []) == ([TAG_ONE], [])
    repository.withdraw(ONE)
    site.once(code=6)
    assert site.listed() == []

"""Old releases go and do not come back; rollback, pin, install and remove as the real program does them."""

import json

from tests.support.releases import publish_passing, release_id
from tests.support.repository import FaultyServer, SmallRepository
from tests.support.site import SmallSite

ONE, TWO, THREE = (release_id(version) for version in ("1.0.0", "2.0.0", "3.0.0"))


def test_a_superseded_release_goes_by_gc_and_no_round_brings_it_back(
    site: SmallSite, repository: SmallRepository, server: FaultyServer
) -> None:
    site.configure(store={"keep": 1, "drain_s": 0})
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        publish_passing(repository, version)
        site.once()
    # three is current, two is what a rollback goes back to; one drains until the next round
    assert site.once().actions == ["remove"]
    assert site.installed() == [TWO, THREE]
    assert site.once().actions == []
    assert sorted(site.listed()) == ["VO-dteam-pps-2.0.0", "VO-dteam-pps-3.0.0"]
    refused = site.run("release", "install", ONE)
    assert (refused.code, refused.stdout) == (1, "")
    assert "superseded: 1 newer ones are wanted (store.keep)" in refused.stderr
    assert f"to keep it: pps-agent release pin {ONE}" in refused.stderr
    server.requests.clear()
    leftover = site.store / "staging" / f"{ONE}@1.dead"
    leftover.mkdir()
    assert "rollback would go back to it" in site.run("release", "gc", "--dry-run").stdout
    gone = site.run("release", "gc", "--output", "json").json()
    assert (gone["swept"], gone["actions"], [kept["release"] for kept in gone["kept"]]) == (1, [], [TWO, THREE])
    assert (server.paths(), list((site.store / "staging").iterdir())) == ([], [])


def test_a_rollback_holds_until_it_is_taken_back_and_asks_no_server(
    site: SmallSite, repository: SmallRepository, server: FaultyServer
) -> None:
    for version in ("1.0.0", "2.0.0"):
        publish_passing(repository, version)
        site.once()
    server.requests.clear()
    thought = site.run("release", "rollback", "grid-clients", "--dry-run", "--output", "json").json()
    assert (thought["from"], thought["to"], site.current()) == (TWO, ONE, {"grid-clients": TWO})
    answer = site.run("release", "rollback", "grid-clients", "crashes on EL9")
    assert (answer.code, answer.stderr) == (0, "")
    assert f"to go forward again: pps-agent release accept {TWO}" in answer.stdout
    assert (site.current(), site.listed()) == ({"grid-clients": ONE}, ["VO-dteam-pps-1.0.0"])
    assert server.paths() == []
    seen = site.once()
    assert seen.actions == []
    assert "rolled back by the site: crashes on EL9" in seen.release(TWO)["reason"]
    assert (site.current(), site.installed()) == ({"grid-clients": ONE}, [ONE, TWO])
    again = site.run("release", "rollback", "grid-clients")
    assert (again.code, again.stdout) == (1, "")
    assert "no release to go back to" in again.stderr
    site.run("release", "accept", TWO)
    site.once()
    assert site.current() == {"grid-clients": TWO}
    assert sorted(site.listed()) == ["VO-dteam-pps-1.0.0", "VO-dteam-pps-2.0.0"]


def test_a_pinned_release_that_is_removed_by_a_person_is_untagged_and_stays(
    site: SmallSite, repository: SmallRepository
) -> None:
    site.configure(store={"drain_s": 0}, policy={"install_bc": "manual"})
    publish_passing(repository, "1.0.0")
    site.once()
    assert site.installed() == []
    done = site.run("release", "install", ONE, "--output", "json")
    assert (done.code, done.json()["state"], site.listed()) == (0, "tagged", ["VO-dteam-pps-1.0.0"])
    assert site.run("release", "pin", ONE, "compared with").stdout.startswith(f"pinned {ONE}")
    assert json.loads((site.store / "pins" / ONE).read_text())["reason"] == "compared with"
    removed = site.run("release", "remove", ONE, "not ours", "--output", "json")
    assert (removed.code, removed.json()["state"]) == (0, "draining")
    assert "pinned: its tree stays" in removed.json()["reason"]
    assert (site.current(), site.listed(), site.installed()) == ({}, [], [ONE])
    assert site.run("release", "pin", "grid-clients-9-x86_64-glibc2.36").code == 1
    assert site.run("release", "unpin", ONE).code == 0
    gone = site.run("release", "gc", "--output", "json").json()
    assert [action["action"] for action in gone["actions"]] == ["remove"]
    assert site.installed() == []


def test_verify_ends_with_6_and_repair_mends_as_the_program(site: SmallSite, repository: SmallRepository) -> None:
    publish_passing(repository, "1.0.0")
    site.once()
    assert site.run("release", "verify").code == 0
    victim = site.store / "releases" / ONE / "tree" / "share" / "doc"
    content = victim.read_bytes()
    victim.chmod(0o644)
    victim.write_bytes(b"T" + content[1:])
    victim.chmod(0o444)
    seen = site.run("release", "verify", ONE, "--output", "json")
    assert (seen.code, [f["path"] for f in seen.json()[0]["findings"]]) == (6, ["share/doc"])
    assert "share/doc: has another sha256 than signed" in site.run("release", "verify").stdout
    assert "would fetch 1 files" in site.run("release", "repair", ONE, "--dry-run").stdout
    assert site.run("release", "repair", ONE).code == 0
    assert victim.read_bytes() == content
    assert site.run("release", "verify").code == 0
    assert site.once().actions == ["probe"]
    assert site.run("release", "verify", "nothing-1-x86_64-glibc2.36").code == 1

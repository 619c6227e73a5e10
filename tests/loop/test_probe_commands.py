"""Probes as the real program handles them: looked at, written, approved, changed, carried by a release."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pps_agent.probes.catalogue import shipped_directory
from pps_wire.names import ProbeName
from tests.loop.test_rounds import ONE, write_probe
from tests.probes.samples import CASES, METADATA, README, RUN, write_sample
from tests.support.releases import publish_passing, release_id
from tests.support.repository import Content, Program, SmallRepository
from tests.support.site import SmallSite

SAMPLE = ProbeName("org.test.se.sample")


def carried(metadata: str = METADATA, run: str = RUN, directory: str = "se.sample") -> dict[str, Content]:
    """Give the files of a probe inside a release."""
    return {
        f"probes/{directory}/probe.toml": metadata.encode(),
        f"probes/{directory}/run": Program(run.encode()),
        f"probes/{directory}/README.md": README.encode(),
    }


def results_of(site: SmallSite) -> dict[str, tuple[str, str]]:
    outcome = site.once().outcome("probe")
    return {result["probe"]: (result["status"], result["summary"]) for result in outcome["results"]}


# --- changed outside an install --------------------------------------------------------------------


def test_a_site_probe_that_is_changed_after_its_first_run_is_refused_until_it_is_approved(
    repository: SmallRepository, site: SmallSite
) -> None:
    write_probe(site, "org.test.mine", "echo one")
    site.configure(probes={"retry_s": 1, "max_age_s": 10}, daemon={"interval_s": 5})
    publish_passing(repository, probes=(ProbeName("org.test.mine"),))
    assert results_of(site) == {"org.test.mine": ("OK", "one")}
    (site.base / "probes" / "org.test.mine" / "run").write_text("#!/bin/sh\necho two\n")
    by_hand = site.run("probe", "run", "org.test.mine")
    assert (by_hand.code, "was changed" in by_hand.stdout) == (3, True)
    site.configure(environment={"profile": [str(site.profile / "*.sh"), "/dev/null"]})  # new profile: probed anew
    seen = site.once()
    (result,) = seen.outcome("probe")["results"]
    assert (result["status"], "is refused" in result["summary"]) == ("UNKNOWN", True)
    assert "then pps-agent probe approve org.test.mine" in seen.stderr
    assert '"event": "probe.refused"' in seen.stderr
    planned = site.run("probe", "approve", "org.test.mine", "--dry-run")
    assert planned.stdout.startswith("dry run: would approve org.test.mine (digest ")
    assert site.run("probe", "run", "org.test.mine").code == 3
    done = site.run("probe", "approve", "org.test.mine", "--output", "json").json()
    assert done["approved"][0]["before"] not in ("", done["approved"][0]["digest"])
    assert site.run("probe", "run", "org.test.mine").stdout.startswith("OK - two")


def test_running_a_probe_by_hand_puts_nothing_on_record(site: SmallSite) -> None:
    write_probe(site, "org.test.mine", "echo one")
    assert site.run("probe", "run", "org.test.mine").code == 0
    (site.base / "probes" / "org.test.mine" / "run").write_text("#!/bin/sh\necho two\n")
    assert site.run("probe", "run", "org.test.mine").stdout.startswith("OK - two")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("wn.env",), 1, "org.pps.wn.env came with the program"),
        (("wn.envv",), 1, "did you mean wn.env?"),
        ((), 2, "name the probes, or give --all"),
        (("wn.env", "--all"), 2, "name the probes, or give --all"),
    ],
)
def test_only_the_sites_own_probes_are_approved(site: SmallSite, words: tuple[str, ...], code: int, said: str) -> None:
    answer = site.run("probe", "approve", *words)
    assert (answer.code, said in answer.stderr) == (code, True), answer.stderr


# --- one bad probe ---------------------------------------------------------------------------------


def test_one_bad_probe_stops_no_other_and_is_told_wherever_one_looks(
    repository: SmallRepository, site: SmallSite
) -> None:
    write_probe(site, "org.test.good", "echo fine")
    write_probe(site, "org.test.bad", "echo fine")
    (site.base / "probes" / "org.test.bad" / "probe.toml").write_text('[probe]\nname = "org.test.bad"\ntimout_s = 5\n')
    publish_passing(repository, probes=(ProbeName("org.test.good"), ProbeName("org.test.bad")))
    results = results_of(site)
    assert results["org.test.good"] == ("OK", "fine")
    assert results["org.test.bad"][0] == "UNKNOWN"
    assert "did you mean timeout_s?" in results["org.test.bad"][1]
    rows = {row["name"]: row for row in site.run("probe", "list", "--output", "json").json()}
    assert (rows["org.test.good"]["fault"], rows["org.test.good"]["last"]["status"]) == ("", "OK")
    assert "timout_s: unknown key" in rows["org.test.bad"]["fault"]
    assert rows["org.test.bad"]["where"] == "refused"
    text = site.run("probe", "list")
    assert (text.code, "org.test.bad" in text.stdout, text.stderr) == (0, True, "")
    assert "is refused" in site.run("probe", "show", "org.test.bad").stderr
    lint = site.run("probe", "lint", "org.test.bad")
    assert (lint.code, "did you mean timeout_s?" in lint.stdout) == (1, True)


def test_a_directory_that_is_not_there_is_told_and_the_shipped_probes_stay(site: SmallSite) -> None:
    site.configure(paths={"probes": ["gone"]})
    answer = site.run("probe", "list")
    assert (answer.code, "org.pps.wn.env" in answer.stdout) == (0, True)
    assert "gone: no such directory: correct paths.probes" in answer.stderr
    assert site.run("probe", "lint").code == 1


# --- carried by a release --------------------------------------------------------------------------


def test_a_release_may_carry_its_own_probe_which_is_for_it_alone(repository: SmallRepository, site: SmallSite) -> None:
    site.configure(probes={"env": {"PPS_SAMPLE": "fine"}})
    publish_passing(repository, files=carried(), probes=(SAMPLE, ProbeName("wn.softver")))
    publish_passing(repository, "1.0.0", component="other", probes=(SAMPLE,))
    seen = site.once()
    results = {
        (outcome["release"], result["probe"]): result["status"]
        for outcome in seen.value["outcomes"]
        if outcome["action"] == "probe"
        for result in outcome["results"]
    }
    other = release_id("1.0.0", "other")
    assert results == {(ONE, SAMPLE): "OK", (ONE, "wn.softver"): "OK", (other, SAMPLE): "UNKNOWN"}
    assert site.run("probe", "run", SAMPLE, "--release", ONE).stdout.startswith("OK - se.sample OK - fine")
    assert "is not installed here" in site.run("probe", "run", SAMPLE).stdout
    explained = site.run("probe", "explain", SAMPLE, "--release", ONE, "--output", "json").json()
    assert explained["command"] == [str(site.store / "releases" / ONE / "tree" / "probes" / "se.sample" / "run")]


def test_a_carried_probe_never_takes_the_name_of_an_installed_one(repository: SmallRepository, site: SmallSite) -> None:
    metadata = METADATA.replace('"old.sample"', '"wn.softver"')
    publish_passing(repository, files=carried(metadata), probes=(SAMPLE, ProbeName("wn.softver")))
    results = results_of(site)
    assert results["wn.softver"][0] == "OK"
    assert "VERSION agrees" in results["wn.softver"][1]
    assert results[SAMPLE][0] == "UNKNOWN"
    assert f"wn.softver is also the name of {shipped_directory()}/wn.softver" in results[SAMPLE][1]


def test_a_carried_probe_that_is_not_what_was_signed_is_refused(repository: SmallRepository, site: SmallSite) -> None:
    site.configure(probes={"env": {"PPS_SAMPLE": "fine"}})
    publish_passing(repository, files=carried(), probes=(SAMPLE,))
    site.once()
    run = site.store / "releases" / ONE / "tree" / "probes" / "se.sample" / "run"
    run.chmod(0o755)
    run.write_text("#!/bin/sh\necho OK, whatever happens\n")
    answer = site.run("probe", "run", SAMPLE, "--release", ONE)
    assert answer.code == 3
    assert f"is not what was signed: pps-agent release repair {ONE}" in answer.stdout


def test_a_carried_probe_with_faults_costs_itself_only(repository: SmallRepository, site: SmallSite) -> None:
    files = carried(metadata="[probe\n") | {"probes/half/probe.toml": b'[probe]\nname = "org.test.half"\n'}
    publish_passing(repository, files=files, probes=(SAMPLE, ProbeName("org.test.half"), ProbeName("wn.softver")))
    results = results_of(site)
    assert {name: status for name, (status, _) in results.items()} == {
        SAMPLE: "UNKNOWN",
        "org.test.half": "UNKNOWN",
        "wn.softver": "OK",
    }
    assert "not readable as TOML" in results[SAMPLE][1]
    assert "run is no file of" in results["org.test.half"][1]


# --- looking ---------------------------------------------------------------------------------------


def test_explain_shows_what_would_run_and_no_secret(site: SmallSite, tmp_path: Path) -> None:
    before, _, after = METADATA.partition('PPS_SAMPLE = "what to say"\n')
    required = 'PPS_SAMPLE = "what to say"\nPPS_SAMPLE_GONE = "a key"\n'
    secret = '[secrets]\nPPS_SAMPLE_KEY = "environment"\nPPS_SAMPLE_FILE = "file"\nPPS_SAMPLE_GONE = "file"\n'
    write_sample(site.base / "probes", metadata=before + required + after + secret)
    (tmp_path / "key").write_text("hunter2")
    env = {"PPS_SAMPLE": "it's", "PPS_SAMPLE_KEY": "hunter2", "MY_PASSWORD": "hunter3"}
    secrets = {"PPS_SAMPLE_KEY": str(tmp_path / "key"), "PPS_SAMPLE_FILE": str(tmp_path / "key")}
    site.configure(paths={"probes": ["probes"]}, probes={"env": env, "secrets": secrets, "timeout_s": 15})
    answer = site.run("probe", "explain", "se.sample", "--set", "warning=2.5")
    assert (answer.code, answer.stderr) == (0, "")
    assert "hunter" not in answer.stdout
    lines = [line.strip() for line in answer.stdout.splitlines()]
    for wanted in (
        "PPS_SAMPLE='it'\"'\"'s' \\",
        "PPS_SAMPLE_KEY='(secret)' \\",
        "PPS_SAMPLE_WARN_S=2.5 \\",
        "MY_PASSWORD='(secret)' \\",
        "LC_ALL=C.UTF-8 \\",
        f"{site.base}/probes/se.sample/run",
        "missing   secret PPS_SAMPLE_GONE (a key): name its file under [probes.secrets] in the settings",
    ):
        assert wanted in lines
    assert any(line.startswith("limits    15 s; cpu_s") for line in lines)
    assert lines[-1] == f"{site.base}/probes/se.sample/run"


def test_what_explain_prints_is_a_command_that_a_shell_runs(site: SmallSite) -> None:
    write_sample(site.base / "probes")
    site.configure(paths={"probes": ["probes"]}, probes={"env": {"PPS_SAMPLE": "fine"}})
    command = site.run("probe", "explain", "se.sample").stdout.partition("command   ")[2]
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "se.sample OK - fine | time=1s size=2B\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--set", "warning=x"), 7, "warning: 'x' is not a number"),
        (("--set", "warn=1"), 7, "did you mean warning?"),
        (("--set", "warning"), 2, "write ARGUMENT=VALUE"),
        (("--release", "gone-1-x86_64-glibc2.36"), 1, "is not installed"),
    ],
)
def test_explain_refuses_what_a_run_would_refuse(site: SmallSite, words: tuple[str, ...], code: int, said: str) -> None:
    write_sample(site.base / "probes")
    site.configure(paths={"probes": ["probes"]})
    answer = site.run("probe", "explain", "se.sample", *words)
    assert (answer.code, said in answer.stderr) == (code, True), answer.stderr


def test_explain_tells_when_the_daemon_runs_it_next(repository: SmallRepository, site: SmallSite) -> None:
    write_sample(site.base / "probes")
    site.configure(paths={"probes": ["probes"]}, probes={"env": {"PPS_SAMPLE": "fine"}})
    publish_passing(repository, probes=(SAMPLE,))
    site.once()
    words = ("probe", "explain", "se.sample", "--output", "json")
    assert site.run(*words).json()["next"].startswith("when asked: probes.enabled does not name it")
    assert site.run(*words, "--release", ONE).json()["next"].startswith("due at ")
    site.configure(probes={"enabled": ["org.test.*"]})
    due = datetime.fromisoformat(site.run(*words).json()["next"].split()[2])
    assert timedelta(0) <= due - datetime.now(UTC) + timedelta(seconds=60) <= timedelta(seconds=3700)
    alone = site.run("probe", "explain", "wn.softver", "--output", "json").json()
    assert alone["next"] == "when asked: it tests releases alone: name one with --release"
    assert "production has none: name a release with --release" in alone["missing"][0]


def test_list_tells_what_the_daemon_runs_and_which_name_is_nobodys(site: SmallSite) -> None:
    site.configure(probes={"enabled": ["sys.disk", "hr.srce.CADist-*", "ce.arc", "org.pps.wn.softver", "org.none.*"]})
    answer = site.run("probe", "list", "--output", "json")
    by_itself = {row["name"].removeprefix("org.pps.") for row in answer.json() if row["by_itself"]}
    assert by_itself == {"sys.disk", "wn.cadist", "ce.arc", "proxy.valid"}
    assert answer.stderr.startswith("pps-agent: probes.enabled: 'org.none.*' names no probe that is installed here")
    rows = {line.split()[0]: line for line in site.run("probe", "list").stdout.splitlines()}
    assert "every 15 min" in rows["org.pps.sys.disk"]
    assert "when asked" in rows["org.pps.se.dav"]


def test_a_probe_of_nodes_is_said_to_go_through_the_batch_system(site: SmallSite, tmp_path: Path) -> None:
    site.configure(store={"kind": "shared"}, nodes={"executor": "slurm", "work": str(tmp_path)})
    text = site.run("probe", "explain", "sys.disk").stdout
    assert "on the node through slurm, every 15 min\n" in text
    assert "when asked: it goes through slurm, when a round probes a release or a person asks\n" in text
    answer = site.run("node-run", "--payload", ONE)
    assert (answer.code, f"{ONE} is not installed: see pps-agent release list" in answer.stderr) == (1, True)


def test_show_tells_all_of_a_probe_and_its_last_results(repository: SmallRepository, site: SmallSite) -> None:
    write_sample(site.base / "probes")
    site.configure(paths={"probes": ["probes"]}, probes={"env": {"PPS_SAMPLE": "fine"}})
    publish_passing(repository, probes=(ProbeName("old.sample"),))
    site.once()
    value = site.run("probe", "show", "se.sample", "--output", "json").json()
    assert (value["name"], value["origin"], value["every"], value["timeout_s"]) == (SAMPLE, "site", "every 1 h", 20)
    assert value["arguments"]["warning"]["option"] == "-w"
    assert [(result["status"], result["release"]) for result in value["results"]] == [("OK", ONE)]
    text = site.run("probe", "show", "se.sample").stdout
    for wanted in ("needs     PPS_SAMPLE: what to say", "argument  warning (-w): number; seconds", f"OK       {ONE}: "):
        assert wanted in text


# --- writing ---------------------------------------------------------------------------------------


def test_a_probe_can_be_written_on_a_machine_without_an_agent(tmp_path: Path, site: SmallSite) -> None:
    site.config.unlink()
    target = tmp_path / "mine"
    target.mkdir()
    write_sample(tmp_path / "src")
    source = str(tmp_path / "src" / "se.sample")
    words = ("probe", "clone", source, "org.example.eos", "--to", str(target))
    assert "would copy" in site.run(*words, "--dry-run").stdout
    assert list(target.iterdir()) == []
    made = site.run(*words)
    assert (made.code, made.stderr) == (0, "")
    assert site.run("probe", "lint", str(target / "org.example.eos")).stdout == "1 probe, 0 faults\n"
    tested = site.run("probe", "test", str(target / "org.example.eos"))
    assert (tested.code, tested.stdout) == (0, "passed bad\npassed fine\n2 cases, 0 failed\n")
    again = site.run(*words)
    assert (again.code, "is there already" in again.stderr) == (1, True)


def test_a_case_that_fails_is_shown_with_what_the_probe_said(site: SmallSite) -> None:
    path = write_sample(site.base, fine=CASES["fine"].replace('"OK"', '"WARNING"'))
    answer = site.run("probe", "test", str(path))
    assert answer.code == 1
    assert "FAILED fine\n  is OK, expected WARNING\n  it said: OK: se.sample OK - fine\n" in answer.stdout
    rows = site.run("probe", "test", str(path), "--case", "fine", "--output", "json").json()
    assert [(row["case"], row["passed"]) for row in rows] == [("fine", False)]
    assert "no such case" in site.run("probe", "test", str(path), "--case", "gone").stderr


def test_a_clone_goes_where_the_settings_say(site: SmallSite) -> None:
    lacking = site.run("probe", "clone", "wn.env", "org.example.env")
    assert (lacking.code, "set paths.probes, or give --to DIR" in lacking.stderr) == (1, True)
    (site.base / "probes").mkdir()
    site.configure(paths={"probes": ["probes"]})
    made = site.run("probe", "clone", "wn.env", "env", "--name", "org.example.env", "--output", "json").json()
    assert made == {"name": "org.example.env", "directory": f"{site.base}/probes/env", "source": "org.pps.wn.env"}
    assert "org.example.env" in site.run("probe", "list").stdout
    clash = site.run("probe", "clone", "wn.env", "other", "--name", "org.pps.wn.env")
    assert (clash.code, "is the name of" in clash.stderr) == (1, True)


def test_somebody_who_may_not_read_the_state_is_told_what_is_installed(site: SmallSite) -> None:
    state = site.base / "state"
    state.write_text("no directory\n")
    answer = site.run("probe", "list", "--output", "json")
    assert (answer.code, answer.stderr) == (0, "")
    assert {row["last"] for row in answer.json()} == {None}

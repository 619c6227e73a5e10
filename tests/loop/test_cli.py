"""The command line: what people and scripts rely on, asked of the real program."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pps_agent.cli.app import COMMANDS, app
from pps_agent.cli.context import print_table
from pps_wire.names import Vo
from pps_wire.release import ConfigStep, ReleaseClass
from pps_wire.requirement import Form, render_condition, render_requirement
from tests.distribution.site import picture
from tests.support.releases import publish_passing, release_id
from tests.support.repository import SmallRepository, serve
from tests.support.site import SmallSite

ONE = release_id("1.0.0")
WITH_STEPS = release_id("1.1.0", "with-steps")
WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
"""Makes root heed permission bits."""


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallSite]:
    """A site with one installed and tagged release; tests only look at it."""
    base = tmp_path_factory.mktemp("cli")
    repository = SmallRepository(base / "publisher")
    publish_passing(repository)
    steps = (ConfigStep(id="open-port", text="open 1094"),)
    publish_passing(repository, "1.1.0", component="with-steps", class_=ReleaseClass.CLIENT_NBC, config_steps=steps)
    with serve(repository.served) as server:
        site = SmallSite(base / "site", server.url, repository.root_bytes, policy={"install_nbc": "auto"})
        (site.base / "cache").mkdir()
        site.once()
        yield site


def commands() -> Iterator[tuple[str, ...]]:
    """Give every command as the words that name it."""
    context = click.Context(app)
    for name in COMMANDS:
        command = app.get_command(context, name)  # type: ignore[attr-defined]
        if isinstance(command, click.Group):
            yield from ((name, inner) for inner in command.list_commands(context))
        else:
            yield (name,)


def options_of(words: tuple[str, ...]) -> set[str]:
    """Give a command's options."""
    command: click.Command = app
    for word in words:
        found = command.get_command(click.Context(command), word)  # type: ignore[attr-defined]
        assert found is not None
        command = found
    return {option for parameter in command.params for option in parameter.opts}


MUTATIONS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("once",): (),
    ("release", "accept"): (ONE,),
    ("release", "decline"): (ONE, "why"),
    ("release", "acknowledge"): (WITH_STEPS, "open-port"),
    ("release", "install"): (ONE,),
    ("release", "remove"): (ONE, "why"),
    ("release", "repair"): (ONE,),
    ("release", "rollback"): ("grid-clients",),
    ("release", "pin"): (ONE,),
    ("release", "unpin"): (ONE,),
    ("release", "gc"): (),
    ("tag", "add"): ("VO-dteam-x", "--vo", "dteam"),
    ("tag", "remove"): ("VO-dteam-pps-1.0.0", "--vo", "dteam"),
    ("tag", "replace"): ("VO-dteam-pps-1.0.0", "VO-dteam-y", "--vo", "dteam"),
    ("tag", "clean"): (),
    ("tag", "adopt"): (),
    ("tag", "arc"): ("--runtime-dir", "/tmp"),
    ("setup",): ("--user", "root"),
    ("pause",): (),
    ("resume",): (),
    ("leave",): (),
    ("enrol",): ("--token-file", "token"),
    ("outbox", "flush"): (),
    ("probe", "approve"): ("--all",),
    ("probe", "clone"): ("wn.env", "org.example.wn.env", "--to", "/tmp"),
}
NOT_READY = {("enrol",), ("outbox", "flush"), ("release", "rollback")} | ({("setup",)} if os.geteuid() else set())
"""Refused where there is no collector, or no earlier release; setup to all but root."""
READS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("plan",): ("--offline",),
    ("status",): (),
    ("release", "list"): (),
    ("release", "show"): (ONE,),
    ("release", "env"): (ONE,),
    ("release", "verify"): (),
    ("probe", "list"): (),
    ("probe", "show"): ("wn.softver",),
    ("probe", "explain"): ("wn.softver", "--release", ONE),
    ("probe", "run"): ("wn.softver", "--release", ONE),
    ("probe", "lint"): ("wn.softver",),
    ("probe", "test"): ("wn.softver",),
    ("tag", "list"): (),
    ("tag", "audit"): (),
    ("tag", "requirement"): ("VO-dteam-pps-1.0.0", "--format", "jdl"),
    ("outbox", "status"): (),
    ("config", "check"): (),
    ("config", "show"): (),
}
NEITHER = {
    ("run",),
    ("release", "shell"),
    ("probe", "export"),
    ("tag", "ldif"),
    ("tag", "render"),
    ("tag", "reconcile"),
    ("job", "refresh"),
    ("job", "install"),
    ("job", "published"),
    ("job", "ldif"),
    ("job", "report"),
    ("job", "requests"),
    ("node-run",),
}


def test_every_command_is_known_here_as_a_mutation_or_a_read() -> None:
    assert set(commands()) == MUTATIONS.keys() | READS.keys() | NEITHER


def test_every_mutation_has_a_dry_run_and_every_read_has_json() -> None:
    assert [words for words in MUTATIONS if "--dry-run" not in options_of(words)] == []
    assert [words for words in READS if "--output" not in options_of(words)] == []


def test_help_lists_each_command_with_the_line_of_the_table(ready: SmallSite) -> None:
    answer = ready.run("--help", env={"COLUMNS": "100"})
    assert (answer.code, answer.stderr) == (0, "")
    listed = re.sub(r"\s+", " ", answer.stdout.split("Commands:")[1])
    expected = [f"{name} {text}" for name, (_, text) in COMMANDS.items() if name != "job"]
    assert " ".join(expected) == listed.strip()
    context = click.Context(app)
    for name, (_, text) in COMMANDS.items():
        command = app.get_command(context, name)  # type: ignore[attr-defined]
        assert command is not None
        first = (command.help or "").split("\n")[0]
        assert text.split(";")[0].split(":")[0].rstrip(".").lower() in first.lower() or first, name


def test_version_imports_neither_click_nor_any_module_of_the_agent_but_its_number() -> None:
    code = (
        "import sys; sys.argv = ['pps-agent', '--version']; from pps_agent.cli import main; main();"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('click', 'pps_agent', 'pps_wire')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, modules = done.stdout.splitlines()
    assert re.fullmatch(r"pps-agent \d+\.\d+\.\d+", version)
    assert modules == "['pps_agent', 'pps_agent.cli']"


def test_help_and_tag_commands_import_none_of_the_heavy_libraries(ready: SmallSite) -> None:
    heavy = ("apscheduler", "cryptography", "ldap3", "msgspec", "requests", "structlog", "tuf")
    asked = ["requirement", "VO-dteam-x", "--format", "xrsl"]
    for words in (["--help"], *(["--config", str(ready.config), "tag", *tag] for tag in (["list"], asked))):
        code = f"import sys; from pps_agent.cli.app import run; run({words!r}); print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = set(done.stdout.splitlines()[-1].split())
        assert set() == loaded & set(heavy), words


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_a_read_prints_valid_json_or_text_without_escape_bytes_and_changes_nothing(
    ready: SmallSite, words: tuple[str, ...]
) -> None:
    before = picture(ready.base)
    answer = ready.run(*words, *READS[words], "--output", "json", env={"FORCE_COLOR": "", "TERM": "xterm"})
    assert (answer.code, answer.stderr) == (0, "")
    assert answer.json()
    assert "\x1b" not in answer.stdout
    assert before == picture(ready.base)


def test_text_is_readable_and_free_of_escape_bytes_when_not_on_a_terminal(ready: SmallSite) -> None:
    for words in (("status",), ("release", "show", ONE), ("no-such",)):
        answer = ready.run(*words, env={"NO_COLOR": "1", "TERM": "xterm"})
        assert "\x1b" not in answer.stdout + answer.stderr
        assert answer.stdout + answer.stderr


@pytest.mark.parametrize("words", [words for words in MUTATIONS if words not in NOT_READY], ids=" ".join)
def test_a_dry_run_says_what_it_would_do_and_changes_nothing(ready: SmallSite, words: tuple[str, ...]) -> None:
    before = picture(ready.base)
    answer = ready.run(*words, *MUTATIONS[words], "--dry-run")
    assert (answer.code, answer.stderr) == (0, "")
    assert answer.stdout.startswith(("dry run: ", "nothing to do"))
    assert before == picture(ready.base)


def test_config_show_tells_each_value_and_where_it_came_from(ready: SmallSite) -> None:
    value = ready.run("config", "show", "--output", "json").json()
    assert {"value": "TEST-SITE", "origin": f"{ready.config}:2"} == value["site.name"]
    assert value["daemon.interval_s"] == {"value": 900, "origin": "default"}
    assert str(ready.store) == value["paths.store"]["value"]


def test_all_faults_of_the_settings_are_listed_with_exit_78(ready: SmallSite, tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('[sit]\nname = "x"\n[daemon]\ninterval_s = 1\n')
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text("[probes]\nretri_s = 5\n")
    answer = ready.run("--config", str(tmp_path / "agent.toml"), "config", "check")
    assert (answer.code, answer.stdout) == (78, "")
    lines = answer.stderr.splitlines()
    assert all(line.startswith("pps-agent: error: ") for line in lines)
    for wanted in ("agent.toml:1: unknown section [sit]", "agent.toml:4: daemon.interval_s", "a.toml:2: unknown key"):
        assert any(wanted in line for line in lines)


def test_a_mistyped_command_gets_a_suggestion_and_exit_2(ready: SmallSite) -> None:
    answer = ready.run("statsu")
    assert (answer.code, answer.stdout) == (2, "")
    assert "No such command 'statsu'. Did you mean 'status'?" in answer.stderr
    assert "See pps-agent --help" in ready.run("xyzzy").stderr


def test_a_reader_that_goes_away_gets_no_traceback(ready: SmallSite) -> None:
    for command in (
        ready.command("config", "show"),
        ready.command("--help"),
        [sys.executable, "-m", "pps_agent", "--version"],
    ):
        read, write = os.pipe()
        os.close(read)
        try:
            done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
        finally:
            os.close(write)
        assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    "locale",
    [{"LC_ALL": "C"}, {"LC_ALL": "xx_YY.nonsense"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}],
    ids=["C", "unknown", "ascii"],
)
def test_any_locale_will_do(ready: SmallSite, tmp_path: Path, locale: dict[str, str]) -> None:
    config = tmp_path / "agent.toml"
    text = ready.config.read_text().replace("root.json", str(ready.base / "root.json"))
    config.write_text(text + '[probes]\nenv = { A = "Zürich € ü\\u0007" }\n', encoding="utf-8")
    answer = ready.run("--config", str(config), "config", "show", env=locale)
    assert (answer.code, answer.stderr) == (0, "")
    assert "\x07" not in answer.stdout
    answer = ready.run("--config", str(config), "config", "show", "--output", "json", env=locale)
    assert answer.json()["probes.env"]["value"]["A"] == "Zürich € ü\x07"


def test_a_state_directory_that_may_not_be_written_is_exit_6_with_the_path(tmp_path: Path, ready: SmallSite) -> None:
    site = SmallSite(tmp_path / "site", "http://127.0.0.1:9", b"{}")
    site.state.mkdir()
    site.state.chmod(0o555)
    prefix = WITHOUT_RIGHTS if os.geteuid() == 0 else ()
    for words in (("once",), ("pause",), ("status",)):
        # A round goes on without it, as far as it can: it untags.
        wanted = "0 actions done" if words == ("once",) else ""
        answer = site.run(*words, prefix=prefix)
        assert (answer.code, answer.stdout[: len(wanted) or None]) == (6, wanted), answer.stderr
        assert f"{site.state}/state.db: unable to open database file; " in answer.stderr
        assert "Traceback" not in answer.stderr


def test_a_damaged_state_database_is_exit_6_everywhere(tmp_path: Path) -> None:
    site = SmallSite(tmp_path / "site", "http://127.0.0.1:9", b"{}")
    site.state.mkdir()
    (site.state / "state.db").write_bytes(b"rubbish " * 1000)
    answer = site.run("release", "list")
    assert (answer.code, answer.stdout) == (6, "")
    assert "file is not a database; move it away if it is damaged" in answer.stderr


def test_tag_commands_add_list_and_remove_with_their_own_exit_codes(tmp_path: Path) -> None:
    site = SmallSite(tmp_path / "site", "http://127.0.0.1:9", b"{}")
    added = site.run("tag", "add", "VO-dteam-a", "VO-dteam-b", "--vo", "dteam", "--output", "json")
    assert (added.code, added.json()["added"]) == (0, ["VO-dteam-a", "VO-dteam-b"])
    assert "already present: VO-dteam-a" in site.run("tag", "add", "VO-dteam-a", "--vo", "dteam").stderr
    assert site.run("tag", "add", "VO-dteam-a", "--vo", "dteam", "--sc", "elsewhere").code == 2
    gone = site.run("tag", "remove", "VO-dteam-zzz", "--vo", "dteam")
    assert (gone.code, gone.stdout) == (1, "")
    assert site.run("tag", "remove", "VO-dteam-a", "--vo", "dteam").code == 0
    assert site.listed() == ["VO-dteam-b"]
    site.configure(site={"subclusters": []})
    nowhere = site.run("tag", "add", "VO-dteam-c", "--vo", "dteam")
    assert nowhere.code == 2
    assert "set site.subclusters" in nowhere.stderr


def test_a_requirement_of_a_job_is_printed_for_each_format(ready: SmallSite) -> None:
    tag = "VO-dteam-pps-1.0.0"
    for form in Form:
        said = ready.run("tag", "requirement", tag, "--format", form.value)
        assert (said.code, said.stderr) == (0, "")
        assert said.stdout == render_requirement(tag, form, vo=Vo("dteam")) + "\n"
        bare = ready.run("tag", "requirement", tag, "--format", form.value, "--bare", "--output", "json").json()
        expected = {"format": form.value, "tag": tag, "requirement": render_condition(tag, form, vo=Vo("dteam"))}
        assert bare == expected


def test_the_vo_of_a_requirement_is_found_in_the_settings_or_given(tmp_path: Path) -> None:
    site = SmallSite(tmp_path / "site", "http://127.0.0.1:9", b"{}")
    site.configure(site={"vos": ["ops", "ops-eu"]})
    words = ("tag", "requirement", "--format", "slurm")
    assert site.run(*words, "VO-ops-eu-x").stdout == "#SBATCH --constraint=VO-ops-eu-x\n"
    foreign = site.run(*words, "VO-dteam-x")
    assert (foreign.code, foreign.stdout) == (1, "")
    assert "'VO-dteam-x' is a tag of none of these VOs: ops, ops-eu; name its VO" in foreign.stderr
    assert site.run(*words, "VO-dteam-x", "--vo", "dteam").code == 0
    wrong = site.run(*words, "VO-dteam-!!", "--vo", "dteam")
    assert (wrong.code, wrong.stdout) == (1, "")
    assert site.run("tag", "requirement", "VO-ops-x", "--format", "pbs").code == 2


def test_a_requirement_needs_no_settings_when_the_vo_is_given(tmp_path: Path) -> None:
    site = SmallSite(tmp_path / "site", "http://127.0.0.1:9", b"{}")
    words = ("--config", str(tmp_path / "absent.toml"), "tag", "requirement", "VO-dteam-x", "--format", "slurm")
    given = site.run(*words, "--vo", "dteam")
    assert (given.code, given.stdout, given.stderr) == (0, "#SBATCH --constraint=VO-dteam-x\n", "")
    searched = site.run(*words)
    assert (searched.code, searched.stdout) == (78, "")
    assert "with --vo VO no settings are read" in searched.stderr.splitlines()[-1]


def test_a_probe_by_hand_speaks_a_plugins_exit_codes_only(ready: SmallSite) -> None:
    codes = {
        ("wn.softver", "--release", ONE): 0,
        ("wn.softvr", "--release", ONE): 3,
        ("wn.softver", "--release", release_id("9.9.9")): 3,
        (): 3,
    }
    for words, code in codes.items():
        assert code == ready.run("probe", "run", *words).code, words
    assert "did you mean wn.softver?" in ready.run("probe", "run", "wn.softvr").stdout


def test_flushing_and_enrolling_without_a_collector_say_what_is_missing(ready: SmallSite, tmp_path: Path) -> None:
    answer = ready.run("outbox", "flush", "--dry-run")
    assert answer.code == 78
    assert "set collector.url and run pps-agent enrol" in answer.stderr
    token = tmp_path / "token"
    token.write_text("x" * 32)
    answer = ready.run("enrol", "--token-file", str(token))
    assert (answer.code, answer.stdout) == (78, "")
    assert "collector.url is not set" in answer.stderr


def test_what_a_child_prints_is_one_json_document(ready: SmallSite) -> None:
    answer = ready.run("job", "refresh", "--offline")
    assert [
        f"{offer['release']['component']}-{offer['release']['version']}-{offer['release']['platform']}"
        for offer in json.loads(answer.stdout)["offered"]["offers"]
    ] == [ONE, WITH_STEPS]


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("config", "show"), ("release", "list")])
def test_a_full_disk_behind_stdout_is_an_error_and_a_closed_pipe_is_none(
    ready: SmallSite, words: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(ready.command(*words), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "standard output: No space left on device" in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(ready.command(*words), stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("words", [("tag", "ldif"), ("tag", "list"), ("status",)], ids=" ".join)
def test_without_any_standard_output_a_command_does_its_work_and_is_silent(
    ready: SmallSite, words: tuple[str, ...]
) -> None:
    command = ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *ready.command(*words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "code"),
    [(("tag", "ldif"), 0), (("tag", "list", "--sc", "ce99"), 2), (("tag", "add", "x", "--vo", "y"), 1)],
)
def test_without_standard_error_the_exit_code_says_the_same(
    ready: SmallSite, words: tuple[str, ...], code: int
) -> None:
    command = ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *ready.command(*words)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code


def test_a_line_end_in_a_reason_forges_no_row_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("RELEASE", "REASON"), [("a", "bad\nb  fine")])
    assert capsys.readouterr().out.splitlines()[1:] == ["a        bad\N{REPLACEMENT CHARACTER}b  fine"]

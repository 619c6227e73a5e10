"""The probes of a node's environment, shells and directories against the real thing."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_agent.environment.compose import compose, process_environment
from pps_agent.environment.render import render_csh
from pps_agent.environment.values import Captured
from pps_agent.probes.client import RunnerClient
from pps_wire.names import ReleaseId
from pps_wire.release import Overlay
from pps_wire.report import Status
from tests.probes.conftest import needs_root
from tests.support.probe_runs import PATH, Said, run_probe, shipped
from tests.support.services import need

RELEASE = "grid-clients-6.1.0-x86_64-glibc2.36"
PROFILE = "export X509_CERT_DIR=/etc BDII_LIST=bdii.example.org:2170 EDITOR=vi\n"
SITE = {"X509_CERT_DIR": "/etc", "BDII_LIST": "bdii.example.org:2170", "EDITOR": "vi"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give an installed release's tree with one ELF client and one script."""
    tree = tmp_path / "store" / "releases" / RELEASE / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy2("/usr/bin/printenv", tree / "bin" / "printenv")
    write_script(tree / "bin" / "arcinfo", "echo arcinfo version 6.17.0")
    (tree / "VERSION").write_text("6.1.0\n")
    return tree


def write_script(path: Path, body: str, interpreter: str = "/bin/sh") -> Path:
    path.write_text(f"#!{interpreter}\n{body}\n")
    path.chmod(0o755)
    return path


# --- wn.softver ------------------------------------------------------------------------------------


def softver(tree: Path, expect: str = "") -> Said:
    env = {"PPS_RELEASE_ROOT": str(tree), "PPS_RELEASE_VERSION": "6.1.0", "PPS_WN_SOFTVER_EXPECT": expect}
    return run_probe("wn.softver", env)


@pytest.mark.parametrize(
    ("stated", "expected", "status"),
    [
        ("6.17.0", "6.17.0", Status.OK),
        ("6.17.0", "6.17", Status.CRITICAL),
        ("6.17.01", "6.17.0", Status.CRITICAL),
        ("16.17.0", "6.17.0", Status.CRITICAL),
        ("v6.17.0-rc1", "6.17.0", Status.OK),
    ],
)
def test_softver_compares_whole_versions_of_clients(tree: Path, stated: str, expected: str, status: Status) -> None:
    write_script(tree / "bin" / "arcinfo", f"echo arcinfo version {stated}")
    assert softver(tree, f"arcinfo={expected}").status is status


def test_softver_misses_a_client_that_was_promised(tree: Path) -> None:
    said = softver(tree, "xrdcp=5.6.2")
    assert (said.status, said.text) == (
        Status.CRITICAL,
        "xrdcp: does not start: No such file or directory of version 6.1.0",
    )


def test_softver_does_not_wait_for_what_a_client_leaves_behind(tree: Path, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    write_script(tree / "bin" / "arcinfo", f"echo arcinfo version 6.17.0; sleep 600 & echo $! >{note}")
    assert softver(tree).status is Status.OK
    os.kill(int(note.read_text()), signal.SIGKILL)  # nobody else waits for it here; the agent's runner would


def test_softver_survives_a_client_that_floods(tree: Path) -> None:
    write_script(tree / "bin" / "arcinfo", "exec yes")
    said = softver(tree)
    assert (said.status, "arcinfo: --version dies of SIGXFSZ" in said.text) == (Status.CRITICAL, True)


# --- wn.env ----------------------------------------------------------------------------------------


def env_of(tree: Path, profile: str, **changes: str) -> dict[str, str]:
    path = tree.parents[3] / "site.sh"
    path.write_text(profile)
    lead = {"PATH": f"{tree}/bin:{PATH}", "PPS_RELEASE_ROOT": str(tree), "PPS_WN_ENV_PROFILES": str(path)}
    return {**lead, **SITE, **changes}


def test_env_passes_what_the_agent_composes_of_a_real_capture(tree: Path) -> None:
    captured = Captured({**SITE, "PATH": "/opt/site/bin:/usr/bin", "SITE_TOKEN": "secret"})
    overlay = Overlay(prepend={"PATH": ("bin",), "MANPATH": ("share/man",)}, assign={"GFAL_CONFIG_DIR": "etc/gfal2.d"})
    composed = process_environment(compose(captured, overlay, tree))
    profile = f"{PROFILE}export PATH=/opt/site/bin:$PATH SITE_TOKEN=secret GFAL_CONFIG_DIR=/etc/gfal2.d\n"
    said = run_probe("wn.env", {**composed, "PPS_WN_ENV_PROFILES": env_of(tree, profile)["PPS_WN_ENV_PROFILES"]})
    assert (said.status, said.text) == (Status.OK, "PATH, variables and the libraries of 2 clients are in order")
    counts = [said.perfdata[name] for name in ("clients", "missing", "changed", "leaked")]
    assert counts == [2, 0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"BDII_LIST": "other:2170"}, "BDII_LIST is other:2170; production has bdii.example.org:2170"),
        ({"SITE_API_KEY": "hunter2"}, "SITE_API_KEY is set: a secret leaked"),
        ({"PYTHONHOME": "/opt/python"}, "PYTHONHOME is set: it makes programs load foreign code"),
    ],
)
def test_env_fails_a_difference_that_clients_would_feel(tree: Path, changes: dict[str, str], words: str) -> None:
    said = run_probe("wn.env", env_of(tree, PROFILE, **changes))
    assert (said.status, words in said.text) == (Status.CRITICAL, True), said.text
    assert "hunter2" not in said.output


def test_env_names_a_missing_variable_once(tree: Path) -> None:
    env = env_of(tree, PROFILE, PPS_INHERITED="BDII_LIST EDITOR")
    del env["BDII_LIST"]
    said = run_probe("wn.env", env)
    assert (said.status, said.text) == (Status.CRITICAL, "the site's BDII_LIST was not inherited")
    assert said.perfdata["missing"] == 1


def test_env_only_remarks_a_difference_that_clients_do_not_read(tree: Path) -> None:
    said = run_probe("wn.env", env_of(tree, f"{PROFILE}export LESS=-R\n", EDITOR="nano", ADDED="1"))
    assert said.status is Status.OK
    assert said.lines == (
        "EDITOR is nano; production has vi",
        "LESS is missing; production has -R",
        "only here, not in production: ADDED",
    )


def test_env_fails_a_production_login_that_leads_into_the_preview(tree: Path) -> None:
    store = tree.parents[2]
    said = run_probe("wn.env", env_of(tree, f"{PROFILE}export MANPATH={store}/current/share/man:\n"))
    assert (said.status, "production's MANPATH leads into the preview" in said.text) == (Status.CRITICAL, True)


def test_env_fails_an_entry_that_stands_before_the_release_s_in_any_list(tree: Path) -> None:
    said = run_probe("wn.env", env_of(tree, PROFILE, PERL5LIB=f"/opt/perl:{tree}/lib/perl5"))
    expected = "PERL5LIB: /opt/perl stands before the release's lib/perl5"
    assert (said.status, said.text) == (Status.CRITICAL, expected)


def test_env_passes_over_a_profile_file_that_ends_or_holds_the_shell(tree: Path) -> None:
    site = tree.parents[3]
    (site / "a.sh").write_text("exit 3\n")
    (site / "b.sh").write_text(f"sleep 600 & echo $! >{site}/pid; export BDII_LIST=bdii.example.org:2170\n")
    env = env_of(tree, PROFILE) | {"PPS_WN_ENV_PROFILES": f"{site}/[ab].sh:{site}/site.sh"}
    said = run_probe("wn.env", env)
    os.kill(int((site / "pid").read_text()), signal.SIGKILL)
    assert (said.status, said.lines) == (
        Status.OK,
        (f"production: {site}/a.sh ends or holds the shell; passed over",),
    )


def test_env_hides_the_password_in_a_proxy_s_address(tree: Path) -> None:
    profile = f"{PROFILE}export http_proxy=http://robot:hunter2@squid:3128\n"
    said = run_probe("wn.env", env_of(tree, profile))
    assert (said.status, said.text) == (
        Status.CRITICAL,
        "http_proxy is missing; production has http://...@squid:3128",
    )
    assert "hunter2" not in said.output


@pytest.mark.parametrize("interpreter", ["/no/such/python3", "/usr/bin/env no-such-python"])
def test_env_fails_a_client_whose_interpreter_is_not_there(tree: Path, interpreter: str) -> None:
    write_script(tree / "bin" / "gfal-ls", "pass", interpreter)
    said = run_probe("wn.env", env_of(tree, PROFILE))
    assert (said.status, said.text) == (
        Status.CRITICAL,
        f"gfal-ls: its interpreter {interpreter.rsplit(' ', maxsplit=1)[-1]} is not there",
    )


# --- wn.csh ----------------------------------------------------------------------------------------


@pytest.fixture
def csh() -> str:
    """Give the path of a real C shell."""
    need("" if Path("/usr/bin/tcsh").exists() else "tcsh is not installed: apt-get install tcsh")
    return "/usr/bin/tcsh"


def shells() -> list[list[str]]:
    """Give the POSIX shells of this machine, as words before a script."""
    found = [["dash"], ["bash", "--posix"], ["busybox", "sh"], ["mksh"], ["zsh", "--emulate", "sh"]]
    return [words for words in found if shutil.which(words[0])]


@pytest.mark.parametrize("shell", shells(), ids=lambda words: words[0])
def test_csh_passes_a_real_c_shell_under_every_posix_shell(csh: str, shell: list[str], tmp_path: Path) -> None:
    said = run_probe("wn.csh", {"TMPDIR": str(tmp_path)}, before=shell)
    assert (said.status, re.sub(r"\d+\.\d+\.\d+", "X", said.text)) == (Status.OK, "/usr/bin/csh works (tcsh X)")
    assert list(said.perfdata) == ["time"]
    assert list(tmp_path.iterdir()) == []


def test_csh_tries_the_env_csh_that_the_agent_writes(csh: str, tree: Path, tmp_path: Path) -> None:
    overlay = Overlay(prepend={"PATH": ("bin",)}, assign={"GFAL_CONFIG_DIR": "etc/gfal2.d"})
    captured = Captured({**SITE, "VO_DTEAM_SW_DIR": "/opt/it's $HOME!"})
    (tree.parent / "env.csh").write_text(render_csh(compose(captured, overlay, tree)))
    env = {"PPS_RELEASE_ROOT": str(tree), "TMPDIR": str(tmp_path)}
    said = run_probe("wn.csh", env)
    assert (said.status, said.text.endswith("env.csh leads to the release")) == (Status.OK, True), said.text
    (tree.parent / "env.csh").write_text("setenv PPS_RELEASE_ROOT /opt/other\n")
    assert "env.csh does not lead to the release" in run_probe("wn.csh", env).text
    (tree.parent / "env.csh").write_text("setenv A `\n")
    assert run_probe("wn.csh", env).status is Status.CRITICAL


@needs_root
def test_csh_warns_of_start_files_that_print(csh: str, tmp_path: Path) -> None:
    noisy = tmp_path / "csh.cshrc"
    noisy.write_text("echo Welcome\n")
    mount = f"mount --bind {noisy} /etc/csh.cshrc && exec "
    said = run_probe("wn.csh", {"TMPDIR": str(tmp_path)}, before=["unshare", "-m", "sh", "-c", f'{mount}"$0"'])
    assert (said.status, "the start files of /usr/bin/csh print" in said.text) == (Status.WARNING, True)


def test_csh_without_any_c_shell_is_critical(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sh", "timeout", "mktemp", "rm", "tr", "cut", "head", "chmod", "env", "dirname"):
        (commands / name).symlink_to(shutil.which(name) or "")
    said = run_probe("wn.csh", {"PATH": str(commands), "TMPDIR": str(tmp_path)}, before=["/bin/sh"])
    assert (said.status, "no C shell here: install tcsh" in said.text) == (Status.CRITICAL, True)


# --- wn.vo-swdir -----------------------------------------------------------------------------------


def swdir(path: Path | str, **more: str) -> Said:
    env = {"PPS_VO": "vo.example-1.org", "VO_VO_EXAMPLE_1_ORG_SW_DIR": str(path), **more}
    return run_probe("wn.vo-swdir", env)


@needs_root
def test_swdir_judges_by_the_account_that_jobs_have(runner: RunnerClient, public_directory: Path) -> None:
    area = public_directory / "software"
    area.mkdir(mode=0o755)
    env = {"PPS_VO": "dteam", "VO_DTEAM_SW_DIR": str(area)}
    release = ReleaseId(RELEASE)
    assert "is empty" in runner.run(shipped("wn.vo-swdir"), env, release).summary
    (area / "setup.sh").touch()
    assert runner.run(shipped("wn.vo-swdir"), env, release).status is Status.OK
    area.chmod(0o1777)
    assert "may be written by this account" in runner.run(shipped("wn.vo-swdir"), env, release).summary


@needs_root
@pytest.mark.parametrize(
    ("mode", "status", "words"),
    [
        (0o755, Status.OK, "readable"),
        (0o777, Status.WARNING, "may be written"),
        (0o700, Status.CRITICAL, "permission denied: let jobs' accounts read it"),
        (0o754, Status.CRITICAL, "permission denied"),
    ],
)
def test_swdir_as_an_ordinary_account(public_directory: Path, mode: int, status: Status, words: str) -> None:
    area = public_directory / "software"
    area.mkdir()
    (area / "setup.sh").touch()
    area.chmod(mode)
    env = {"PPS_VO": "dteam", "VO_DTEAM_SW_DIR": str(area)}
    said = run_probe("wn.vo-swdir", env, before=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
    assert (said.status, words in said.text) == (status, True), said.text


def test_swdir_of_a_manager_must_be_writable(tmp_path: Path) -> None:
    assert swdir("/proc", PPS_WN_VO_SWDIR_WRITER="1").status is Status.CRITICAL
    tmp_path.chmod(0o777)
    assert swdir(tmp_path, PPS_WN_VO_SWDIR_WRITER="1").status is Status.OK


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[tuple[Path, "subprocess.Popen[bytes]"]]:
    """Give a directory seen through a program in user space, and that program."""
    bindfs, fusermount = shutil.which("bindfs"), shutil.which("fusermount3") or shutil.which("fusermount")
    need("" if bindfs and fusermount and Path("/dev/fuse").exists() else "bindfs or /dev/fuse is missing")
    below, above = tmp_path / "below", tmp_path / "above"
    for path in (below, above):
        path.mkdir()
    (below / "setup.sh").touch()
    with subprocess.Popen([bindfs or "", "-f", below, above], stderr=subprocess.DEVNULL) as program:
        for _ in range(500):
            if above.is_mount() or program.poll() is not None:
                break
            os.sched_yield()
            subprocess.run(["sleep", "0.01"], check=True)
        need("" if above.is_mount() else "bindfs cannot mount here")
        yield above, program
        program.kill()
        program.wait()
        subprocess.run([fusermount or "", "-u", "-z", above], check=False, capture_output=True)


def test_swdir_whose_file_system_died_is_critical(seen: tuple[Path, "subprocess.Popen[bytes]"]) -> None:
    path, program = seen
    assert swdir(path).status is Status.OK
    program.kill()
    program.wait()
    said = swdir(path)
    expected = f"{path}: transport endpoint is not connected: its file system's program has died: mount it anew"
    assert (said.status, said.text.endswith(expected)) == (Status.CRITICAL, True), said.text


def test_swdir_that_hangs_holds_only_a_child(seen: tuple[Path, "subprocess.Popen[bytes]"]) -> None:
    path, program = seen
    program.send_signal(signal.SIGSTOP)
    said = swdir(path)
    program.send_signal(signal.SIGCONT)
    assert (said.status, "does not answer within 20 s" in said.text) == (Status.CRITICAL, True), said.text

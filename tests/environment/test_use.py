"""``release env`` and ``release shell`` as a user of the node calls them, and what they must not do to production."""

import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_publisher.build.recipe import Wish, build
from pps_publisher.tree import load_tree
from pps_wire.names import Vo, parse_component, parse_version
from pps_wire.release import Overlay, ReleaseClass
from tests.support.releases import publish_passing, release_id
from tests.support.repository import Program, SmallRepository, serve
from tests.support.services import need
from tests.support.site import SmallSite

ONE = release_id("1.0.0")
TAG = "VO-dteam-pps-1.0.0"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallSite]:
    """A site with one installed and tagged release; tests only look at it."""
    base = tmp_path_factory.mktemp("use")
    repository = SmallRepository(base / "publisher")
    fails = Program(b"#!/bin/sh\nexit 7\n")
    publish_passing(repository, files={"bin/fails": fails, "bin/not-a-program": Program(b"\x7fELF nonsense")})
    with serve(repository.served) as server:
        site = SmallSite(base / "site", server.url, repository.root_bytes)
        site.once()
        yield site


@pytest.mark.parametrize(
    ("form", "kept"),
    [("sh", "env.sh"), ("csh", "env.csh"), ("modulefile", "modulefile"), ("rte", ""), ("apptainer", "")],
)
def test_every_form_is_printed_and_equals_the_file_kept_beside_the_tree(ready: SmallSite, form: str, kept: str) -> None:
    answer = ready.run("release", "env", ONE, "--shell", form)
    assert (answer.code, answer.stderr) == (0, "")
    assert f"releases/{ONE}/tree" in answer.stdout
    if kept:
        assert answer.stdout == (ready.store / "releases" / ONE / kept).read_text()


def test_a_tag_names_a_release_as_well_as_its_id(ready: SmallSite) -> None:
    by_id, by_tag = (ready.run("release", "env", name, "--output", "json").json() for name in (ONE, TAG))
    assert by_id == by_tag
    assert by_id["prepend"]["PATH"][0] == str(ready.store / "releases" / ONE / "tree" / "bin")


def test_evaluating_the_printed_text_selects_the_release(ready: SmallSite) -> None:
    words = " ".join(f"'{word}'" for word in ready.command("release", "env", TAG))
    done = subprocess.run(["bash", "-c", f'eval "$({words})" && hello'], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello 1.0.0\n", "")


def test_one_command_runs_in_the_release_with_its_own_options_input_and_exit_code(ready: SmallSite) -> None:
    assert ready.run("release", "shell", ONE, "hello").stdout == "hello 1.0.0\n"
    assert ready.run("release", "shell", ONE, "fails", "--help", "-x").code == 7
    assert ready.run("release", "shell", ONE, "--", "cat", "-", stdin="through\n").stdout == "through\n"


@pytest.mark.parametrize(("command", "code", "words"), [("no-such", 127, "not found"), ("not-a-program", 126, "Exec")])
def test_a_command_that_cannot_run_ends_as_it_would_in_a_shell(
    ready: SmallSite, command: str, code: int, words: str
) -> None:
    answer = ready.run("release", "shell", ONE, command)
    assert (answer.code, answer.stdout) == (code, "")
    assert words in answer.stderr


def test_an_interactive_shell_is_the_users_own_on_the_users_terminal(ready: SmallSite) -> None:
    master, slave = pty.openpty()
    command = ready.command("release", "shell", ONE)
    environment = {**os.environ, "SHELL": "/bin/bash", "HOME": "/nonexistent"}
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as shell:
        os.close(slave)
        os.write(master, b"echo $((40+2)) $PPS_RELEASE; hello; exit 3\n")
        seen = b""
        try:
            while piece := os.read(master, 4096):
                seen += piece
        except OSError:
            pass  # Linux ends a pseudo-terminal so
        assert shell.wait() == 3
    os.close(master)
    assert f"42 {ONE}".encode() in seen
    assert b"hello 1.0.0" in seen


@pytest.mark.parametrize("verb", ["env", "shell"])
def test_what_is_not_installed_is_named_with_what_is(ready: SmallSite, verb: str) -> None:
    answer = ready.run("release", verb, release_id("9.9.9"))
    assert (answer.code, answer.stdout) == (1, "")
    assert f"installed are: {ONE}" in answer.stderr


def test_an_ordinary_user_of_the_node_needs_to_read_only_settings_and_store(ready: SmallSite) -> None:
    need("" if os.geteuid() == 0 else "root is needed to become another user")
    state = ready.base / "state"
    before = {path: path.stat().st_mtime_ns for path in state.rglob("*")}
    for parent in (*ready.base.parents,):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    state.chmod(0o700)
    script = f". {ready.store}/releases/{ONE}/env.sh && hello"
    user = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--no-new-privs"]
    done = subprocess.run([*user, "/bin/sh", "-c", script], capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello 1.0.0\n", "")
    assert {path: path.stat().st_mtime_ns for path in state.rglob("*")} == before


# --- production stays as it is ---------------------------------------------------------------------


class Production:
    """What a user of production sees: a login shell's variables, and which libraries its programs load."""

    def __init__(self, home: Path, programs: tuple[str, ...]) -> None:
        self._home = home
        self._programs = programs

    def login(self) -> bytes:
        """Give the whole environment of a login shell."""
        start = {"HOME": str(self._home), "USER": "someone", "LOGNAME": "someone", "TERM": "dumb"}
        command = ["/bin/bash", "-l", "-c", "/usr/bin/env -0; umask; alias; command -v curl"]
        return subprocess.run(command, env=start, cwd="/", capture_output=True, check=True).stdout

    def libraries(self, environment: dict[str, str]) -> dict[str, list[str]]:
        """Give which file each program loads for each of its libraries in this environment."""
        return {program: libraries_of(program, environment) for program in self._programs}


def libraries_of(program: str, environment: dict[str, str]) -> list[str]:
    """Give what ldd says but for the addresses."""
    done = subprocess.run(["/usr/bin/ldd", program], env=environment, capture_output=True, text=True, check=True)
    return [line.rpartition(" (")[0].strip() for line in done.stdout.splitlines()]


PLAIN = {"PATH": "/usr/bin:/bin", "LANG": "C"}


def environment_of(script: str) -> dict[str, str]:
    """Give the environment after a piece of sh."""
    command = ["/bin/sh", "-c", f"{script}\n/usr/bin/env -0"]
    done = subprocess.run(command, env=PLAIN, capture_output=True, check=True)
    return dict(item.split("=", 1) for item in done.stdout.decode().split("\0")[:-1])


@pytest.fixture
def client(tmp_path: Path) -> Iterator[SmallSite]:
    """A site that installed a real preview: curl with all its own copies of the libraries production's uses."""
    curl = shutil.which("curl", path="/usr/bin") or ""
    need("" if curl and Path("/usr/bin/ldd").exists() else "curl is not installed: apt-get install curl")
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "lib").mkdir()
    shutil.copy(curl, tree / "bin" / "curl")
    for line in libraries_of(curl, PLAIN):
        name, _, path = line.partition(" => ")
        if path and not name.startswith(("libc.", "libm.", "libpthread", "libdl", "libresolv")):
            shutil.copy(path, tree / "lib" / name)
    repository = SmallRepository(tmp_path / "publisher")
    wish = Wish(
        component=parse_component("grid-clients"),
        version=parse_version("8.0"),
        class_=ReleaseClass.CLIENT_BC,
        vos=(Vo("dteam"),),
        tag_suffix="pps-8.0",
        environment=Overlay(prepend={"PATH": ("bin",)}),
    )
    bundle, _ = build(load_tree(tree), wish, tmp_path / "out")
    repository.publish_bundle(bundle)
    with serve(repository.served) as server:
        site = SmallSite(tmp_path / "site", server.url, repository.root_bytes)
        yield site
        site.close()


def test_production_is_the_same_before_after_and_beside_a_running_preview(client: SmallSite, tmp_path: Path) -> None:
    production = Production(tmp_path, ("/usr/bin/curl", "/bin/bash"))
    before = production.login(), production.libraries(PLAIN)
    client.once()
    (release,) = client.installed()
    preview = client.store / "releases" / release
    assert before == (production.login(), production.libraries(PLAIN))
    check_preview(production, preview, (preview / "env.sh").read_text())
    running = subprocess.Popen(
        client.command("release", "shell", release, "sh", "-c", "echo ready; read go"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        assert before == (production.login(), production.libraries(PLAIN))
        running.communicate(b"go\n")
    assert before == (production.login(), production.libraries(PLAIN))


def check_preview(production: Production, preview: Path, env_sh: str) -> None:
    """In the preview's own shell its programs load its libraries, and production's programs still load theirs."""
    inside = environment_of(env_sh)
    own = libraries_of(f"{preview}/tree/bin/curl", inside)
    assert [line for line in own if "libcurl" in line] == [f"libcurl.so.4 => {preview}/tree/bin/../lib/libcurl.so.4"]
    assert production.libraries(inside) == production.libraries(PLAIN)


def test_a_preview_keeps_its_libraries_where_production_sets_a_library_path(client: SmallSite, tmp_path: Path) -> None:
    client.once()
    (release,) = client.installed()
    preview = client.store / "releases" / release
    production = tmp_path / "production"
    production.mkdir()
    for line in libraries_of("/usr/bin/curl", PLAIN):
        name, _, path = line.partition(" => ")
        if path and name.startswith("libcurl"):
            shutil.copy(path, production / name)
    inside = environment_of((preview / "env.sh").read_text()) | {"LD_LIBRARY_PATH": str(production)}
    own = libraries_of(f"{preview}/tree/bin/curl", inside)
    assert [line for line in own if "libcurl" in line] == [f"libcurl.so.4 => {preview}/tree/bin/../lib/libcurl.so.4"]
    theirs = libraries_of("/usr/bin/curl", inside)
    assert [line for line in theirs if "libcurl" in line] == [f"libcurl.so.4 => {production}/libcurl.so.4"]


def test_a_preview_that_exported_a_library_path_would_be_caught(client: SmallSite, tmp_path: Path) -> None:
    production = Production(tmp_path, ("/usr/bin/curl",))
    client.once()
    (release,) = client.installed()
    preview = client.store / "releases" / release
    honest = (preview / "env.sh").read_text()
    check_preview(production, preview, honest)
    mutant = f"{honest}export LD_LIBRARY_PATH={preview}/tree/lib\n"
    with pytest.raises(AssertionError):
        check_preview(production, preview, mutant)

"""env.sh, env.csh and the modulefile in the real shells: the same variables everywhere, production untouched."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pps_agent.environment.capture import capture
from pps_agent.environment.compose import compose, extend_environment, process_environment
from pps_agent.environment.render import (
    quote_csh,
    quote_sh,
    quote_tcl,
    render_apptainer,
    render_csh,
    render_modulefile,
    render_rte,
    render_sh,
)
from pps_agent.environment.save import load_composed, write_environment
from pps_agent.environment.values import Captured, Composed
from pps_agent.errors import SiteError
from pps_wire.release import Overlay
from tests.support.services import need

PACKAGES = {"modulecmd": "environment-modules", "tclsh": "tcl"}
RELEASE = "grid-clients-6.1.0-x86_64-glibc2.36"
HOSTILE = {
    "A_QUOTES": "it's \"q\" ''x'' '",
    "B_DOLLAR": "$HOME ${X} `id` $(id)",
    "C_BANG": "!! !a \\! \\\\! '!'",
    "D_BACKSLASH": "\\ \\\\n \\' x\\",
    "E_UNICODE": "é ☃ 😀",
    "F_EMPTY": "",
    "G_GLOB": "* ? [a] ~ {a,b} ; & | < > ( ) # %",
    "H_CONTROL": "\ta\x1b[0m",
}
NOT_IN_MODULES = {"E_UNICODE", "H_CONTROL", "L_NEWLINES", "M_ONLY"}
LINES = {"L_NEWLINES": "\na\nb 'c\n!d\\\n\n", "M_ONLY": "\n"}
SITE = {**HOSTILE, **LINES, "X509_CERT_DIR": "/etc/grid-security/certificates", "PATH": "/opt/site/bin:/usr/bin:/bin"}
OVERLAY = Overlay(prepend={"PATH": ("bin",), "PYTHONPATH": ("lib/python3",)}, assign={"GFAL_CONFIG_DIR": "etc/gfal2.d"})
START = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/other/one:/other/b c*", "MINE": "1", "A_QUOTES": "mine"}


def program(name: str) -> str:
    path = shutil.which(name) or ""
    need("" if path else f"{name} is not installed: apt-get install {PACKAGES.get(name, name)}")
    return path


@pytest.fixture
def release_dir(tmp_path: Path) -> Path:
    """A release directory with a hostile path of its own."""
    path = tmp_path / "it's $a store!" / "releases" / RELEASE
    path.mkdir(parents=True)
    return path


def composed_in(release_dir: Path) -> Composed:
    composed = compose(Captured(SITE), OVERLAY, release_dir / "tree")
    write_environment(release_dir, composed, "f" * 64)
    return composed


def environment_after(argv: list[str], start: dict[str, str]) -> dict[str, str]:
    done = subprocess.run(argv, env=start, cwd="/", capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, b"")
    return dict(item.split("=", 1) for item in done.stdout.decode().split("\0")[:-1])


def expected_after(composed: Composed, start: dict[str, str]) -> dict[str, str]:
    lists = {
        name: ":".join([*entries, *(e for e in start[name].split(":") if e not in entries)])
        for name, entries in composed.prepend.items()
    }
    return {**start, **composed.assign, **lists}


def without_shells_own(found: dict[str, str], start: dict[str, str], *prefixes: str) -> dict[str, str]:
    own = {"PWD", "OLDPWD", "SHLVL", "_", "HOME", "LOGNAME", "USER", "GROUP", "HOST"}
    own |= {"HOSTTYPE", "NLSPATH", "MACHTYPE", "OSTYPE", "VENDOR", "REMOTEHOST", "LOADEDMODULES", "_LMFILES_"}
    return {k: v for k, v in found.items() if k in start or (k not in own and not k.startswith(prefixes or ("\n",)))}


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "zsh"])
@pytest.mark.parametrize("times", [1, 2])
def test_env_sh_gives_the_same_variables_in_every_shell_however_often(
    release_dir: Path, shell: str, times: int
) -> None:
    composed = composed_in(release_dir)
    source = f". {quote_sh(str(release_dir / 'env.sh'))}; "
    script = f"set -eu; {source * times}/usr/bin/env -0"
    flags = ["-f"] if shell == "zsh" else []
    found = environment_after([program(shell), *flags, "-c", script], START)
    assert without_shells_own(found, START) == expected_after(composed, START)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("option", ["", "set backslash_quote; "])
def test_env_csh_gives_the_same_variables_however_often(release_dir: Path, times: int, option: str) -> None:
    composed = composed_in(release_dir)
    source = f"source {quote_csh(str(release_dir / 'env.csh'))}; "
    script = f"{option}{source * times}/usr/bin/env -0"
    found = environment_after([program("tcsh"), "-f", "-c", script], START)
    assert without_shells_own(found, START) == expected_after(composed, START)


def module_script(modulefile: Path, *verbs: str) -> str:
    command = quote_sh(program("modulecmd"))
    calls = "".join(f'eval "$({command} sh {verb} {quote_sh(str(modulefile))})"; ' for verb in verbs)
    return f"{calls}/usr/bin/env -0"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_the_modulefile_gives_the_same_variables_but_those_that_are_not_printable_ascii(
    tmp_path: Path, locale: str
) -> None:
    release_dir = tmp_path / RELEASE
    release_dir.mkdir()
    composed = composed_in(release_dir)
    start = {**START, "LANG": locale}
    found = environment_after(["/bin/sh", "-c", module_script(release_dir / "modulefile", "load")], start)
    expected = {k: v for k, v in expected_after(composed, start).items() if k not in NOT_IN_MODULES}
    assert without_shells_own(found, start, "__MODULES_") == expected


def test_unloading_the_module_gives_the_sites_own_values_back(tmp_path: Path) -> None:
    release_dir = tmp_path / RELEASE
    release_dir.mkdir()
    composed_in(release_dir)
    start = {**START, "X509_CERT_DIR": "/etc/grid-security/certificates", "GFAL_CONFIG_DIR": "/etc/gfal2.d"}
    script = module_script(release_dir / "modulefile", "load", "unload")
    assert without_shells_own(environment_after(["/bin/sh", "-c", script], start), start) == start


LMOD_USR = Path(sys.prefix) / "share" / "lmod"
LMOD = LMOD_USR / "share" / "lmod" / "lmod" / "libexec" / "lmod"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_lmod_gives_the_same_variables_as_environment_modules(tmp_path: Path, locale: str) -> None:
    need("" if LMOD.exists() else "Lmod is not unpacked: ./run test does that")
    release_dir = tmp_path / RELEASE
    release_dir.mkdir()
    composed = composed_in(release_dir)
    modules = tmp_path / "modules" / "pps"
    modules.mkdir(parents=True)
    (modules / RELEASE).symlink_to(release_dir / "modulefile")
    libraries = next(LMOD_USR.glob("lib/lmod/*/lib"))
    start = {**START, "LANG": locale, "MODULEPATH": str(modules.parent), "LUA_CPATH": f"{libraries}/?.so;;"}
    script = f'eval "$({quote_sh(str(LMOD))} bash load pps/{RELEASE})"; /usr/bin/env -0'
    found = environment_after(["/bin/bash", "-c", script], start)
    expected = {k: v for k, v in expected_after(composed, start).items() if k not in NOT_IN_MODULES}
    assert without_shells_own(found, start, "LMOD_", "__LMOD", "_ModuleTable", "BASH_FUNC_") == expected


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_the_arc_script_gives_the_same_variables_in_stage_1_and_none_in_the_others(
    release_dir: Path, shell: str, times: int
) -> None:
    composed = composed_in(release_dir)
    # A-REX puts the script's text into a function of the job script.
    function = f"rte() {{\n{render_rte(composed)}\n}}\n"
    stages = {stage: f"{function}set -eu; {f'rte {stage}; ' * times}/usr/bin/env -0" for stage in (0, 1, 2)}
    for stage, script in stages.items():
        found = environment_after([program(shell), "-c", script], START)
        expected = expected_after(composed, START) if stage == 1 else START
        assert without_shells_own(found, START) == expected


@pytest.mark.parametrize("times", [1, 2])
def test_the_apptainer_text_binds_tree_and_trust_anchors_and_passes_every_variable(tmp_path: Path, times: int) -> None:
    tree = tmp_path / "it's $a store!" / RELEASE / "tree"
    composed = compose(Captured(SITE), OVERLAY, tree)
    start = {**START, "APPTAINER_BINDPATH": "/data"}
    script = f"set -eu\n{render_apptainer(composed) * times}/usr/bin/env -0"
    found = environment_after(["/bin/dash", "-c", script], start)
    anchors = "/etc/grid-security/certificates"
    assert found["APPTAINER_BINDPATH"] == f"{anchors}:{anchors}:ro,{tree}:{tree}:ro,/data"
    inside = {k.removeprefix("APPTAINERENV_"): v for k, v in found.items() if k.startswith("APPTAINERENV_")}
    lists = {"PREPEND_PATH": f"{tree}/bin:/opt/site/bin", "PYTHONPATH": f"{tree}/lib/python3"}
    assert inside == {**composed.assign, **lists}
    assert set(without_shells_own(found, start, "APPTAINERENV_")) == set(start)


@pytest.mark.parametrize("store", ["a,b", "a:b"])
def test_a_store_that_a_container_cannot_bind_is_refused_by_name(store: str) -> None:
    composed = Composed(RELEASE, Path("/") / store / "tree", {}, {})
    with pytest.raises(SiteError, match=r"/a[,:]b/tree: a path with"):
        render_apptainer(composed)


def test_a_process_gets_what_sourcing_env_sh_gives(release_dir: Path) -> None:
    composed = composed_in(release_dir)
    assert extend_environment(START, composed) == expected_after(composed, START)


TCL_MODULE_COMMANDS = """
fconfigure stdout -encoding binary -translation lf
proc module-whatis args {}
proc pushenv {name value} { puts -nonewline "$name=$value\\0" }
proc prepend-path {name value} { puts -nonewline "$name+=$value\\0" }
"""


def test_the_modulefile_is_plain_tcl_with_release_entries_prepended_last(release_dir: Path, tmp_path: Path) -> None:
    composed = composed_in(release_dir)
    runner = tmp_path / "run.tcl"
    runner.write_text(f"{TCL_MODULE_COMMANDS}source -encoding iso8859-1 {quote_tcl(str(release_dir / 'modulefile'))}\n")
    done = subprocess.run([program("tclsh"), str(runner)], env={"LANG": "C"}, capture_output=True, check=True)
    items = done.stdout.decode().split("\0")[:-1]
    assert [item for item in items if item.startswith("PATH+=")][-1] == f"PATH+={release_dir}/tree/bin"
    found = dict(item.split("=", 1) for item in items if not item.startswith(("PATH+=", "PYTHONPATH+=")))
    assert found == {name: value for name, value in composed.assign.items() if name not in NOT_IN_MODULES}


def test_lists_that_the_shell_does_not_have_are_made(release_dir: Path) -> None:
    composed = compose(Captured({}), OVERLAY, release_dir / "tree")
    write_environment(release_dir, composed, "")
    script = f". {quote_sh(str(release_dir / 'env.sh'))}; /usr/bin/env -0"
    found = environment_after(["sh", "-c", script], {"PATH": "/bin"})
    assert found["PYTHONPATH"] == f"{release_dir}/tree/lib/python3"


def test_sourcing_another_release_and_the_first_again_puts_the_first_in_front(tmp_path: Path) -> None:
    script = ""
    for name in ("r1", "r2", "r1"):
        (tmp_path / name).mkdir(exist_ok=True)
        write_environment(tmp_path / name, compose(Captured({}), OVERLAY, tmp_path / name / "tree"), "")
        script += f". {tmp_path}/{name}/env.sh; "
    found = environment_after(["sh", "-c", f"{script}/usr/bin/env -0"], START)
    assert found["PATH"] == f"{tmp_path}/r1/tree/bin:{tmp_path}/r2/tree/bin:/usr/bin:/bin"
    assert found["PPS_RELEASE"] == "r1"


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh"])
def test_env_sh_leaves_no_function_or_variable_behind(release_dir: Path, shell: str) -> None:
    composed_in(release_dir)
    script = f". {quote_sh(str(release_dir / 'env.sh'))}; set | grep ^__pps; command -v __pps_lead; :"
    done = subprocess.run([program(shell), "-c", script], env=START, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_the_record_is_what_a_probe_gets_and_names_the_profile(release_dir: Path) -> None:
    composed = composed_in(release_dir)
    record = json.loads((release_dir / "environment.json").read_bytes())
    lists = {name: list(entries) for name, entries in composed.prepend.items()}
    expected = {"profile": "f" * 64, "variables": process_environment(composed)}
    assert record == {**expected, "assign": composed.assign, "prepend": lists}


def test_the_record_gives_the_composed_environment_back(release_dir: Path) -> None:
    composed = composed_in(release_dir)
    found = load_composed(release_dir)
    assert (found.release, found.tree) == (RELEASE, release_dir / "tree")
    assert (found.assign, found.prepend) == (composed.assign, composed.prepend)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"variables": 1}', "\udc80", "[" * 100_000])
def test_a_damaged_record_is_named_with_the_way_out(release_dir: Path, content: str) -> None:
    (release_dir / "environment.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(SiteError, match=r"environment\.json: .*; remove it"):
        load_composed(release_dir)


def test_a_release_without_a_record_says_who_composes_it(release_dir: Path) -> None:
    with pytest.raises(SiteError, match="has no environment yet; pps-agent once"):
        load_composed(release_dir)


def test_a_release_directory_that_cannot_be_written_is_the_sites_to_mend(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"env\.sh"):
        write_environment(tmp_path / "gone", compose(Captured({}), OVERLAY, tmp_path / "gone" / "tree"), "")


def test_a_production_shell_sees_no_difference_while_a_preview_shell_runs(release_dir: Path) -> None:
    composed_in(release_dir)
    look = ["bash", "-c", "env -0; readlink -f /proc/$$/exe; command -v curl xrdcp ls; alias; umask"]

    def production() -> bytes:
        return subprocess.run(look, env=START, capture_output=True, check=False, cwd="/").stdout

    before = production()
    script = f". {quote_sh(str(release_dir / 'env.sh'))}; echo ready; read done_now"
    with subprocess.Popen(["bash", "-c", script], env=START, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as preview:
        assert preview.stdout is not None
        assert preview.stdout.readline() == b"ready\n"
        during = production()
        preview.communicate(b"\n")
    assert before == during == production()


def test_what_a_real_profile_sets_arrives_in_the_preview_shell(tmp_path: Path) -> None:
    (tmp_path / "site.sh").write_text(
        "export X509_CERT_DIR=/etc/grid-security/certificates GFAL_CONFIG_DIR=/etc/gfal2.d\n"
        "export PATH=/opt/site/bin:$PATH GRID_TOKEN=secret LD_PRELOAD=/opt/evil.so\n"
    )
    found = capture([f"{tmp_path}/*.sh"], 20)
    assert isinstance(found, Captured)
    (tmp_path / RELEASE).mkdir()
    write_environment(tmp_path / RELEASE, compose(found, OVERLAY, tmp_path / RELEASE / "tree"), found.fingerprint)
    after = environment_after(
        ["sh", "-c", f". {tmp_path}/{RELEASE}/env.sh; /usr/bin/env -0"], {"PATH": "/usr/bin:/bin"}
    )
    assert after["X509_CERT_DIR"] == "/etc/grid-security/certificates"
    assert after["GFAL_CONFIG_DIR"] == f"{tmp_path}/{RELEASE}/tree/etc/gfal2.d"
    assert after["PATH"] == f"{tmp_path}/{RELEASE}/tree/bin:/opt/site/bin:/usr/bin:/bin"
    assert {"GRID_TOKEN", "LD_PRELOAD"}.isdisjoint(after)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
batches = st.lists(st.one_of(texts, st.text("'\\!\n\"$`{}[] a", max_size=12)), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(batches)
def test_any_text_quoted_for_sh_is_one_word_again(words: list[str]) -> None:
    script = "printf '%s\\0' " + " ".join(quote_sh(word) for word in words)
    for shell in ("dash", "bash"):
        out = subprocess.run([program(shell), "-c", script], capture_output=True, check=True).stdout
        assert out.decode().split("\0")[:-1] == words


@settings(max_examples=25, deadline=None)
@given(batches)
def test_any_text_quoted_for_csh_is_one_word_again(words: list[str]) -> None:
    script = "/usr/bin/printf '%s\\0' " + " ".join(quote_csh(word) for word in words) + "\n"
    out = subprocess.run(
        [program("tcsh"), "-f"], input=script.encode(), capture_output=True, check=True, env={"LANG": "C"}
    )
    assert out.stdout.decode().split("\0")[:-1] == words


@settings(max_examples=25, deadline=None)
@given(batches)
def test_any_text_quoted_for_tcl_is_one_word_again(words: list[str]) -> None:
    script = "".join(f'puts -nonewline {quote_tcl(word)}; puts -nonewline "\\0"\n' for word in words)
    argv = [program("tclsh"), "-encoding", "iso8859-1"]  # bytes in, bytes out, as in a C locale
    script = f"fconfigure stdout -encoding binary -translation lf\n{script}"
    out = subprocess.run([*argv, "/dev/stdin"], input=script.encode(), capture_output=True, check=True)
    assert out.stdout.decode().split("\0")[:-1] == words


@given(st.dictionaries(st.sampled_from(["A", "B"]), texts, max_size=2), st.lists(texts, max_size=2))
def test_the_renderers_take_any_composed_value(assign: dict[str, str], entries: list[str]) -> None:
    composed = Composed("r", Path("/s/r/tree"), assign, {"PATH": tuple(entries)} if entries else {})
    assert render_sh(composed).startswith("#")
    assert render_csh(composed).startswith("#")
    assert render_modulefile(composed).startswith("#%Module1.0\n")

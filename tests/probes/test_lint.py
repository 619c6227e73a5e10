"""What a reviewer would say of a probe, said by the program; and that a good probe is left in peace."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pps_agent.probes.catalogue import Catalogue, load_catalogue, shipped_directory
from pps_agent.probes.lint import lint_probe
from pps_agent.probes.rules import PYTHON_LINE, find_program_faults
from tests.probes.samples import METADATA, README, RUN, write_sample

SHIPPED = sorted(path.parent.name for path in shipped_directory().glob("*/probe.toml"))
WITH_CASES = [name for name in SHIPPED if list((shipped_directory() / name / "tests").glob("*.case"))]


def lint(path: Path, catalogue: Catalogue | None = None, max_timeout_s: int = 300) -> list[str]:
    found = lint_probe(path, catalogue or Catalogue(), max_timeout_s)
    assert all(fault.startswith(str(path)) for fault in found)
    return [fault.removeprefix(f"{path}") for fault in found]


def test_a_good_probe_is_left_in_peace(tmp_path: Path) -> None:
    assert lint(write_sample(tmp_path)) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_probe_has_no_fault(name: str) -> None:
    faults = lint(shipped_directory() / name, load_catalogue())
    assert [fault for fault in faults if name in WITH_CASES or not fault.startswith("/tests: no case")] == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"org.test.se.sample"  #', '"org.test.other"  #', "the directory is called se.sample: it must be the end of"),
        ('summary = "says what it is told"', "", "/probe.toml: probe.summary is empty"),
        ('version = "7"', "", "probe.version is empty"),
        ("timeout_s = 20", "timeout_s = 3600", "probe.timeout_s must be less than interval_s (3600)"),
        ("timeout_s = 20", "timeout_s = 301", "more than the site allows (probes.timeout_s = 300)"),
        (
            "interval_s = 3600",
            "interval_s = 3600\nmax_attempts = 2\nretry_interval_s = 4000",
            "retry_interval_s must not",
        ),
        (
            "interval_s = 3600",
            'interval_s = 3600\ndepends_on = ["org.test.gone"]',
            "org.test.gone is not installed here",
        ),
        ('help = "seconds"', 'help = ""', "arguments.warning.help is empty"),
        ("PPS_SAMPLE_WARN_S = ", "PPS_SAMPLE_OTHER = ", "say in [requires.variables] or [env] what PPS_SAMPLE_WARN_S"),
        ("[arguments]", '[secrets]\nPPS_SAMPLE_WARN_S = "file"\n[arguments]', "a secret, which no caller may set"),
        ("[arguments]", '[secrets]\nPPS_SAMPLE_WARN_S = "file"\n[arguments]', "env.PPS_SAMPLE_WARN_S is a secret too"),
        ("[arguments]", '[arguments]\nx = { variable = "PPS_SAMPLE_WARN_S", help = "y" }', "is set by x too"),
        ("interval_s = 3600", "intervall_s = 3600", "/probe.toml:11: probe.intervall_s: unknown key"),
    ],
)
def test_metadata_that_does_not_hold_together_is_told(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in METADATA
    assert words in "\n".join(lint(write_sample(tmp_path, metadata=METADATA.replace(old, new, 1))))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("if [[ -n $x ]]; then :; fi", "not plain sh: [[ … ]]"),
        ("function f { :; }", "function NAME"),
        ("cat <(echo x)", "process substitution"),
        ("cat <<<x", "a here-string"),
        ("echo x &>/dev/null", "&>"),
        ("x=$'a'", "printf"),
        ("source /etc/profile", "a bash built-in"),
        ("echo ${x//a/b}", "a bash expansion"),
        ("echo ${x:1:2}", "a bash expansion"),
        ("a=(1 2)", "an array"),
        ('[ "$x" == y ] && echo y', "==: write ="),
        ("echo $RANDOM", "a bash variable"),
        ("echo -e 'a'", "echo -e"),
        ("for i in {1..3}; do :; done", "write seq"),
    ],
)
def test_what_only_bash_understands_is_told_with_what_to_write(line: str, words: str) -> None:
    (finding,) = find_program_faults(f"#!/bin/sh\n:\n{line}\n".encode(), sys.stdlib_module_names)
    assert (finding.file, finding.line) == ("run", 3)
    assert words in finding.text


@pytest.mark.parametrize(
    "line",
    [
        "# [[ a comment ]]",
        "echo 'function f {1..3} [[ x ]]'",
        "cat <<EOF\nsource x\na=(1)\nEOF",
        "cat <<-'END'\n\t[[ x ]]\n\tEND",
        "[ a = b ] || echo no",
        'f() { echo "${x#y}" "${x:-z}" "${x%%/*}"; }',
        "echo x >file 2>&1",
        "x=$((1 + 2))",
        "case $x in a|b) ;; esac",
        "local_file=1",
        "echo ${x:+1}",
    ],
)
def test_plain_sh_is_left_in_peace(line: str) -> None:
    assert list(find_program_faults(f"#!/bin/sh\n{line}\n".encode(), sys.stdlib_module_names)) == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("match 1:\n    case 1: pass", "run:3: is no Python 3.9"),
        ("def f(:\n", "run:2: is no Python 3.9"),
        ("import requests", "imports requests: worker nodes have the standard library only"),
        ("from xml import etree\nfrom yaml import load", "run:3: imports yaml"),
        ("from . import x", "imports a module beside it"),
    ],
)
def test_python_that_a_node_may_not_have_is_told(body: str, words: str) -> None:
    findings = find_program_faults(f"{PYTHON_LINE}\n{body}\n".encode(), sys.stdlib_module_names)
    assert words in "\n".join(map(str, findings))


@pytest.mark.parametrize(
    "first", ["#!/usr/bin/env python3", "#!/usr/bin/python3", "#!/bin/bash", "#!/usr/bin/perl", "echo", "#!sh", "#!"]
)
def test_a_first_line_that_is_not_plain_sh_or_lean_python_is_told(first: str) -> None:
    findings = list(find_program_faults(f"{first}\necho\n".encode(), sys.stdlib_module_names))
    assert [
        str(finding).startswith("run:1: must begin with #!/bin/sh or #!/usr/bin/python3 -IS") for finding in findings
    ] == [True]


@settings(deadline=None)
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: f"{PYTHON_LINE}\n{text}".encode()))
def test_any_bytes_of_a_program_are_looked_at(content: bytes) -> None:
    assert all(finding.file == "run" for finding in find_program_faults(content, sys.stdlib_module_names))


def test_a_program_that_the_shell_cannot_read_is_told(tmp_path: Path) -> None:
    faults = lint(write_sample(tmp_path, run="#!/bin/sh\nif true; then\n"))
    assert faults[0].startswith("/run: /bin/sh -n refuses it: ")


def test_an_interpreter_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert lint(write_sample(tmp_path, run=RUN.replace("/bin/sh", "/no/such/sh"))) == [
        "/run:1: /no/such/sh cannot be executed on this machine"
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("# se.sample", "# other", "/README.md:1: must begin with '# se.sample'"),
        ("| OK | told so |", "", "lacks a row '| OK | when |'"),
        ("| CRITICAL | told otherwise |", "| CRITICAL | |", "lacks a row '| CRITICAL | when |'"),
        ("`PPS_SAMPLE` is not set", "never", "does not name PPS_SAMPLE"),
        ("By hand", "So", "how to run it by hand"),
    ],
)
def test_a_page_that_leaves_something_out_is_told(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = README.replace(old, new)
    if words.startswith("does not name"):
        text = text.replace("PPS_SAMPLE=fine ", "")
    (fault,) = lint(write_sample(tmp_path, readme=text))
    assert words in fault


def test_missing_files_are_each_told(tmp_path: Path) -> None:
    faults = "\n".join(lint(write_sample(tmp_path, readme=None, fine=None, bad=None)))
    for words in ("/README.md: is missing", "no case expects OK", "no case expects WARNING, CRITICAL or UNKNOWN"):
        assert words in faults
    assert "run: No such file" in lint(write_sample(tmp_path / "b", run=None))[0]
    assert "probe.toml: No such file" in lint(write_sample(tmp_path / "c", metadata=None))[0]


def test_a_case_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (fault,) = lint(write_sample(tmp_path, fine="[expect]\nstatus = 'FINE'\n"))
    assert fault == "/tests/fine.case: expect.status: must be one of OK, WARNING, CRITICAL, UNKNOWN"


def test_a_name_that_an_installed_probe_has_is_told_once_for_each_other(tmp_path: Path) -> None:
    metadata = METADATA.replace('"old.sample"', '"wn.env", "CE-sft-softver", "wn.softver"')
    faults = lint(write_sample(tmp_path, metadata=metadata), load_catalogue())
    assert len(faults) == 2
    assert ": wn.env is also the name of" in "\n".join(faults)

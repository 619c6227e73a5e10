"""Probes as definitions of schedulers, judged by the schedulers' own readers."""

import json
import os
import pwd
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.export.checks import Mode, Target, plan_checks
from pps_agent.probes.export.icinga import render_icinga
from pps_agent.probes.export.nagios import render_nagios, render_nrpe
from pps_agent.probes.export.sensu import render_sensu
from pps_wire.errors import WireError
from pps_wire.names import ProbeName
from tests.support.services import need

ME = pwd.getpwuid(os.geteuid()).pw_name
TARGET = Target(
    host="head.example.org",
    agent=("/opt/p p s/bin/pps-agent", "--config", "/etc/it's;odd/$HOST/agent.toml"),
    check=("/opt/p p s/bin/check_pps",),
    template="generic-service",
)
PLAIN = Target(host="head.example.org", agent=("/usr/bin/pps-agent",), check=("/usr/bin/check_pps",))


def probe(name: str, **changed: object) -> ProbeDefinition:
    return ProbeDefinition(name=ProbeName(name), run=Path("/nowhere/run"), **changed)  # type: ignore[arg-type]


PROBES = (
    probe("org.pps.proxy.valid", interval_s=3600, summary='the proxy; "valid" for $VO with a back\\slash'),
    probe(
        "org.pps.se.xroot",
        interval_s=900,
        retry_interval_s=90,
        max_attempts=3,
        timeout_s=120,
        version="2",
        depends_on=(ProbeName("org.pps.proxy.valid"), ProbeName("org.pps.elsewhere")),
        metrics=(ProbeName("org.pps.se.xroot.put"),),
        matrix=True,
    ),
    probe("org.pps.wn.env"),
)


def test_an_active_check_runs_the_probe_in_its_own_rhythm_and_with_time_to_answer():
    check = plan_checks(PROBES, PLAIN, Mode.ACTIVE)[1]
    assert check.command == ("/usr/bin/pps-agent", "probe", "run", "org.pps.se.xroot", "-v", "-t", "135")
    assert (check.interval_s, check.retry_s, check.max_attempts, check.timeout_s) == (900, 90, 3, 135)
    assert check.parents == (ProbeName("org.pps.proxy.valid"),)


def test_a_cached_check_looks_often_and_takes_the_worst_where_there_are_several_results():
    checks = plan_checks(PROBES, PLAIN, Mode.CACHED)
    assert [check.name for check in checks] == [
        "org.pps.proxy.valid",
        "org.pps.se.xroot",
        "org.pps.se.xroot.put",
        "org.pps.wn.env",
    ]
    assert checks[0].command == ("/usr/bin/check_pps", "org.pps.proxy.valid", "-v", "-t", "10")
    assert [check.command[-1] == "--worst" for check in checks] == [False, True, True, True]
    on_releases = probe("org.pps.wn.softver", interval_s=3600, variables={"PPS_RELEASE_ROOT": "the tree"})
    assert plan_checks((on_releases,), PLAIN, Mode.CACHED)[0].command[-1] == "--worst"
    assert (checks[0].interval_s, checks[2].parents) == (300, ("org.pps.se.xroot",))


def test_a_path_that_no_definition_can_hold_is_refused():
    with pytest.raises(WireError, match="choose another path"):
        plan_checks(PROBES, Target(host="h", agent=("/a\nb",), check=("c",)), Mode.ACTIVE)


@pytest.mark.parametrize("host", ["a b,c", "x;y", "", "h'"])
def test_a_host_that_cannot_be_a_name_is_refused(host):
    target = Target(host=host, agent=("a",), check=("c",))
    with pytest.raises(WireError):
        render_nagios(plan_checks(PROBES, target, Mode.CACHED), target)


def check_nagios(directory: Path, definitions: str) -> "subprocess.CompletedProcess[str]":
    """Have Nagios itself read definitions beside Debian's own objects."""
    need("" if shutil.which("nagios4") else "nagios4 is missing: install Debian's package nagios4-core")
    (directory / "pps.cfg").write_text(definitions)
    (directory / "host.cfg").write_text(
        "define host {\n use generic-host\n host_name head.example.org\n address 127.0.0.1\n"
        " max_check_attempts 1\n contact_groups admins\n}\n"
    )
    stock = [
        f"cfg_file=/etc/nagios4/objects/{name}.cfg" for name in ("commands", "contacts", "timeperiods", "templates")
    ]
    (directory / "nagios.cfg").write_text(
        "\n".join(
            (
                *(f"cfg_file={directory}/{name}.cfg" for name in ("host", "pps")),
                *stock,
                f"log_file={directory}/nagios.log",
                f"object_cache_file={directory}/objects.cache",
                f"check_result_path={directory}",
                f"temp_path={directory}",
                f"nagios_user={ME}",
                f"nagios_group={ME}",
                "illegal_object_name_chars=`~!$%^&*|'\"<>?,()=",
                "illegal_macro_output_chars=`~$&|'\"<>",
                "",
            )
        )
    )
    return subprocess.run(["nagios4", "-v", str(directory / "nagios.cfg")], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("nrpe", ["", "/usr/lib/nagios/plugins/check_nrpe"])
def test_nagios_reads_them_without_a_warning(tmp_path, mode, nrpe):
    target = Target(host=TARGET.host, agent=TARGET.agent, check=TARGET.check, template=TARGET.template, nrpe=nrpe)
    done = check_nagios(tmp_path, render_nagios(plan_checks(PROBES, target, mode), target))
    assert "Total Warnings: 0\nTotal Errors:   0\n" in done.stdout, done.stdout
    assert f"Checked {3 if mode is Mode.ACTIVE else 4} services" in done.stdout


def test_nagios_refuses_what_was_broken(tmp_path):
    """The judge can see: a definition with a hole is told."""
    definitions = render_nagios(plan_checks(PROBES, TARGET, Mode.CACHED), TARGET).replace("host_name", "hostname", 1)
    assert check_nagios(tmp_path, definitions).returncode != 0


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("nrpe", ["", "/usr/lib/nagios/plugins/check_nrpe"])
def test_icinga_reads_them_without_a_complaint(tmp_path, mode, nrpe):
    need("" if shutil.which("icinga2") else "icinga2 is missing: install Debian's package icinga2-bin")
    target = Target(host=TARGET.host, agent=TARGET.agent, check=TARGET.check, template=TARGET.template, nrpe=nrpe)
    (tmp_path / "icinga2.conf").write_text(
        'include <itl>\ntemplate Service "generic-service" { max_check_attempts = 5 }\n'
        'object Host "head.example.org" { check_command = "dummy", address = "127.0.0.1" }\n'
        + render_icinga(plan_checks(PROBES, target, mode), target)
    )
    defines = {"DataDir": "data", "LogDir": "log", "CacheDir": "cache", "SpoolDir": "spool", "InitRunDir": "run"}
    for name in defines.values():
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [
            *(
                "icinga2",
                "daemon",
                "-C",
                "-c",
                str(tmp_path / "icinga2.conf"),
                f"-DRunAsUser={ME}",
                f"-DRunAsGroup={ME}",
            ),
            *(f"-D{name}={tmp_path / value}" for name, value in defines.items()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, "warning/" in done.stdout) == (0, False), done.stdout
    assert f"{3 if mode is Mode.ACTIVE else 4} Services" in done.stdout
    assert f"{1 if mode is Mode.ACTIVE else 2} Dependenc" in done.stdout


def test_each_line_for_nrpe_is_one_command_that_the_shell_takes_apart_as_it_was():
    target = Target(host="h", agent=("/opt/p p s/pps-agent", "--config", "/it's;odd"), check=("check_pps",))
    checks = plan_checks(PROBES, target, Mode.ACTIVE)
    lines = [line for line in render_nrpe(checks).splitlines() if not line.startswith("#")]
    assert [tuple(shlex.split(line.partition("=")[2])) for line in lines] == [check.command for check in checks]
    assert lines[0].startswith("command[pps_org.pps.proxy.valid]=")


def test_nrpe_has_no_way_to_write_a_dollar():
    with pytest.raises(WireError, match="macro"):
        render_nrpe(plan_checks(PROBES, TARGET, Mode.ACTIVE))


CHECK_CONFIG = {
    "command": str,
    "subscriptions": list,
    "handlers": list,
    "publish": bool,
    "round_robin": bool,
    "timeout": int,
    "max_output_size": int,
    "output_metric_format": str,
    "interval": int,
    "cron": str,
    "ttl": int,
}
"""Fields of CheckConfig. Source: sensu-go, api/core/v2/check.proto."""


@pytest.mark.parametrize("mode", Mode)
def test_sensu_checks_have_the_fields_and_keep_the_rules_of_check_config(mode):
    text = render_sensu(plan_checks(PROBES, TARGET, mode), TARGET)
    documents = [json.loads(part) for part in text.split("---\n")[1:]]
    assert len(documents) == (3 if mode is Mode.ACTIVE else 4)
    for document in documents:
        assert (document["type"], document["api_version"]) == ("CheckConfig", "core/v2")
        assert all(isinstance(value, str) for value in document["metadata"]["annotations"].values())
        spec = document["spec"]
        assert {name: type(value) for name, value in spec.items()}.items() <= CHECK_CONFIG.items()
        assert ("interval" in spec) is not ("cron" in spec)
        assert spec.get("ttl", spec.get("interval", 0) + 1) > spec.get("interval", 0)
        assert spec["timeout"] > 0


def test_sensu_documents_are_one_stream_of_yaml():
    yaml = "import sys, yaml, json; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"
    probe_yaml = subprocess.run(["/usr/bin/python3", "-c", "import yaml"], capture_output=True)
    need("" if probe_yaml.returncode == 0 else "PyYAML is missing: install Debian's package python3-yaml")
    text = render_sensu(plan_checks(PROBES, TARGET, Mode.CACHED), TARGET)
    done = subprocess.run(["/usr/bin/python3", "-c", yaml], input=text, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [json.loads(part) for part in text.split("---\n")[1:]]


def test_sensu_has_no_way_to_write_two_braces():
    target = Target(host="h", agent=("/{{odd}}",), check=("c",))
    with pytest.raises(WireError, match="token"):
        render_sensu(plan_checks(PROBES, target, Mode.ACTIVE), target)

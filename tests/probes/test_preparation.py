"""What a run gets of the site: proxy, VO and secrets; and that a secret never comes back in a result."""

import os
from pathlib import Path

import pytest

from pps_agent.probes.client import RunnerClient
from pps_agent.probes.definition import SecretForm
from pps_agent.probes.preparation import Provision, prepare
from pps_agent.state import ProbeResult
from pps_wire.names import Vo
from pps_wire.report import Cause, Status
from tests.probes.conftest import ENV, WriteProbe

SECRET = "correct horse/battery+staple"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(SECRET + "\n")
    return path


def texts(result: ProbeResult) -> str:
    return f"{result.summary}\n{result.details}\n{result.perfdata}"


@pytest.mark.parametrize("form", SecretForm)
def test_a_secret_reaches_its_probe_and_is_hidden_in_all_it_says(
    runner: RunnerClient, write_probe: WriteProbe, secret: Path, form: SecretForm
) -> None:
    read = 'cat "$TOKEN"' if form is SecretForm.FILE else 'printf %s "$TOKEN"'
    body = f'value=$({read}); echo "got ${{#value}}: $value | $value=1"; echo "$value"; echo "$value" | base64'
    body += '; echo "$value" >&2'
    definition = write_probe(body, name=f"secret-{form.value}", secrets={"TOKEN": form})
    result = runner.run(definition, ENV, None, provision=Provision(secrets={"TOKEN": str(secret)}))
    assert (result.status, result.summary.startswith(f"got {len(SECRET)}: [secret]")) == (Status.OK, True), result
    assert "correct" not in texts(result)
    assert "Y29ycmVjdCBob3JzZ" not in texts(result)


def test_a_secret_file_is_the_runs_own_and_its_variable_is_nobody_elses(
    runner: RunnerClient, write_probe: WriteProbe, secret: Path
) -> None:
    definition = write_probe('stat -c "%a %u" "$TOKEN"', name="mode", secrets={"TOKEN": SecretForm.FILE})
    other = write_probe('echo "${TOKEN:-none}"', name="other")
    provision = Provision(secrets={"TOKEN": str(secret)})
    mine, others = runner.run_all((definition, other), ENV, None, provision=provision)
    assert (mine.summary, others.summary) == ("400 0", "none")


def lacking(definition: object, provision: Provision, env: dict[str, str] | None = None) -> str:
    return "; ".join(prepare(definition, ENV | (env or {}), provision).missing)  # type: ignore[arg-type]


def test_a_secret_may_be_left_out_unless_the_probe_requires_it(write_probe: WriteProbe, secret: Path) -> None:
    takes = {"TOKEN": SecretForm.FILE}
    assert lacking(write_probe("echo", name="takes", secrets=takes), Provision()) == ""
    requiring = write_probe("echo", name="requires", secrets=takes, variables={"TOKEN": "the key"})
    assert lacking(requiring, Provision(secrets={"TOKEN": str(secret)})) == ""
    assert (
        lacking(requiring, Provision())
        == "secret TOKEN (the key): name its file under [probes.secrets] in the settings"
    )


def test_what_is_missing_is_unknown_with_what_to_do_and_nothing_is_started(
    runner: RunnerClient, write_probe: WriteProbe, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    definition = write_probe(f"touch {mark}; echo ran", name="needy", needs_proxy=True)
    result = runner.run(definition, ENV, None)
    assert (result.status, result.cause) == (Status.UNKNOWN, Cause.REQUIREMENT)
    assert result.summary.startswith("missing requirement: a proxy: name one that others renew as probes.proxy")
    assert not mark.exists()


def test_a_proxy_comes_from_the_settings_or_the_environment(write_probe: WriteProbe, tmp_path: Path) -> None:
    definition = write_probe("echo", name="proxy", needs_proxy=True)
    proxy = tmp_path / "proxy.pem"
    assert f"the proxy {proxy} is not there" in lacking(definition, Provision(proxy=proxy))
    proxy.touch()
    assert {"X509_USER_PROXY": str(proxy)} == prepare(definition, ENV, Provision(proxy=proxy)).more
    own = {"X509_USER_PROXY": str(proxy)}
    assert own == prepare(definition, ENV | own, Provision(proxy=tmp_path / "other")).more


def test_a_probe_gets_the_first_of_the_sites_vos_that_it_is_for(write_probe: WriteProbe) -> None:
    definition = write_probe("echo", name="vo", vos=(Vo("cms"), Vo("ops")))
    assert prepare(definition, ENV, Provision((Vo("dteam"), Vo("ops"), Vo("cms")))).more == {"PPS_VO": "ops"}
    assert "it is for cms, ops" in lacking(definition, Provision((Vo("dteam"),)))


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff\xfe\xfd\xfc", b"with\0nul", b"x" * 70_000])
def test_a_secret_that_cannot_be_given_or_hidden_is_missing(
    write_probe: WriteProbe, tmp_path: Path, content: bytes
) -> None:
    definition = write_probe("echo", name="odd", secrets={"TOKEN": SecretForm.ENVIRONMENT})
    path = tmp_path / "odd"
    path.write_bytes(content)
    assert f"secret TOKEN: {path}" in lacking(definition, Provision(secrets={"TOKEN": str(path)}))
    assert "No such file" in lacking(definition, Provision(secrets={"TOKEN": str(tmp_path / "none")}))


def test_a_pipe_in_place_of_a_secret_holds_up_nobody(write_probe: WriteProbe, tmp_path: Path) -> None:
    definition = write_probe("echo", name="piped", secrets={"TOKEN": SecretForm.FILE})
    os.mkfifo(tmp_path / "pipe")
    assert "is no plain file" in lacking(definition, Provision(secrets={"TOKEN": str(tmp_path / "pipe")}))


@pytest.mark.parametrize("spelling", ["json", "unicode"])
def test_a_secret_that_stands_escaped_in_json_is_hidden_too(
    runner: RunnerClient, write_probe: WriteProbe, secret: Path, spelling: str
) -> None:
    text = SECRET if spelling == "json" else "".join(f"\\u{ord(char):04x}" for char in SECRET)
    body = f"""printf '%s' '{{"metric": "org.test.{spelling}", "status": "OK", "summary": "it is {text}"}}'"""
    definition = write_probe(body, name=spelling, secrets={"TOKEN": SecretForm.ENVIRONMENT})
    result = runner.run(definition, ENV, None, provision=Provision(secrets={"TOKEN": str(secret)}))
    assert (result.status, result.summary) == (Status.OK, "it is [secret]"), result


def test_output_that_was_cut_is_still_cut_where_it_says(
    runner: RunnerClient, write_probe: WriteProbe, secret: Path
) -> None:
    body = 'echo "OK $TOKEN"; head -c 100000 /dev/zero | tr "\\0" a; echo; echo end'
    definition = write_probe(body, name="long", secrets={"TOKEN": SecretForm.ENVIRONMENT})
    result = runner.run(definition, ENV, None, provision=Provision(secrets={"TOKEN": str(secret)}))
    assert (result.summary, result.truncated_bytes > 30_000) == ("OK [secret]", True)
    assert result.details.rstrip().endswith("end")


def test_a_secret_that_the_site_does_not_name_is_missed_only_where_the_probe_requires_it(
    runner: RunnerClient, write_probe: WriteProbe
) -> None:
    forms = {"TOKEN": SecretForm.FILE}
    assert lacking(write_probe("echo", name="wishes", secrets=forms), Provision()) == ""
    needs = write_probe("echo", name="needs", secrets=forms, variables={"TOKEN": "who we are"})
    assert "secret TOKEN (who we are): name its file under [probes.secrets]" in lacking(needs, Provision())


def test_a_required_secret_that_is_there_is_not_missed(write_probe: WriteProbe, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abcdefgh")
    provision = Provision(secrets={"TOKEN": str(tmp_path / "token")})
    for form in SecretForm:
        definition = write_probe("echo", name=form.value, secrets={"TOKEN": form}, variables={"TOKEN": "who we are"})
        assert lacking(definition, provision) == ""


def test_a_result_names_the_version_it_tested_and_the_files_that_tested_it(
    runner: RunnerClient, write_probe: WriteProbe
) -> None:
    definition = write_probe("echo fine", name="tested", digest="d" * 64)
    release = runner.run(definition, ENV | {"PPS_RELEASE_VERSION": "6.1.0"}, None)
    assert (release.client, release.digest) == ("6.1.0", "d" * 64)
    production = runner.run(definition, ENV | {"PPS_PRODUCTION_VERSION": "xrootd-client 5.5.3"}, None)
    assert production.client == "xrootd-client 5.5.3"
    assert runner.run(definition, ENV, None).client == ""

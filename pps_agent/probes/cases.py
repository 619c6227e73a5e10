"""Runs a probe's own tests, ``tests/*.case``, contained as the agent runs it."""

import contextlib
import dataclasses
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pps_agent.disk import explained
from pps_agent.errors import ConfigError
from pps_agent.probes.case_file import MAX_CASE_BYTES, Case, parse_case
from pps_agent.probes.client import RunnerClient
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.perfdata import parse_perfdata
from pps_agent.state import ProbeResult

CASES: Final = "tests"
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_START: Final = """\
#!/bin/sh
for server in {servers}/*; do
    line=$HOME/${{server##*/}}.line
    mkfifo "$line"
    "$server" >"$line" &
    IFS= read -r value <"$line"
    export "${{server##*/}}=$value"
done
exec {run}
"""


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """What came of one case; ``problems`` empty means that the probe said what it must."""

    case: Case
    result: ProbeResult
    problems: tuple[str, ...]


def load_cases(directory: Path) -> tuple[Case, ...]:
    """Read all cases of the probe in this directory, in order of their names. Raises: ConfigError, SiteError."""
    cases: list[Case] = []
    faults: list[str] = []
    with explained(directory / CASES):
        for path in sorted((directory / CASES).glob("*.case")):
            with path.open("rb") as stream:
                content = stream.read(MAX_CASE_BYTES + 1)
            try:
                cases.append(parse_case(content, path.stem, str(path)))
            except ConfigError as exc:
                faults.extend(exc.faults)
    if faults:
        raise ConfigError(faults)
    return tuple(cases)


def run_case(case: Case, definition: ProbeDefinition, runner: RunnerClient) -> CaseOutcome:
    """Run one case; its files are gone afterwards. Raises: SiteError when runner or disk do not play."""
    with _scratch() as scratch:
        with explained(scratch):
            _write_files(scratch / "files", case.files)
            _write_commands(scratch / "commands", case.commands)
            _write_commands(scratch / "servers", case.servers)
            started = _start_servers_first(definition, case, scratch) if case.servers else definition
        result = runner.run(started, render_environment(case, scratch), None)
    return CaseOutcome(case, result, tuple(judge(case, result)))


def _start_servers_first(definition: ProbeDefinition, case: Case, scratch: Path) -> ProbeDefinition:
    """Give the probe behind a script that starts the case's servers, which are so contained and ended as it is."""
    script = scratch / "start"
    script.write_text(_START.format(servers=scratch / "servers", run=shlex.quote(str(definition.run))))
    script.chmod(0o755)
    variables = {name: meaning for name, meaning in definition.variables.items() if name not in case.servers}
    return dataclasses.replace(definition, run=script, variables=variables)


def render_environment(case: Case, scratch: Path) -> dict[str, str]:
    """Give the environment of one case, ``{dir}`` and ``{tree}`` filled in; nothing of the caller's is in it."""
    files = str(scratch / "files")
    env = {name: value.replace("{dir}", files).replace("{tree}", files) for name, value in case.env.items()}
    path = env.get("PATH", _PATH)
    return env | {"PATH": f"{scratch / 'commands'}:{path}" if case.commands else path}


def judge(case: Case, result: ProbeResult) -> Iterator[str]:
    """Give what a result lacks of what its case expects. Pure."""
    if result.status is not case.status:
        yield f"is {result.status.name}, expected {case.status.name}"
    for pattern, name, text in ((case.summary, "summary", result.summary), (case.details, "details", result.details)):
        if pattern is not None and pattern.search(text) is None:
            yield f"{name} has nothing like {pattern.pattern!r}"
    labels = [datum.label for datum in parse_perfdata(result.perfdata)]
    if lacking := [label for label in case.perfdata if label not in labels]:
        yield f"performance data lacks {', '.join(lacking)}"


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Give a directory that the probes' user can read too, and that no probe may write."""
    path = Path(tempfile.mkdtemp(prefix="pps-case-"))
    try:
        path.chmod(0o755)
        for name in ("files", "commands", "servers"):
            (path / name).mkdir(0o755)
        yield path
    finally:
        shutil.rmtree(path)


def _write_files(base: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = base / name
        path.parent.mkdir(0o755, parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
        path.chmod(0o755 if content.startswith("#!") else 0o644)


def _write_commands(base: Path, commands: Mapping[str, str]) -> None:
    for name, body in commands.items():
        path = base / name
        text = body if body.startswith("#!") else f"#!/bin/sh\n{body}\n"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        path.chmod(0o755)

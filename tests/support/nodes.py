"""Tasks for nodes, made on the spot."""

from pathlib import Path

from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.executors.values import NodeTask
from pps_wire.names import ProbeName, ReleaseId

RELEASE = ReleaseId("grid-clients-6.1.0-x86_64-glibc2.36")
ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PPS_SITE": "TEST-SITE"}
OK = ProbeName("org.test.ok")


def name_of(short: str) -> ProbeName:
    """Give the probe name of a short one."""
    return ProbeName(f"org.test.{short}")


def make_task(directory: Path, bodies: dict[str, str], **fields: object) -> NodeTask:
    """Give a task of shell probes: short name → body. ``fields`` are of every definition."""
    definitions, files = [], {}
    env = {**ENV, **fields.pop("env", {})}  # type: ignore[dict-item]
    for short, body in bodies.items():
        run = directory / short
        content = body if body.startswith("#!") else f"#!/bin/sh\n{body}\n"
        run.write_text(content)
        run.chmod(0o755)
        name = name_of(short)
        definitions.append(ProbeDefinition(name=name, run=run, **{"timeout_s": 20, **fields}))  # type: ignore[arg-type]
        files[name] = content.encode()
    return NodeTask(release=RELEASE, definitions=tuple(definitions), files=files, env=env, max_timeout_s=300)

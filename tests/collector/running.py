"""A real collector in its own process, and sites that report to it over mutual TLS."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import requests
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pps_collector.identity.enrolment import create_token
from pps_collector.store.database import open_database
from pps_collector.store.schema import migrate
from pps_wire.names import Site
from pps_wire.report import (
    Ack,
    Batch,
    Body,
    EnrolReply,
    EnrolRequest,
    Lane,
    ProbeBody,
    Problem,
    ReleaseBody,
    ReleaseState,
    RoundBody,
    Status,
    TagBody,
    TagState,
    render_record,
    roll_digest,
    start_digest,
)

RELEASE = "grid-clients-6.1.0-x86_64-glibc2.36"
PROBE = "org.pps.se.xroot"


class RunningCollector:
    """``pps-collector serve`` on free ports; stopping and starting again keeps state and addresses apart."""

    def __init__(self, state: Path, database: str = "", settings: str = "") -> None:
        self.state = state
        self.database = database or f"sqlite:///{state}/collector.db"
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._config = state / "collector.toml"
        self._config.write_text(settings)
        engine = open_database(self.database)
        migrate(engine)
        engine.dispose()
        self.log = state / "log"
        self.start()

    def start(self) -> None:
        """Start the process and wait for its addresses."""
        options = {"config": str(self._config), "state": str(self.state), "database": self.database}
        options |= {"listen": "127.0.0.1:0", "pages": "127.0.0.1:0", "output": "json"}
        command = [sys.executable, "-m", "pps_collector", "serve"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *(word for key, value in options.items() for word in (f"--{key}", value))],
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        serving = json.loads(line)
        self.agents, self.pages, self.ca = serving["agents"], serving["pages"], serving["ca"]

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """SIGTERM; give the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        code = self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Read the database as it is on disk."""
        engine = open_database(self.database)
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.exec_driver_sql(statement)]
        finally:
            engine.dispose()

    def token(self, site: str, valid: timedelta = timedelta(hours=1)) -> str:
        """Make an enrolment token as the coordinator does."""
        engine = open_database(self.database)
        try:
            return create_token(engine, Site(site), valid, datetime.now(UTC)).text
        finally:
            engine.dispose()

    def post_enrol(self, token: str, csr: str) -> requests.Response:
        """Send one enrolment request."""
        body = msgspec.json.encode(EnrolRequest(token=token, csr=csr))
        return requests.post(f"{self.agents}/v1/enrol", data=body, verify=self.ca, timeout=30)

    def enrol(self, site: str | None = None) -> "Reporter":
        """Enrol a new agent of ``site`` (a site of its own by default)."""
        name = site or f"SITE-{uuid4().hex[:8]}"
        key = ec.generate_private_key(ec.SECP256R1())
        answer = self.post_enrol(self.token(name), make_csr(key))
        assert answer.status_code == 200, answer.text
        reply = msgspec.json.decode(answer.content, type=EnrolReply)
        home = self.state / f"agent-{reply.agent}"
        home.mkdir()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (home / "key.pem").write_bytes(pem)
        (home / "certificate.pem").write_text(reply.certificate)
        return Reporter(self, reply.agent, reply.site, home)


def make_csr(key: ec.EllipticCurvePrivateKey) -> str:
    """Give a signing request; its names are ignored by the collector."""
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


@dataclass(slots=True)
class Queue:
    """One lane of an outbox: what is not acknowledged yet, as numbered bytes."""

    agent: str
    epoch: str
    lane: Lane
    acked: int = 0
    digest: str = ""
    records: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.digest = start_digest(self.agent, self.epoch, self.lane)

    def add(self, bodies: Iterable[Body], at: datetime | None = None) -> None:
        """Queue records of these bodies."""
        when = at or datetime.now(UTC)
        for body in bodies:
            self.records.append(render_record(self.acked + len(self.records) + 1, when, body))

    def add_raw(self, *raws: bytes) -> None:
        """Queue bytes as they are; ``%d`` in them becomes the number."""
        for raw in raws:
            self.records.append(raw.replace(b"%d", str(self.acked + len(self.records) + 1).encode()))

    def batch(self, site: str, size: int = 1000) -> Batch:
        """Give the next batch, without forgetting it."""
        return Batch(
            agent=self.agent,
            site=Site(site),
            epoch=self.epoch,
            lane=self.lane,
            sent_at=datetime.now(UTC),
            first_seq=self.acked + 1,
            digest=self.digest,
            records=[msgspec.Raw(raw) for raw in self.records[:size]],
        )

    def acknowledge(self, ack: int) -> None:
        """Forget what the collector has."""
        gone, self.records = self.records[: ack - self.acked], self.records[ack - self.acked :]
        self.digest = roll_digest(self.digest, gone)
        self.acked = max(ack, self.acked)


class Reporter:
    """An enrolled agent's reporting side."""

    def __init__(self, collector: RunningCollector, agent: str, site: str, home: Path) -> None:
        self.collector, self.agent, self.site = collector, agent, site
        self.cert = (str(home / "certificate.pem"), str(home / "key.pem"))
        self.live = self.queue()

    def queue(self, lane: Lane = Lane.LIVE, epoch: str = "") -> Queue:
        """Begin a lane."""
        return Queue(self.agent, epoch or uuid4().hex, lane)

    def post(
        self, batch: Batch | bytes, encoding: str = "zstd", *, cert: tuple[str, str] | None = None
    ) -> requests.Response:
        """Send one batch, or any bytes, once."""
        plain = batch if isinstance(batch, bytes) else msgspec.json.encode(batch)
        return requests.post(
            f"{self.collector.agents}/v1/batches",
            data=zstandard.compress(plain) if encoding == "zstd" else plain,
            headers={"Content-Encoding": encoding},
            cert=cert or self.cert,
            verify=self.collector.ca,
            timeout=30,
        )

    def send(self, queue: Queue | None = None, size: int = 1000) -> Ack:
        """Send a lane's next batch and take the acknowledgement."""
        lane = queue or self.live
        answer = self.post(lane.batch(self.site, size))
        assert answer.status_code == 200, answer.text
        ack = msgspec.json.decode(answer.content, type=Ack)
        lane.acknowledge(ack.ack)
        return ack

    def report(self, *bodies: Body, at: datetime | None = None) -> Ack:
        """Queue and send on the live lane."""
        self.live.add(bodies, at)
        return self.send()


def problem_of(answer: requests.Response) -> Problem:
    """Read a refusal."""
    return msgspec.json.decode(answer.content, type=Problem)


def probe(status: Status = Status.OK, summary: str = "fine", release: str | None = RELEASE, **more: Any) -> ProbeBody:
    """Give a probe result."""
    return ProbeBody(
        **{"probe": PROBE, "status": status, "summary": summary, "release": release, "duration_s": 1.5} | more
    )


def release(state: ReleaseState = ReleaseState.INSTALLED, version: str = "6.1.0", **more: Any) -> ReleaseBody:
    """Give a release's state."""
    release_id = f"grid-clients-{version}-x86_64-glibc2.36"
    return ReleaseBody(
        **{"release": release_id, "component": "grid-clients", "version": version, "state": state} | more
    )


def tag(state: TagState = TagState.PUBLISHED, version: str = "6.1.0", vo: str = "dteam") -> TagBody:
    """Give a tag's state."""
    release_id = f"grid-clients-{version}-x86_64-glibc2.36"
    return TagBody(tag=f"VO-{vo}-pps-{version}", vo=vo, subcluster="ce01.example.org", state=state, release=release_id)


def round_of(done: int = 3, failed: int = 0) -> RoundBody:
    """Give a round's line."""
    return RoundBody(round="r1", trust="fresh", done=done, failed=failed, took_s=2.5, agent_version="0.1.0")

"""One value of every document of the contract; tests/contract/golden/ holds its bytes, kept for ever.

The key is a test key made from a fixed text, so that the signature is the same at each run.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pps_wire import manifest, release, report, request
from pps_wire.manifest import Directory, File, Head, Link, Manifest
from pps_wire.names import ProbeName, ReleaseId, Site, Subcluster, Vo
from pps_wire.release import (
    Artifact,
    Changes,
    ConfigStep,
    Fix,
    Flag,
    Overlay,
    Release,
    ReleaseClass,
    Requires,
    Severity,
    Withdrawal,
)
from pps_wire.report import (
    Ack,
    Batch,
    EnrolReply,
    EnrolRequest,
    Lane,
    ProbeBody,
    Problem,
    Refusal,
    ReleaseBody,
    ReleaseState,
    RoundBody,
    Status,
    TagBody,
    TagState,
)
from pps_wire.request import Envelope, FleetKey, FleetKeys, Request, RequestKind, Signature

AT = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
ID = ReleaseId("grid-clients-6.1.0-x86_64-glibc2.36")
AGENT = "0123456789abcdef0123456789abcdef"
EPOCH = "fedcba9876543210fedcba9876543210"

KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"pps contract test key 1").digest())
RAW_KEY = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
KEY_ID = hashlib.sha256(RAW_KEY).hexdigest()

MANIFEST = Manifest(
    Head(release=ID, entries=5, installed_bytes=145_534),
    (
        Directory("bin"),
        Link("bin/voms-proxy-init", "xrdcp"),
        File(p="bin/xrdcp", s=145_528, h="a1" * 32, o=1842, z=52_110, x=True),
        Directory("etc"),
        File(p="etc/grid.conf", s=6, h="b2" * 32, o=53_952, z=15),
    ),
)
RELEASE = Release(
    component="grid-clients",
    version="6.1.0",
    platform="x86_64-glibc2.36",
    class_=ReleaseClass.CLIENT_NBC,
    vos=(Vo("dteam"), Vo("vo.example.org")),
    tag_suffix="pps-6.1.0",
    requires=Requires(arch="x86_64", glibc="2.36"),
    artifact=Artifact(
        path=f"artifacts/{ID}.tar.zst", length=33_912_345, sha256="c3" * 32, installed_bytes=145_534, files=2
    ),
    environment=Overlay(prepend={"PATH": ("bin",)}, assign={"GFAL_CONFIG_DIR": "etc/gfal2.d"}),
    probes=(ProbeName("org.pps.wn.softver"),),
    changes=Changes(
        variables_new={"GFAL_CONFIG_DIR": "etc/gfal2.d"},
        fixes=(Fix(id="bug:96306", severity=Severity.MAJOR, summary="xrdcp forgets the checksum"),),
        effort_ph=4,
        flags={Flag.ENVIRONMENT_CHANGE: True, Flag.SCHEMA_CHANGE: False},
    ),
    config_steps=(ConfigStep(id="open-port", text="open port 1094", check=("/usr/bin/nc", "-z", "localhost", "1094")),),
    replaces=(ReleaseId("grid-clients-6.0.0-x86_64-glibc2.36"),),
    expires_at=datetime(2027, 1, 31, tzinfo=UTC),
    references=("https://tracker.example.org/4711",),
)
WITHDRAWAL = Withdrawal(release=ID, reason="xrdcp corrupts files of more than 2 GiB", at=AT)
RECORDS = [
    report.render_record(
        1,
        AT,
        ProbeBody(
            probe=ProbeName("org.pps.se.xroot"),
            release=ID,
            status=Status.CRITICAL,
            summary="put failed: connection refused",
            duration_s=1.5,
            host="wn001.example.org",
        ),
    ),
    report.render_record(
        2,
        AT,
        ReleaseBody(
            release=ID, component="grid-clients", version="6.1.0", state=ReleaseState.TAGGED, reason="", current=True
        ),
    ),
    report.render_record(
        3,
        AT,
        TagBody(
            tag="VO-dteam-pps-6.1.0",
            vo=Vo("dteam"),
            subcluster=Subcluster("ce01.example.org"),
            state=TagState.PUBLISHED,
            release=ID,
        ),
    ),
    report.render_record(
        4,
        AT,
        RoundBody(round="17", trust="fresh", done=3, failed=0, took_s=2.25, agent_version="0.1.0", single_user=True),
    ),
    b'{"seq":5,"kind":"from.the-future","at":"2026-11-22T10:00:00Z","body":{"any":["thing",1]}}',
]
BATCH = Batch(
    agent=AGENT,
    site=Site("EXAMPLE-SITE"),
    epoch=EPOCH,
    lane=Lane.LIVE,
    sent_at=AT,
    first_seq=1,
    digest=report.start_digest(AGENT, EPOCH, Lane.LIVE),
    records=[msgspec.Raw(record) for record in RECORDS],
)
ACK = Ack(ack=5, quarantined=0, server_time=AT)
PROBLEM = Problem(code=Refusal.GAP, detail="records 6 to 9 are missing; send from 6", expected=6)
ENROL_REQUEST = EnrolRequest(
    token="one-time-token-of-a-site",
    csr="-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n",
)
ENROL_REPLY = EnrolReply(
    agent=AGENT,
    site=Site("EXAMPLE-SITE"),
    certificate="-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n",
    ca="-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----\n",
)
REQUEST = Request(
    id="00112233445566778899aabbccddeeff",
    kind=RequestKind.RUN_PROBE,
    site=Site("EXAMPLE-SITE"),
    not_before=AT,
    deadline=datetime(2026, 11, 22, 11, 0, 0, tzinfo=UTC),
    probe=ProbeName("org.pps.wn.softver"),
    release=ID,
)
FLEET_KEYS = FleetKeys(keys=(FleetKey(public=RAW_KEY, comment="collector 1"),))


def sign(payload: bytes, key: Ed25519PrivateKey = KEY, key_id: str = KEY_ID) -> Envelope:
    """Give the envelope of a request's payload, signed by one key."""
    signature = Signature(keyid=key_id, sig=key.sign(request.encode_for_signing(payload)))
    return Envelope(payload=payload, payload_type=request.PAYLOAD_TYPE, signatures=(signature,))


@dataclass(frozen=True)
class Sample:
    """A document: its golden file, its value, and both directions."""

    file: str
    value: Any
    parse: Callable[[bytes], Any]
    render: Callable[[Any], bytes]
    version: int | None
    """Its ``v``; None where the path ``/v1/`` says it."""


SAMPLES = (
    Sample(
        "manifest.jsonl",
        MANIFEST,
        lambda raw: manifest.parse_manifest(raw.splitlines(keepends=True)),
        lambda value: b"".join(manifest.render_manifest(value)),
        manifest.MANIFEST_VERSION,
    ),
    Sample(
        "release.json",
        RELEASE,
        lambda raw: release.parse_release(msgspec.json.decode(raw)),
        lambda value: msgspec.json.encode(release.render_custom(value)),
        release.CUSTOM_VERSION,
    ),
    Sample("withdrawal.json", WITHDRAWAL, release.parse_withdrawal, msgspec.json.encode, release.WITHDRAWAL_VERSION),
    Sample("batch.json", BATCH, report.parse_batch, msgspec.json.encode, report.BATCH_VERSION),
    Sample("ack.json", ACK, report.parse_ack, msgspec.json.encode, None),
    Sample("problem.json", PROBLEM, report.parse_problem, msgspec.json.encode, None),
    Sample("enrol-request.json", ENROL_REQUEST, report.parse_enrol_request, msgspec.json.encode, None),
    Sample("enrol-reply.json", ENROL_REPLY, report.parse_enrol_reply, msgspec.json.encode, None),
    Sample(
        "request.json",
        REQUEST,
        lambda raw: request.open_request(msgspec.json.encode(sign(raw)), {KEY_ID: KEY.public_key()}),
        msgspec.json.encode,
        request.REQUEST_VERSION,
    ),
    Sample(
        "envelope.json",
        REQUEST,
        lambda raw: request.open_request(raw, {KEY_ID: KEY.public_key()}),
        lambda value: msgspec.json.encode(sign(msgspec.json.encode(value))),
        None,
    ),
    Sample("fleet-keys.json", FLEET_KEYS, request.parse_fleet_keys, msgspec.json.encode, request.FLEET_VERSION),
)

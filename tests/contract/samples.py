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

from pps_agent.probes import json_format
from pps_agent.probes.json_format import JsonResult, Measurement
from pps_wire import manifest, node, release, report, request
from pps_wire.delta import DELTA_FORMAT
from pps_wire.manifest import Delta, Directory, File, Head, Link, Manifest
from pps_wire.names import HostGroup, ProbeName, ReleaseId, Site, Subcluster, Vo
from pps_wire.release import (
    Artifact,
    Changes,
    ConfigStep,
    Deltas,
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
    Cause,
    EnrolReply,
    EnrolRequest,
    Lane,
    ProbeBody,
    Problem,
    Refusal,
    ReleaseBody,
    ReleaseState,
    RequestBody,
    RequestState,
    RoundBody,
    Status,
    TagBody,
    TagState,
)
from pps_wire.request import Envelope, FleetKey, FleetKeys, Inbox, Request, RequestKind, Signature

AT = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
ID = ReleaseId("grid-clients-6.1.0-x86_64-glibc2.36")
AGENT = "0123456789abcdef0123456789abcdef"
EPOCH = "fedcba9876543210fedcba9876543210"

GROUP = HostGroup("el9-workers")

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
MIRRORED = msgspec.structs.replace(
    RELEASE, mirrored_from=release.MirroredFrom(root_sha256="d4" * 32, clients_version=17)
)
RELEASE_WITH_DELTAS = msgspec.structs.replace(
    RELEASE,
    deltas=Deltas(format=DELTA_FORMAT, path=f"artifacts/{ID}.deltas", length=2_409, sha256="d4" * 32),
)
MANIFEST_WITH_DELTAS = Manifest(
    Head(release=ID, entries=2, installed_bytes=145_528),
    (
        Directory("bin"),
        File(
            p="bin/xrdcp",
            s=145_528,
            h="a1" * 32,
            o=1842,
            z=52_110,
            x=True,
            d=(Delta(b="e5" * 32, o=0, z=1_204, h="f6" * 32), Delta(b="07" * 32, o=1_204, z=1_205, h="18" * 32)),
        ),
    ),
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
GROUP_BATCH = msgspec.structs.replace(
    BATCH,
    records=[
        msgspec.Raw(report.render_record(1, AT, body))
        for body in (
            ReleaseBody(release=ID, component="grid-clients", version="6.1.0", state=ReleaseState.OFFERED, group=GROUP),
            RoundBody(round="18", trust="fresh", done=0, failed=0, took_s=0.5, agent_version="0.1.0", group=GROUP),
        )
    ],
)
PROBE_BATCH = msgspec.structs.replace(
    BATCH,
    records=[
        msgspec.Raw(report.render_record(1, AT, body))
        for body in (
            ProbeBody(
                probe=ProbeName("org.pps.se.xroot"),
                release=ID,
                status=Status.UNKNOWN,
                summary="timed out after 120 s",
                details="stderr:\nconnecting",
                duration_s=125.5,
                host="wn001.example.org",
                cause=Cause.TIMEOUT,
                attempt=2,
                hard=False,
                signal=15,
                timed_out=True,
                truncated_bytes=10,
                output_bytes=65_546,
                leftovers_killed=1,
                cpu_s=0.25,
                max_rss_bytes=9_437_184,
                digest="a1" * 32,
                client="6.1.0",
            ),
            ProbeBody(
                probe=ProbeName("org.pps.se.xroot.put"),
                status=Status.OK,
                summary="put 262144 bytes",
                duration_s=0.5,
                perfdata="put=0.5s;10;20;0",
                exit_code=0,
                parent=ProbeName("org.pps.se.xroot"),
            ),
        )
    ],
)
PROBE_OUTPUT = (
    JsonResult(
        status="OK",
        summary="put, checksum, get and remove took 0.9 s",
        details="put  0.42 s\nget  0.31 s",
        perfdata=(
            Measurement(label="put", value=0.42, unit="s", warn="5", crit="10", min=0),
            Measurement(label="free space", value=12.5, unit="%", warn="10:", crit="5:", min=0, max=100),
            Measurement(label="queue", value=None),
        ),
        timestamp=AT,
    ),
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
ARGUMENTS_REQUEST = msgspec.structs.replace(REQUEST, release=None, arguments={"url": "root://se.example.org//probe"})
FLEET_KEYS = FleetKeys(keys=(FleetKey(public=RAW_KEY, comment="collector 1"),))


def sign(payload: bytes, key: Ed25519PrivateKey = KEY, key_id: str = KEY_ID) -> Envelope:
    """Give the envelope of a request's payload, signed by one key."""
    signature = Signature(keyid=key_id, sig=key.sign(request.encode_for_signing(payload)))
    return Envelope(payload=payload, payload_type=request.PAYLOAD_TYPE, signatures=(signature,))


INBOX = Inbox(cursor="17", requests=[msgspec.Raw(msgspec.json.encode(sign(msgspec.json.encode(REQUEST))))])
REQUEST_BATCH = msgspec.structs.replace(
    BATCH,
    records=[
        msgspec.Raw(
            report.render_record(
                1, AT, RequestBody(request=REQUEST.id, state=RequestState.REFUSED, reason="its deadline has passed")
            )
        )
    ],
)


@dataclass(frozen=True)
class Sample:
    """A document: its golden file, its value, and both directions."""

    file: str
    value: Any
    parse: Callable[[bytes], Any]
    render: Callable[[Any], bytes]
    version: int | None
    """Its ``v``; None where the path ``/v1/`` says it."""


NODE_PROBE = b"#!/bin/sh\necho 'OK - fine'\n"
NODE_REQUEST = node.NodeRequest(
    nonce=AGENT,
    release=ID,
    env={"PATH": "/opt/pps-preview/releases/grid-clients-6.1.0-x86_64-glibc2.36/tree/bin:/usr/bin:/bin"},
    time_limit_s=140.0,
    not_after=AT,
    probes=(
        node.NodeProbe(
            probe="org.pps.wn.softver",
            digest=hashlib.sha256(NODE_PROBE).hexdigest(),
            run=NODE_PROBE,
            timeout_s=120.0,
            grace_s=5.0,
            limits={"cpu_s": 60},
            commands=("ldd",),
            variables={"PPS_RELEASE_ROOT": "the release's tree"},
            env={"PPS_VO": "dteam"},
        ),
    ),
)
NODE_DOCUMENT = node.NodeDocument(
    nonce=AGENT,
    node="wn042.example.org",
    python="3.9.18",
    started_at=AT,
    took_s=0.4,
    runs=(
        node.NodeRun(
            probe="org.pps.wn.softver",
            digest=hashlib.sha256(NODE_PROBE).hexdigest(),
            exit=0,
            stdout=b"OK - fine\n",
            stdout_bytes=10,
            cpu_s=0.01,
            max_rss_bytes=9_437_184,
            duration_s=0.03,
        ),
        node.NodeRun(
            probe="org.pps.se.xroot",
            digest=hashlib.sha256(b"").hexdigest(),
            missing=("command xrdcp is not in PATH",),
        ),
    ),
)

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
    Sample(
        "release-mirrored.json",
        MIRRORED,
        lambda raw: release.parse_release(msgspec.json.decode(raw)),
        lambda value: msgspec.json.encode(release.render_custom(value)),
        release.CUSTOM_VERSION,
    ),
    Sample(
        "manifest-deltas.jsonl",
        MANIFEST_WITH_DELTAS,
        lambda raw: manifest.parse_manifest(raw.splitlines(keepends=True)),
        lambda value: b"".join(manifest.render_manifest(value)),
        manifest.MANIFEST_VERSION,
    ),
    Sample(
        "release-deltas.json",
        RELEASE_WITH_DELTAS,
        lambda raw: release.parse_release(msgspec.json.decode(raw)),
        lambda value: msgspec.json.encode(release.render_custom(value)),
        release.CUSTOM_VERSION,
    ),
    Sample("withdrawal.json", WITHDRAWAL, release.parse_withdrawal, msgspec.json.encode, release.WITHDRAWAL_VERSION),
    Sample("batch.json", BATCH, report.parse_batch, msgspec.json.encode, report.BATCH_VERSION),
    Sample("batch-host-group.json", GROUP_BATCH, report.parse_batch, msgspec.json.encode, report.BATCH_VERSION),
    Sample("batch-probes.json", PROBE_BATCH, report.parse_batch, msgspec.json.encode, report.BATCH_VERSION),
    Sample(
        "probe-output.json",
        PROBE_OUTPUT,
        json_format.parse_results,
        json_format.render_results,
        json_format.OUTPUT_VERSION,
    ),
    Sample("node-request.json", NODE_REQUEST, node.parse_node_request, msgspec.json.encode, node.NODE_VERSION),
    Sample("node-document.json", NODE_DOCUMENT, node.parse_node_document, msgspec.json.encode, node.NODE_VERSION),
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
    Sample(
        "request-arguments.json",
        ARGUMENTS_REQUEST,
        lambda raw: request.open_request(msgspec.json.encode(sign(raw)), {KEY_ID: KEY.public_key()}),
        msgspec.json.encode,
        request.REQUEST_VERSION,
    ),
    Sample("inbox.json", INBOX, request.parse_inbox, msgspec.json.encode, None),
    Sample("batch-request.json", REQUEST_BATCH, report.parse_batch, msgspec.json.encode, report.BATCH_VERSION),
    Sample("fleet-keys.json", FLEET_KEYS, request.parse_fleet_keys, msgspec.json.encode, request.FLEET_VERSION),
)

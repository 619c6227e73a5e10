"""A small, real, signed repository in a temporary directory, and a web server that can misbehave.

``SmallRepository`` goes through the real publisher library, with keys in memory; ``serve`` is the
demo's static server plus a record of requests and faults that a test plants.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from demo.static_server import Slice, StaticHandler, StaticServer, choose_slice
from pps_publisher.build.release import Description, write_bundle
from pps_publisher.bundle import Bundle
from pps_publisher.deltas import add_deltas, find_sources
from pps_publisher.keys import KEY_NAMES, signer_of
from pps_publisher.online import Refreshed, refresh
from pps_publisher.repository import Repository
from pps_publisher.roles import authorities_of
from pps_publisher.staging import Progress
from pps_publisher.tree import load_tree
from pps_wire.names import ReleaseId, Vo, parse_component, parse_platform, parse_version
from pps_wire.release import Release, ReleaseClass, Requires
from pps_wire.request import FleetKey, FleetKeys


@dataclass(frozen=True, slots=True)
class Program:
    """Content of an executable file."""

    content: bytes


@dataclass(frozen=True, slots=True)
class LinkTo:
    """A symbolic link."""

    target: str


Content = bytes | Program | LinkTo

DEFAULT_FILES: dict[str, Content] = {
    "bin/hello": Program(b"#!/bin/sh\necho hello 1.0.0\n"),
    "bin/hi": LinkTo("hello"),
    "etc/hello.conf": b"greeting = hello\n",
    "share/empty": b"",
}


class SmallRepository:
    """A repository below ``base`` with keys in memory; made, signed and refreshed at once."""

    def __init__(self, base: Path, *, now: datetime | None = None) -> None:
        self.base = base
        self.signers = {name: signer_of(Ed25519PrivateKey.generate(), name) for name in KEY_NAMES}
        self.fleet_key = Ed25519PrivateKey.generate()
        """The collector's request-signing key; its public half is listed in fleet/keys.json."""
        self.repository = Repository(base / "repository")
        self.builds = base / "builds"
        public = {name: signer.public_key for name, signer in self.signers.items()}
        raw = self.fleet_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        fleet = FleetKeys(keys=(FleetKey(public=raw, comment="test collector"),))
        self.repository.create(authorities_of(public), self.signers.values(), fleet, now or datetime.now(UTC))
        self.refresh(now=now)

    @property
    def served(self) -> Path:
        """The directory to serve: metadata/, targets/, artifacts/."""
        return self.repository.served

    @property
    def root_bytes(self) -> bytes:
        """The root to pin."""
        return (self.served / "metadata" / "1.root.json").read_bytes()

    def build(
        self,
        files: Mapping[str, Content] | None = None,
        *,
        component: str = "grid-clients",
        version: str = "1.0.0",
        platform: str = "x86_64-glibc2.36",
        **fields: Any,
    ) -> Bundle:
        """Build a release without publishing it; ``fields`` are those of ``Description``."""
        tree = self.base / "trees" / f"{component}-{version}-{platform}"
        write_tree(tree, DEFAULT_FILES if files is None else files)
        arch, glibc = platform.split("-")[:2]
        defaults: dict[str, Any] = {
            "class_": ReleaseClass.CLIENT_BC,
            "vos": (Vo("dteam"),),
            "tag_suffix": f"pps-{version}",
            "requires": Requires(arch=arch, glibc=glibc.removeprefix("glibc")),
        }
        description = Description(
            component=parse_component(component),
            version=parse_version(version),
            platform=parse_platform(platform),
            **(defaults | fields),
        )
        return write_bundle(load_tree(tree), description, self.builds)

    def publish(
        self,
        files: Mapping[str, Content] | None = None,
        *,
        signatures: int = 2,
        refresh: bool = True,
        deltas: bool = False,
        now: datetime | None = None,
        **fields: Any,
    ) -> Release:
        """Build, sign and serve a release; with ``signatures=1`` it stays staged and no site sees it."""
        bundle = self.build(files, **fields)
        if deltas:
            sources = find_sources(self.repository.store, bundle.release)
            bundle, _ = add_deltas(bundle, sources, self.builds, lambda _done_bytes, _total_bytes: None)
        return self.publish_bundle(bundle, signatures=signatures, refresh=refresh, now=now)

    def publish_bundle(
        self, bundle: Bundle, *, signatures: int = 2, refresh: bool = True, now: datetime | None = None
    ) -> Release:
        """Sign and serve a build."""
        moment = now or datetime.now(UTC)
        self.repository.publish([bundle], self.signers["release-manager"], moment, replace_staged=True)
        if signatures > 1:
            self.repository.sign(self.signers["sa3"])
        if refresh:
            self.refresh(now=now)
        return bundle.release

    def withdraw(
        self, release: ReleaseId, reason: str = "crashes", *, refresh: bool = True, now: datetime | None = None
    ) -> Progress:
        """Take a release back with one signature."""
        progress = self.repository.withdraw(release, reason, self.signers["sa3"], now or datetime.now(UTC))
        if refresh:
            self.refresh(now=now)
        return progress

    def refresh(self, *, now: datetime | None = None) -> Refreshed:
        """Sign snapshot and timestamp as of ``now``: a moment long past makes expired metadata."""
        return refresh(self.repository, self.signers["online"], now or datetime.now(UTC), force=True)


def write_tree(root: Path, files: Mapping[str, Content]) -> None:
    """Write a tree of files, programs and links."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        match content:
            case LinkTo(target):
                path.symlink_to(target)
            case Program(body):
                path.write_bytes(body)
                path.chmod(0o755)
            case bytes():
                path.write_bytes(content)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came: ``path`` without leading slash, ``range`` as sent, ``bytes_sent`` of body.

    ``fresh``: caches on the way were told not to answer.
    """

    method: str
    path: str
    range: str | None
    bytes_sent: int
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with a path: any combination; ``times`` None means for ever.

    ``truncate_to``: the connection ends after so many body bytes, though all were announced.
    ``flip_at``: the byte at this offset of the *file* is inverted. ``ignore_range``: 200 with the
    whole file. ``wait_for``: the answer waits until the event is set (or 30 s have passed); ``arrived``
    is set when the request has come.
    """

    status: int | None = None
    truncate_to: int | None = None
    flip_at: int | None = None
    ignore_range: bool = False
    wait_for: threading.Event | None = None
    arrived: threading.Event | None = None
    times: int | None = None


class FaultyServer(StaticServer):
    """The static server with a memory and with planted faults."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        super().__init__(directory, port, handler=_FaultyHandler)
        self.requests: list[Request] = []
        self._faults: dict[str, deque[Fault]] = {}

    def plant(self, path: str, **fields: Any) -> None:
        """Let a path (below the directory, no leading slash) fail from now on; see ``Fault``."""
        fault = Fault(**fields)
        many = [fault] if fault.times is None else [Fault(**{**fields, "times": 1})] * fault.times
        self._faults.setdefault(path, deque()).extend(many)

    def heal(self, path: str | None = None) -> None:
        """Forget the faults of a path, or all of them."""
        if path is None:
            self._faults.clear()
        else:
            self._faults.pop(path, None)

    def take_fault(self, path: str) -> Fault | None:
        """Give the fault the next request for this path meets."""
        waiting = self._faults.get(path)
        if not waiting:
            return None
        return waiting[0] if waiting[0].times is None else waiting.popleft()

    def paths(self) -> list[str]:
        """Give the paths asked for, in order."""
        return [request.path for request in self.requests]

    def bytes_sent(self) -> int:
        """Give the body bytes sent so far."""
        return sum(request.bytes_sent for request in self.requests)


class _FaultyHandler(StaticHandler):
    server: FaultyServer

    def answer(self, *, send_body: bool) -> None:
        name = self.path.lstrip("/")
        fault = self.server.take_fault(name) or Fault()
        if fault.arrived is not None:
            fault.arrived.set()
        if fault.wait_for is not None:
            fault.wait_for.wait(30)
        path = self.server.find(self.path)
        sent = 0
        status = HTTPStatus(fault.status) if fault.status is not None else None
        if status is None and path is None:
            status = HTTPStatus.NOT_FOUND
        if status is None and path is not None:
            content = bytearray(path.read_bytes())
            if fault.flip_at is not None:
                content[fault.flip_at] ^= 0xFF
            chosen = choose_slice(len(content), None if fault.ignore_range else self.headers.get("Range"))
            sent = self._body_length(chosen, fault) if send_body else 0
        fresh = self.headers.get("Cache-Control") == "no-cache"
        self.server.requests.append(Request(self.command, name, self.headers.get("Range"), sent, fresh))
        if status is not None:
            self.send_text(status)
            return
        self.send_slice_headers(chosen, len(content))
        self.wfile.write(content[chosen.start : chosen.start + sent])
        if sent < chosen.length and send_body:
            self.close_connection = True

    @staticmethod
    def _body_length(chosen: Slice, fault: Fault) -> int:
        return chosen.length if fault.truncate_to is None else min(chosen.length, fault.truncate_to)


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[FaultyServer]:
    """Serve a directory on a free port of 127.0.0.1; ``.url`` is the address."""
    server = FaultyServer(directory)
    with server.running():
        yield server

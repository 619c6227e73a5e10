"""Runs the collector: both listeners and the writer, until SIGTERM; then drains what was taken."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
import ssl
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from litestar import Litestar

from pps_collector.app import make_agents_app, make_pages_app
from pps_collector.clock import utc_now
from pps_collector.errors import ConfigError, SiteError
from pps_collector.identity.authority import Authority, issue_server, open_authority
from pps_collector.identity.peer import PeerProtocol
from pps_collector.ingest.writer import Writer
from pps_collector.services import Services
from pps_collector.settings import Address, Settings
from pps_collector.store.database import open_database
from pps_collector.store.schema import observe_schema

_GRACE_S: Final = 10
_BACKLOG: Final = 512

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Serving:
    """Where a running collector can be reached, and the certificate to check it with."""

    agents: str
    pages: str
    ca: str


def serve(settings: Settings, announce: Callable[[Serving], None]) -> None:
    """Serve until SIGTERM or SIGINT; ``announce`` is called once both listeners answer.

    Raises: SiteError when an address, the state directory or the schema cannot be used, StoreError
    when the database does not answer, ConfigError, TrustError.
    """
    engine = open_database(settings.database_url)
    try:
        schema = observe_schema(engine)
        if not schema.is_current:
            found = schema.found or "nothing"
            raise SiteError(f"the database has schema {found}, {schema.wanted} is needed; run pps-collector migrate")
        authority = open_authority(settings.state, utc_now())
        writer = Writer(engine, utc_now, settings.queue_bytes)
        services = Services(engine, authority, writer, utc_now, settings.silent_after_s)
        with _listen(settings.listen) as agents, _listen(settings.pages) as pages:
            writer.start()
            try:
                asyncio.run(_run(services, settings, agents, pages, announce))
            finally:
                writer.stop()
    finally:
        engine.dispose()
    log.info("collector.stopped")


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handling, since two of them share a process; says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to the loop."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self.up.set()


async def _run(
    services: Services,
    settings: Settings,
    agents: socket.socket,
    pages: socket.socket,
    announce: Callable[[Serving], None],
) -> None:
    tls = _make_tls(services.authority, settings)
    servers = {
        _Server(_configure(make_agents_app(services), tls)): agents,
        _Server(_configure(make_pages_app(services), None)): pages,
    }

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with asyncio.TaskGroup() as tasks:
        for server, listener in servers.items():
            tasks.create_task(server.serve(sockets=[listener]))
        for server in servers:
            await server.up.wait()
        serving = Serving(
            f"https://{_address_of(agents)}", f"http://{_address_of(pages)}", str(services.authority.path)
        )
        log.info("collector.started", agents=serving.agents, pages=serving.pages)
        announce(serving)


def _configure(app: Litestar, tls: ssl.SSLContext | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=PeerProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_context_factory=(lambda _config, _default: tls) if tls is not None else None,
    )


def _make_tls(authority: Authority, settings: Settings) -> ssl.SSLContext:
    key, certificate = issue_server(authority, _server_names(settings), utc_now())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.TemporaryDirectory(dir=settings.state) as directory:
        # The ssl module reads keys from files only; this one is new at every start and is not kept.
        path = Path(directory, "server.pem")
        path.touch(mode=0o600)
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)
    context.load_verify_locations(cadata=authority.pem)
    # Optional: enrolment has no certificate yet. Who shows one must show one of ours.
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _server_names(settings: Settings) -> list[str]:
    host = settings.listen.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return [host, *settings.names]
    if not address.is_unspecified:
        return [host, *settings.names]
    if not settings.names:
        fault = f"listen: {host} is every address, so the certificate needs names"
        raise ConfigError([f'{fault}; set names = ["pps.example.org"] in the settings file'])
    return list(settings.names)


@contextlib.contextmanager
def _listen(address: Address) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        raise SiteError(f"cannot listen on {address}: {exc}; choose another address with --listen or --pages") from exc
    with listener:
        yield listener


def _address_of(listener: socket.socket) -> Address:
    host, port = listener.getsockname()[:2]
    return Address(str(host), int(port))

"""What the request handlers work with; one value, made once at the start."""

from dataclasses import dataclass

from sqlalchemy import Engine

from pps_collector.clock import Clock
from pps_collector.identity.authority import Authority
from pps_collector.ingest.writer import Writer


@dataclass(frozen=True, slots=True)
class Services:
    """The database, the certificate authority, the writer, the clock, and what pages call silent."""

    engine: Engine
    authority: Authority
    writer: Writer
    clock: Clock
    silent_after_s: int

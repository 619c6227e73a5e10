"""Enrolment: a one-time, site-bound token becomes an agent with a certificate; and finding it again."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection, Engine, insert, select, update

from pps_collector.errors import TokenError
from pps_collector.identity.authority import Authority, issue_agent
from pps_collector.identity.peer import Peer, read_peer
from pps_collector.store.database import writing
from pps_collector.store.tables import agent, enrol_token
from pps_wire.names import Site
from pps_wire.report import EnrolReply, EnrolRequest

MAX_VALID: Final = timedelta(days=7)
_TOKEN_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class Token:
    """A token as its creator sees it, once; ``text`` is stored nowhere."""

    text: str
    site: Site
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class KnownAgent:
    """An enrolled agent: 32 hex digits and its site."""

    id: str
    site: str


def create_token(engine: Engine, site: Site, valid: timedelta, now: datetime) -> Token:
    """Make a token that enrols one agent of ``site`` until it expires; only its digest is stored."""
    token = Token(secrets.token_urlsafe(_TOKEN_BYTES), site, now + valid)
    row = {"sha256": _digest(token.text), "site": site, "created_at": now, "expires_at": token.expires_at}
    with writing(engine).begin() as connection:
        connection.execute(insert(enrol_token), row)
    return token


def enrol(engine: Engine, authority: Authority, request: EnrolRequest, now: datetime) -> EnrolReply:
    """Claim the token and certify the agent, in one transaction: both or neither.

    Raises: TokenError when the token is unknown, used or expired; CsrError for the request.
    """
    new_id = secrets.token_hex(16)
    with writing(engine).begin() as connection:
        site = _claim(connection, _digest(request.token), new_id, now)
        certificate = issue_agent(authority, request.csr, new_id, site, now)
        peer = read_peer(certificate)
        row = {
            "id": new_id,
            "site": site,
            "issuer_sha256": peer.issuer_sha256,
            "subject_sha256": peer.subject_sha256,
            "spki_sha256": peer.spki_sha256,
            "enrolled_at": now,
        }
        connection.execute(insert(agent), row)
    pem = certificate.public_bytes(Encoding.PEM).decode()
    return EnrolReply(agent=new_id, site=Site(site), certificate=pem, ca=authority.pem)


def find_agent(engine: Engine, peer: Peer) -> KnownAgent | None:
    """Give the agent to which this very certificate's names and key belong."""
    with engine.connect() as connection:
        row = connection.execute(
            select(agent.c.id, agent.c.site).where(
                agent.c.issuer_sha256 == peer.issuer_sha256,
                agent.c.subject_sha256 == peer.subject_sha256,
                agent.c.spki_sha256 == peer.spki_sha256,
            )
        ).one_or_none()
    return KnownAgent(row.id, row.site) if row is not None else None


def _claim(connection: Connection, digest: str, new_id: str, now: datetime) -> str:
    # One conditional UPDATE: of two that come at once with the same token, one finds it used.
    claimed = connection.execute(
        update(enrol_token)
        .where(enrol_token.c.sha256 == digest, enrol_token.c.used_at.is_(None), enrol_token.c.expires_at > now)
        .values(used_at=now, agent=new_id)
        .returning(enrol_token.c.site)
    ).scalar_one_or_none()
    if claimed is not None:
        return str(claimed)
    known = connection.execute(select(enrol_token).where(enrol_token.c.sha256 == digest)).one_or_none()
    if known is None:
        reason = "this token is not known"
    elif known.used_at is not None:
        reason = f"this token was used on {known.used_at.isoformat(timespec='seconds')}"
    else:
        reason = f"this token expired on {known.expires_at.isoformat(timespec='seconds')}"
    raise TokenError(f"{reason}; ask for a new one (pps-collector enrol-token --site SITE)")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()

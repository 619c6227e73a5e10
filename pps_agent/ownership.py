"""Who acts on a store and on tags: one agent, known by an id in its state.db, and one round at a time.

::

    <store>/owner.json           {"agent": <id>, "host": ..., "state": <directory>, "group": ..., "since": ...}
    <store>/round.lock           held through a round, beside <state>/round.lock
    <tags>/.pps-tags/owners.json {<subcluster>: the same}

Two agents with states of their own would undo each other's work: each holds what the other did for its own
mistake. An id cannot be had by guessing; it is no secret against whoever may write the store.
"""

import contextlib
import os
import secrets
import socket
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec

from pps_agent.disk import site_error
from pps_agent.errors import SiteError
from pps_agent.files import hold_lock, save_bytes
from pps_agent.settings import Settings
from pps_agent.tags import disk
from pps_agent.tags.areas import Area, find_areas
from pps_agent.tags.errors import TagFileError
from pps_agent.tags.ledger import DIRECTORY

MARK: Final = "owner.json"
TAG_MARKS: Final = f"{DIRECTORY}/owners.json"
ROUND_LOCK: Final = "round.lock"

_MAX_BYTES: Final = 1024**2
_LOCK_TIMEOUT_S: Final = 30.0
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_Read = TypeVar("_Read")


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """The agent that acts here: random id, host and state directory for people, host group, since when."""

    agent: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
    host: _Text
    state: _Text
    group: _Text
    since: datetime

    def __str__(self) -> str:
        host, state = (text.encode("unicode_escape").decode() for text in (self.host, self.state))
        return f"another agent ({host}, state in {state}, since {self.since:%Y-%m-%dT%H:%MZ})"


class OwnedError(SiteError):
    """Another agent acts on this store or these tags; nothing was changed.

    ``is_self``: it was this very agent, before its state.db was lost.
    """

    def __init__(self, message: str, *, is_self: bool) -> None:
        super().__init__(message)
        self.is_self = is_self


def describe_self(settings: Settings, database: sqlite3.Connection) -> Owner:
    """Give this agent's mark; its id is made at the first call and lives as long as state.db."""
    database.execute("INSERT OR IGNORE INTO setting VALUES ('agent-id', ?)", (secrets.token_hex(16),))
    (agent,) = database.execute("SELECT value FROM setting WHERE name = 'agent-id'").fetchone()
    return Owner(
        agent=agent,
        host=socket.gethostname(),
        state=str(settings.paths.state),
        group=settings.group.name,
        since=datetime.now(UTC),
    )


@contextlib.contextmanager
def hold_site(settings: Settings, database: sqlite3.Connection, *, take_over: bool = False) -> Iterator[None]:
    """Keep every other round off this state and this store while the context lasts; the store must exist.

    With ``take_over`` the marks of another agent are replaced. Raises: BusyError while another round is under
    way; OwnedError when another agent acts here; SiteError when the file system refuses.
    """
    root = settings.paths.store
    with (
        hold_lock(settings.paths.state / ROUND_LOCK, "is running a round"),
        hold_lock(root / ROUND_LOCK, "is running a round over this store"),
    ):
        me = describe_self(settings, database)
        _claim_store(root, me, take_over=take_over)
        for area in find_areas(settings):
            with contextlib.suppress(TagFileError):  # tags that cannot be looked at are told of by the round itself
                _claim_tags(area, me, take_over=take_over)
        yield


def check_owner(settings: Settings, database: sqlite3.Connection) -> None:
    """Tell whether this agent may act here, and change nothing. Raises: OwnedError; SiteError."""
    me = describe_self(settings, database)
    owner = load_owner(settings.paths.store)
    if owner is not None and owner.agent != me.agent:
        raise _refusal(settings.paths.store, owner, me)
    for area in find_areas(settings):
        with contextlib.suppress(TagFileError):
            _find_strangers(area, _load_tag_owners(area.base), me)


def load_owner(store: Path) -> Owner | None:
    """Give the agent that acts on a store; None where none ever did. Raises: SiteError."""
    return _load(store / MARK, Owner)


def _claim_store(root: Path, me: Owner, *, take_over: bool) -> None:
    try:
        owner = load_owner(root)
    except SiteError:
        if not take_over:
            raise
        owner = None
    if owner is not None and owner.agent != me.agent and not take_over:
        raise _refusal(root, owner, me)
    if owner is None or not _is_same(owner, me):
        _save(root / MARK, me)


def _claim_tags(area: Area, me: Owner, *, take_over: bool) -> None:
    """Mark an area's subclusters. Raises: OwnedError; SiteError; TagFileError without base or lock."""
    base, subclusters = area.base, area.subclusters
    if not subclusters or not base.is_dir():
        return
    try:
        before = _load_tag_owners(base)
    except SiteError:
        if not take_over:
            raise
        before = {}
    if not take_over:
        _find_strangers(area, before, me)
    if all(name in before and _is_same(before[name], me) for name in subclusters):
        return
    with disk.locked(base, _LOCK_TIMEOUT_S):
        try:
            marks = _load_tag_owners(base)  # anew: another group's agent may have come in between
        except SiteError:
            marks = {}
        if not take_over:
            _find_strangers(area, marks, me)
        disk.make_directories((base / TAG_MARKS).parent, base)
        _save(base / TAG_MARKS, marks | dict.fromkeys(subclusters, me))


def _find_strangers(area: Area, marks: dict[str, Owner], me: Owner) -> None:
    for name in area.subclusters:
        if name in marks and marks[name].agent != me.agent:
            raise _refusal(area.base / name, marks[name], me)


def _refusal(path: Path, owner: Owner, me: Owner) -> OwnedError:
    is_self = (owner.host, owner.state, owner.group) == (me.host, me.state, me.group)
    problem = (
        "this agent's state.db was lost or replaced, and with it what was declined, rolled back and acknowledged;"
        " say that again, then go on with"
        if is_self
        else f"{owner} acts on it; stop that one for good, then take over with"
    )
    return OwnedError(f"{path}: {problem}: pps-agent once --take-over", is_self=is_self)


def _is_same(owner: Owner, me: Owner) -> bool:
    return (owner.agent, owner.host, owner.state, owner.group) == (me.agent, me.host, me.state, me.group)


def _load_tag_owners(base: Path) -> dict[str, Owner]:
    return _load(base / TAG_MARKS, dict[str, Owner]) or {}


def _load(path: Path, kind: type[_Read]) -> _Read | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            raw = stream.read(_MAX_BYTES) or b""
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise site_error(exc, path) from exc
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise SiteError(
            f"{path}: cannot be read ({exc}), so another agent may act here; if none does: pps-agent once --take-over"
        ) from exc


def _save(path: Path, value: Owner | dict[str, Owner]) -> None:
    try:
        save_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")
    except OSError as exc:
        raise site_error(exc, path) from exc

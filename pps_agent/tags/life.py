"""What is known of a tag beyond standing in a list: which release it announces, in which state it is, when it goes.

One document for each VO, ``<base>/.pps-tags/<vo>/life.json``::

    {"format": 1, "written_at": 1790000000.0,
     "tags": {"ce01.example.org": {"VO-dteam-pps-6.1.0": {"state": "installedverified", "release": "...",
                                                          "expires_at": 1799000000.0}}}}

A tag without an entry is a plain one: it stands in a list and nothing more is known. Pure; standard library only.
"""

import json
from collections.abc import Iterable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag, Vo, parse_subcluster, parse_tag

FORMAT: Final = 1
LISTED: Final = "listed"
UNLISTED: Final = "unlisted"
"""What a person decided against the probes of a release, see ``Life.forced``."""
LATEST_S: Final = 253_402_300_799
"""The last second of the year 9999: no publisher could write a later one."""
_FIELDS: Final = frozenset({"state", "release", "expires_at", "forced"})


class TagState(Enum):
    """GLUE2ApplicationEnvironment.State, as far as this program sets it. Source: GFD.147, AppEnvState_t."""

    NOT_VERIFIED = "installednotverified"
    VERIFIED = "installedverified"
    BROKEN = "installedbroken"
    PENDING_REMOVAL = "pendingremoval"


class Life(NamedTuple):
    """One tag's entry. ``release`` is empty for a tag set by hand; ``expires_at`` in seconds since 1970, None: never.

    ``forced``: a person decided against what the release's probes say; empty, ``listed`` or ``unlisted``.
    """

    state: TagState
    release: str = ""
    expires_at: float | None = None
    forced: str = ""

    def is_over(self, now_s: float) -> bool:
        """Tell whether the tag's time is over."""
        return self.expires_at is not None and self.expires_at <= now_s


class Lives(NamedTuple):
    """The entries of one VO, by subcluster and tag. ``written_at`` in seconds since 1970: no later look is earlier."""

    tags: Mapping[Subcluster, Mapping[Tag, Life]] = MappingProxyType({})
    written_at: float = 0.0

    def of(self, subcluster: Subcluster) -> Mapping[Tag, Life]:
        """Give the entries of one subcluster."""
        return self.tags.get(subcluster, {})

    def with_entries(self, subclusters: Iterable[Subcluster], tags: Iterable[Tag], life: Life | None) -> "Lives":
        """Set these tags' entries on these subclusters; None takes them away."""
        changed = {subcluster: dict(entries) for subcluster, entries in self.tags.items()}
        names = tuple(tags)
        for subcluster in subclusters:
            entries = changed.setdefault(subcluster, {})
            for tag in names:
                if life is None:
                    entries.pop(tag, None)
                else:
                    entries[tag] = life
        return self._replace(tags={subcluster: entries for subcluster, entries in changed.items() if entries})


NOTHING_KNOWN: Final = Lives()


def render_lives(lives: Lives) -> bytes:
    """Give the document's bytes; the same entries give the same bytes."""
    tags = {
        subcluster: {tag: _render(life) for tag, life in sorted(entries.items())}
        for subcluster, entries in sorted(lives.tags.items())
    }
    document = {"format": FORMAT, "written_at": _fit(lives.written_at), "tags": tags}
    return json.dumps(document, ensure_ascii=True, indent=1).encode() + b"\n"


def parse_lives(content: bytes, vo: Vo) -> Lives:
    """Read the document of a VO. Raises: WireError when it is none, or one of a newer agent."""
    try:
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise WireError("tags", f"is of format {document['format']!r}, this agent knows {FORMAT}: update it")
        tags = {
            parse_subcluster(subcluster): {parse_tag(tag, vo): _read(entry) for tag, entry in entries.items()}
            for subcluster, entries in document["tags"].items()
        }
        return Lives(tags, _time(document["written_at"]))
    except WireError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise WireError("tags", f"is not what this program writes ({exc}): restore it, or move it away") from exc


def _render(life: Life) -> dict[str, Any]:
    entry: dict[str, Any] = {"state": life.state.value}
    entry |= {"release": life.release} if life.release else {}
    entry |= {"expires_at": _fit(life.expires_at)} if life.expires_at is not None else {}
    return entry | ({"forced": life.forced} if life.forced else {})


def _read(entry: Mapping[str, Any]) -> Life:
    if unknown := set(entry) - _FIELDS:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    expires_at = entry.get("expires_at")
    return Life(
        TagState(entry["state"]),
        _text(entry.get("release", "")),
        None if expires_at is None else _time(expires_at),
        _text(entry.get("forced", "")),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _time(value: object) -> float:
    # Compared as it is: a whole number may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST_S:
        raise TypeError(f"{str(value)[:40]} is no time between 1970 and 9999")
    return float(value)


def _fit(at_s: float) -> float:
    return min(max(at_s, 0.0), float(LATEST_S))

r"""WLCG probe tuples: several results of one run, each as lines of key and value. Pure.

::

    serviceURI: ce01.example.org
    hostName: ce01.example.org
    serviceFlavour: CE
    siteName: EXAMPLE-SITE
    metricStatus: OK
    metricName: org.pps.ce.arc
    summaryData: 12 slots free
    gatheredAt: ui01.example.org
    timestamp: 2026-11-22T10:00:00Z
    detailsData: first line
    and more lines
    EOT

Source: Grid Monitoring Probes Specification 0.91 (4 June 2007): each value is one line but ``detailsData``,
which comes last and ends with a line ``EOT``. The specification says nothing of values that hold line
ends or that line, which is how records are forged. Here ``\xNN`` in a value is the byte NN, in both
directions. The writer writes so: control characters and line separators (in details but the newline),
blanks at the ends of a one-line value, bytes that are not UTF-8, the backslash of a ``\xNN`` that was meant
as it stands, and the first letter of a line of details that begins with ``EOT`` or with a key of the format.
So our reader gets the same value back, and another reader sees no key and no end that is none.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn

from pps_agent.probes.parse import CONTROL, escape_char, restore_output, show_bytes
from pps_wire.errors import WireError
from pps_wire.report import Status

_KEYS: Final = {
    "service_uri": "serviceURI",
    "host_name": "hostName",
    "service_flavour": "serviceFlavour",
    "site_name": "siteName",
    "status": "metricStatus",
    "metric": "metricName",
    "summary": "summaryData",
    "gathered_at": "gatheredAt",
    "timestamp": "timestamp",
    "nagios_name": "nagiosName",
    "role": "role",
    "vo_name": "voName",
    "vo_fqan": "voFqan",
    "service_type": "serviceType",
    "encrypted": "encrypted",
    "details": "detailsData",
}
"""Field of a record → its key, in the order of writing."""
_TYPED: Final = frozenset({"status", "timestamp", "encrypted", "details"})
KNOWN: Final = frozenset(_KEYS.values())
_SPELLING: Final = {key.lower(): key for key in KNOWN}
REQUIRED: Final = tuple(_KEYS.values())[:9]
_OPTIONAL: Final = tuple(_KEYS.values())[9:-1]
END: Final = "EOT"
MAX_KEYS: Final = 80

_LINE: Final = re.compile(r"(?P<key>[A-Za-z][A-Za-z0-9_.-]{0,63}):(?:[ \t](?P<value>.*))?", re.DOTALL)
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z")
_UNSAFE_VALUE: Final = re.compile(rf"[{CONTROL}\t\n]|\A | \Z|\\(?=x[0-9a-f]{{2}})")
_UNSAFE_DETAILS: Final = re.compile(rf"[{CONTROL}]|\\(?=x[0-9a-f]{{2}})")
_FORGERY: Final = re.compile(rf"\s*(?:{END}|(?:{'|'.join(_KEYS.values())})\s*:)", re.IGNORECASE)
"""A line of details that a careless reader would take for the end, or for a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WlcgRecord:
    """One result. Values are any text; a byte that is not UTF-8 is a surrogate, as in file names.

    ``extra`` is the keys that the specification does not have, in the order they came.
    """

    service_uri: str
    host_name: str
    service_flavour: str
    site_name: str
    status: Status
    metric: str
    summary: str
    gathered_at: str
    timestamp: datetime
    nagios_name: str = ""
    role: str = ""
    vo_name: str = ""
    vo_fqan: str = ""
    service_type: str = ""
    encrypted: bool = False
    extra: tuple[tuple[str, str], ...] = ()
    details: str = ""


def parse_records(raw: bytes) -> tuple[WlcgRecord, ...]:
    """Read all records of one run, at least one. Untrusted. Raises: WireError and nothing else, for any bytes.

    Strict: each record has every key of REQUIRED, no key twice, details last, and its end. Blank lines may stand
    between records only.
    """
    records: list[WlcgRecord] = []
    record: _Reader | None = None
    text = raw.decode("utf-8", "surrogateescape").removesuffix("\n")
    for number, line in enumerate(text.split("\n"), 1):
        if record is None and line.strip(" \t\r"):
            record = _Reader(len(records) + 1)
        if record is not None and record.take(line.removesuffix("\r"), number):
            records.append(record.finish())
            record = None
    if record is not None:
        record.refuse(f"has no line {END} at its end: the output was cut, or the probe forgot it")
    if not records:
        raise WireError("WLCG output", f"holds no record: print {', '.join(REQUIRED)} and a line {END}")
    return tuple(records)


def render_records(records: Iterable[WlcgRecord]) -> str:
    """Give the text of records: what ``parse_records`` reads back, and another reader cannot misread.

    Raises: WireError when an ``extra`` key is none or a known one, or a time has no time zone.
    """
    return "".join(map(_render_record, records))


class _Reader:
    """One record while its lines come in."""

    __slots__ = ("_details", "_number", "_values")

    def __init__(self, number: int) -> None:
        self._number = number
        self._values: dict[str, str] = {}
        self._details: list[str] | None = None

    def refuse(self, problem: str) -> NoReturn:
        raise WireError(f"WLCG record {self._number}", problem)

    def take(self, line: str, number: int) -> bool:
        """Take the next line; True when it ends the record."""
        if line == END:
            return True
        if self._details is not None:
            self._details.append(line)
            return False
        matched = _LINE.fullmatch(line)
        if matched is None or matched["key"].upper().startswith(END):
            self.refuse(f"line {number} is not 'key: value': {line[:40]!a}")
        key, value = matched["key"], matched["value"] or ""
        if _SPELLING.get(key.lower(), key) != key:
            self.refuse(f"line {number} says {key}: write {_SPELLING[key.lower()]}")
        if key in self._values:
            self.refuse(f"line {number} says {key} again: each key once")
        if key == "detailsData":
            self._details = [value]
        else:
            self._values[key] = _unescape(value.strip(" \t\r"))
        return False

    def finish(self) -> WlcgRecord:
        """Give the record, now that all its lines are here."""
        values = self._values
        if missing := [key for key in REQUIRED if key not in values]:
            self.refuse(f"lacks {', '.join(missing)}")
        if len(values) > MAX_KEYS:
            self.refuse(f"has {len(values)} keys; at most {MAX_KEYS} are allowed")
        if values["metricStatus"] not in Status.__members__:
            self.refuse(f"metricStatus {values['metricStatus'][:40]!a} is none of {', '.join(Status.__members__)}")
        if values.get("encrypted", "no") not in ("yes", "no"):
            self.refuse("encrypted is neither yes nor no")
        texts = {field: values.get(key, "") for field, key in _KEYS.items() if field not in _TYPED}
        return WlcgRecord(
            **texts,
            status=Status[values["metricStatus"]],
            timestamp=self._time(values["timestamp"]),
            encrypted=values.get("encrypted") == "yes",
            extra=tuple(item for item in values.items() if item[0] not in KNOWN),
            details=_unescape("\n".join(self._details or ())),
        )

    def _time(self, text: str) -> datetime:
        try:
            if _TIME.fullmatch(text) is None:
                raise ValueError(text)
            return datetime.fromisoformat(text)
        except ValueError:
            self.refuse(f"timestamp {text[:40]!a} is not a UTC time such as 2026-11-22T10:00:00Z")


def _render_record(record: WlcgRecord) -> str:
    extra = [key for key, _ in record.extra]
    for key in extra:
        is_key = _LINE.fullmatch(f"{key}:") is not None and not key.upper().startswith(END)
        if not is_key or key.lower() in _SPELLING or extra.count(key) > 1:
            raise WireError("WLCG record", f"{key[:40]!a} cannot be a further key")
    values = {key: getattr(record, field) for field, key in _KEYS.items() if field not in _TYPED}
    values["metricStatus"] = record.status.name
    values["timestamp"] = _render_time(record.timestamp)
    values["encrypted"] = "yes" if record.encrypted else ""
    written = [(key, values[key]) for key in REQUIRED]
    written += [(key, values[key]) for key in _OPTIONAL if values[key]]
    lines = [f"{key}: {_UNSAFE_VALUE.sub(escape_char, value)}" for key, value in (*written, *record.extra)]
    if record.details:
        lines.append(f"detailsData: {_render_details(record.details)}")
    return "\n".join((*lines, END, ""))


def _render_details(text: str) -> str:
    return "\n".join(map(_render_details_line, text.split("\n")))


def _render_details_line(line: str) -> str:
    safe = _UNSAFE_DETAILS.sub(escape_char, line)
    if _FORGERY.match(safe) is None:
        return safe
    letter = len(safe) - len(safe.lstrip())
    return safe[:letter] + show_bytes(safe[letter]) + safe[letter + 1 :]


def _render_time(at: datetime) -> str:
    if at.utcoffset() is None:
        raise WireError("WLCG record", "its time has no time zone")
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _unescape(text: str) -> str:
    return restore_output(text).decode("utf-8", "surrogateescape") if "\\x" in text else text

"""The log of all changes of a VO's tags, as a chain: each line holds the digest of the one before.

``<base>/.pps-tags/<vo>/audit.jsonl``, one JSON object a line::

    {"at":"2026-09-21T14:13:20Z","lists":[{"add":["VO-dteam-a"],"subcluster":"ce01"}],"prev":"<sha256 hex>",
     "seq":7,"verb":"add","via":"lcg-ManageVOTag","who":"root (uid 0)"}

``prev`` of the first line is 64 zeros. Whoever changes, drops or adds a line in the middle breaks the chain; who
rewrites it from some line on changes its head, which leaves the site with every report. Pure; standard library only.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

FIRST: Final = "0" * 64
MAX_LINE_BYTES: Final = 64 * 1024**2


class ListEdit(NamedTuple):
    """What is done to one list; an empty ``subcluster`` is the global list."""

    subcluster: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class Entry(NamedTuple):
    """One change. ``at`` is UTC; ``who`` the account and login; ``via`` the command; ``reason`` for people."""

    verb: str
    at: str
    who: str
    via: str
    lists: tuple[ListEdit, ...] = ()
    reason: str = ""
    forced: bool = False


class Head(NamedTuple):
    """The end of a chain: how many lines it has and the digest of the last one."""

    seq: int = 0
    digest: str = FIRST


class Checked(NamedTuple):
    """What a walk along a chain gave: its head, as far as it is whole, and what breaks it (empty: nothing does)."""

    head: Head
    fault: str
    digests: Mapping[int, str]


def render_entry(entry: Entry, head: Head) -> bytes:
    """Give the line (without its newline) that follows ``head``."""
    record: dict[str, Any] = {
        "seq": head.seq + 1,
        "prev": head.digest,
        "verb": entry.verb,
        "at": entry.at,
        "who": entry.who,
        "via": entry.via,
        "lists": [_render(edit) for edit in entry.lists],
    }
    record |= {"reason": entry.reason} if entry.reason else {}
    record |= {"forced": True} if entry.forced else {}
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def follow(head: Head, line: bytes) -> Head:
    """Give the head after a line."""
    return Head(head.seq + 1, _digest(line))


def head_of(line: bytes) -> Head:
    """Give the head of a chain that ends with this line. Raises: ValueError when it is no line of one."""
    seq = _record(line)["seq"]
    if not isinstance(seq, int):
        raise ValueError(f"{seq!r} is no number of a line")
    return Head(seq, _digest(line))


def verify(lines: Iterable[bytes]) -> Checked:
    """Walk along a chain, line by line, each with its newline."""
    head, digests = Head(), {0: FIRST}
    for number, raw in enumerate(lines, 1):
        line = raw.removesuffix(b"\n")
        try:
            record = _record(line)
        except ValueError as exc:
            return Checked(head, f"line {number}: is no entry of the log ({exc})", digests)
        if record.get("prev") != head.digest:
            which = f"line {number - 1} was changed, or" if number > 1 else "lines before it were dropped, or"
            return Checked(
                head, f"line {number}: does not follow the one before: {which} this one is not its own", digests
            )
        if record.get("seq") != number:
            return Checked(head, f"line {number}: has the number {record.get('seq')!r}", digests)
        if not raw.endswith(b"\n"):
            return Checked(head, f"line {number}: has no end", digests)
        head = follow(head, line)
        digests[head.seq] = head.digest
    return Checked(head, "", digests)


def hold_against(checked: Checked, known: Head) -> Checked:
    """Judge a chain by an end it once had: one without that line was cut or written anew."""
    if checked.fault or checked.digests.get(known.seq) == known.digest:
        return checked
    return checked._replace(
        fault=f"line {known.seq}: is not the one that once was its last: the log was rewritten or cut"
    )


def parse_entry(line: bytes) -> Entry:
    """Read one line. Raises: ValueError when it is no line of the log."""
    record = _record(line)
    try:
        lists = tuple(
            ListEdit(edit["subcluster"], tuple(edit.get("add", ())), tuple(edit.get("remove", ())))
            for edit in record["lists"]
        )
        names = {name: str(record[name]) for name in ("verb", "at", "who", "via")}
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"is no entry of the log: {exc}") from exc
    return Entry(**names, lists=lists, reason=str(record.get("reason", "")), forced=record.get("forced") is True)


def find_origins(entries: Iterable[Entry], subcluster: str) -> dict[str, Entry]:
    """Give for each tag of a subcluster the change that put it there, as far as the log tells."""
    origins: dict[str, Entry] = {}
    for entry in entries:
        for edit in _concerning(entry, subcluster):
            for tag in edit.remove:
                origins.pop(tag, None)
            for tag in edit.add:
                origins[tag] = entry
    return origins


def _digest(line: bytes) -> str:
    import hashlib  # here, since lists are read much oftener than changed

    return hashlib.sha256(line).hexdigest()


def _concerning(entry: Entry, subcluster: str) -> Iterator[ListEdit]:
    return (edit for edit in entry.lists if edit.subcluster in (subcluster, ""))


def _render(edit: ListEdit) -> dict[str, Any]:
    found: dict[str, Any] = {"subcluster": edit.subcluster}
    found |= {"add": edit.add} if edit.add else {}
    return found | ({"remove": edit.remove} if edit.remove else {})


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(record, dict):
        raise ValueError("no object")
    return record

"""Published results, read for the price of a Python start: ``results.jsonl``, written by ``publish.py``.

One line for each metric and release, always in this order of keys, so that a line is found by its first bytes
and only that one is read::

    {"metric":"org.pps.sys.disk","release":"","status":"OK","cause":"verdict","summary":"…","perfdata":"…",
     "at":"2026-11-27T10:00:00Z","fresh_until":"2026-11-27T10:11:00Z","attempt":1,"hard":true,…}

``json``, ``datetime`` or even ``typing`` would cost more than all the rest of ``check_pps``, so that a flat
object and a UTC time are read here. The file is untrusted and reads are bounded.
"""

import os

MAX_FILE_BYTES = 256 * 1024**2
MAX_LINE_BYTES = 1024**2
STATUSES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")

Value = str | float | bool | None

_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS = {"true": True, "false": False, "null": None}


class CachedResult:
    """One published result; times in seconds since 1970. ``release`` empty: the production client, or the site.

    ``fresh_until`` None: nothing renews it by itself.
    """

    __slots__ = (
        *("metric", "release", "status", "cause", "summary", "perfdata", "details"),
        *("at", "fresh_until", "attempt", "hard"),
    )

    def __init__(self, fields: dict[str, Value]) -> None:
        """Take the fields of a line. Raises: ValueError or KeyError when one is not of its type."""
        self.metric, self.release = _text(fields["metric"]), _text(fields["release"] or "")
        self.status, self.cause = _text(fields["status"]), _text(fields["cause"])
        self.summary, self.details = _text(fields["summary"]), _text(fields["details"])
        self.perfdata = _text(fields["perfdata"])
        self.at = parse_utc_time(_text(fields["at"]))
        fresh_until = fields["fresh_until"]
        self.fresh_until = None if fresh_until is None else parse_utc_time(_text(fresh_until))
        attempt, hard = fields["attempt"], fields["hard"]
        in_set = self.status in STATUSES and isinstance(hard, bool)
        if not in_set or not isinstance(attempt, float) or not 1 <= attempt < 1e9:
            raise ValueError("a field of another type")
        self.attempt, self.hard = int(attempt), bool(hard)


def find_results(path: str, metric: str) -> list[CachedResult]:
    """Give all results of one metric, one for each release it ran on.

    Raises: OSError when the file cannot be read, ValueError when it is none or holds what nobody published.
    """
    return [CachedResult(parse_flat_object(line.decode())) for line in _find_lines(path, metric)]


def _find_lines(path: str, metric: str) -> list[bytes]:
    prefix = b'{"metric":"%s",' % metric.encode("utf-8", "replace")
    # Without blocking: a pipe in the file's place would never answer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if status.st_mode & 0o170000 != 0o100000:
            raise ValueError("is no file")
        if status.st_size > MAX_FILE_BYTES:
            raise ValueError(f"has {status.st_size} bytes, at most {MAX_FILE_BYTES} are read")
        found = []
        while line := stream.readline(MAX_LINE_BYTES):
            if line.startswith(prefix):
                found.append(line)
        return found


def parse_flat_object(text: str) -> dict[str, Value]:
    """Read a JSON object without blanks whose values are texts, numbers, true, false or null.

    Raises: ValueError and nothing else, for any other text.
    """
    try:
        return _parse_flat_object(text)
    except (IndexError, KeyError):
        raise ValueError("no flat object") from None


def _parse_flat_object(text: str) -> dict[str, Value]:
    found: dict[str, Value] = {}
    position = 1
    while text[0] == "{" and text[position - 1] != "}":
        key, position = _parse_text(text, position)
        if text[position] != ":":
            raise ValueError("no colon after a key")
        if text[position + 1] == '"':
            found[key], end = _parse_text(text, position + 1)
        else:
            comma = text.find(",", position)
            end = comma if comma > 0 else text.index("}", position)
            word = text[position + 1 : end]
            found[key] = _WORDS[word] if word in _WORDS else float(word)
        if text[end] not in ",}":
            raise ValueError("no comma after a value")
        position = end + 1
    if text[position:].strip("\n") or not found:
        raise ValueError("more than one object, or none")
    return found


def _parse_text(text: str, position: int) -> tuple[str, int]:
    """Read the JSON text that begins here; give it and where it ends."""
    if text[position] != '"':
        raise ValueError("no text where one must be")
    position += 1
    parts = []
    while (slash := text.find("\\", position, end := text.index('"', position))) >= 0:
        parts.append(text[position:slash])
        is_code = text[slash + 1] == "u"
        parts.append(chr(int(text[slash + 2 : slash + 6], 16)) if is_code else _ESCAPES[text[slash + 1]])
        position = slash + (6 if is_code else 2)
    parts.append(text[position:end])
    whole = "".join(parts)
    # A character beyond U+FFFF is written as two codes.
    return whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if len(parts) > 1 else whole, end + 1


def parse_utc_time(text: str) -> float:
    """Give the seconds since 1970 of an ISO 8601 time in UTC, e.g. ``2026-11-27T10:00:00.5Z``. Raises: ValueError.

    Days are those of the Gregorian calendar, counted in years that begin with March: a leap day is their last.
    """
    day_text, _, rest = text.partition("T")
    clock = rest.removesuffix("Z").removesuffix("+00:00")
    if clock == rest or len(text) > 40 or not (day_text + clock).translate({45: "", 46: "", 58: ""}).isdigit():
        raise ValueError("no time in UTC")
    year, month, day = map(int, day_text.split("-"))
    hour, minute, second = clock.split(":")
    year, month = (year, month - 3) if month > 2 else (year - 1, month + 9)
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 1 - 719_468
    return days * 86_400 + int(hour) * 3600 + int(minute) * 60 + float(second)


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise ValueError("a field that is no text")
    return value

r"""What a probe printed: the text format of monitoring plugins, as a value. Pure.

Source: draft-kaestle-monitoring-plugins-interface-04, section on output to stdout (one ``|`` parts the
text from the performance data), and the plugin API of Nagios 3 for several lines: what follows a ``|``
on the first line is performance data up to the line's end; of the further lines, everything after the
first ``|`` is performance data again.

Output is untrusted. Bytes that are not UTF-8, and control characters other than tab and newline, are
shown as ``\xNN`` in the details; so any text here can be stored as JSON or in a database. In the summary
control characters and runs of blanks become one blank.
"""

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Final

MAX_SUMMARY_CHARS: Final = 512
MAX_DETAILS_CHARS: Final = 65_536
"""Both fit the report's limits (pps_wire.report)."""
MAX_PERFDATA: Final = 256

_NUMBER: Final = r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,4})?"
_BOUND: Final = r"[0-9.eE+~@:-]{0,100}"
_DATUM: Final = re.compile(
    r"(?P<label>'(?:[^']|''){1,256}'|[^\s'=][^\s=]{0,255})"
    rf"=(?P<value>{_NUMBER}|U)(?P<unit>[^\s;0-9.,+-][^\s;]{{0,15}})?"
    rf"(?:;(?P<warn>{_BOUND}))?(?:;(?P<crit>{_BOUND}))?(?:;(?P<low>{_BOUND}))?(?:;(?P<high>{_BOUND}))?;?(?=\s|$)",
    re.ASCII,
)
_BIDI: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CUT: Final = "\n[… {} characters left out …]\n"


@dataclass(frozen=True, slots=True)
class PerfDatum:
    """One measured value. ``value`` None means the probe could not tell (``U``).

    ``warn`` and ``crit`` are range expressions as written (``10``, ``@5:10``, ``~:3``), empty when absent.
    """

    label: str
    value: float | None
    unit: str = ""
    warn: str = ""
    crit: str = ""
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class PluginOutput:
    """One plugin's words: first line, further lines, measurements. ``perftext`` is these as printed."""

    summary: str
    details: str
    perfdata: tuple[PerfDatum, ...] = ()
    perftext: str = ""


def parse_plugin_output(raw: bytes) -> PluginOutput:
    """Read what a plugin printed on stdout. Never fails: any bytes give a value.

    Blank lines before the first text are skipped. A first line too long for a summary is cut there and
    kept whole in the details. Performance data that does not follow the grammar is left out of
    ``perfdata`` and stays in ``perftext``.
    """
    text = decode_output(raw).lstrip("\n")
    first, _, rest = text.partition("\n")
    headline, _, perf_first = first.partition("|")
    long_text, _, perf_rest = rest.partition("|")
    summary = clean_line(headline)
    details = long_text.strip("\n")
    if len(summary) > MAX_SUMMARY_CHARS:
        details = f"{headline.strip()}\n{details}".rstrip("\n")
        summary = summary[: MAX_SUMMARY_CHARS - 1] + "…"
    perftext = "\n".join(part for part in (perf_first.strip(), perf_rest.strip()) if part)
    return PluginOutput(summary, details, parse_perfdata(perftext), perftext)


def parse_perfdata(text: str) -> tuple[PerfDatum, ...]:
    """Read performance data, e.g. ``time=0.2s;1;2;0 'free space'=12GB``; at most MAX_PERFDATA values.

    Anything between two blanks that does not follow the grammar is skipped.
    """
    found: list[PerfDatum] = []
    position = 0
    while position < len(text) and len(found) < MAX_PERFDATA:
        matched = _DATUM.match(text, position)
        if matched is not None:
            found.append(_datum(matched))
            position = matched.end()
        else:
            position = _next_blank(text, position)
        while position < len(text) and text[position].isspace():
            position += 1
    return tuple(found)


def render_perfdata(data: tuple[PerfDatum, ...]) -> str:
    """Give the text that ``parse_perfdata`` reads back as these values."""
    return " ".join(map(_render_datum, data))


def decode_output(raw: bytes) -> str:
    """Give bytes as text that any store can hold: see the module's docstring."""
    text = raw.decode("utf-8", "backslashreplace").replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(_show(char) for char in text)


def clean_line(text: str) -> str:
    """Give one line without control characters, each run of blanks as one."""
    return " ".join("".join(" " if unicodedata.category(char) in {"Cc", "Zl", "Zp"} else char for char in text).split())


def cut_text(text: str, limit: int = MAX_DETAILS_CHARS) -> str:
    """Give text of at most ``limit`` characters (at least 64): head and tail, and how much is missing."""
    if len(text) <= limit:
        return text
    room = limit - len(_CUT) - 20
    tail = room // 4
    head = room - tail
    return text[:head] + _CUT.format(len(text) - head - tail) + text[len(text) - tail :]


def _show(char: str) -> str:
    if char in "\n\t":
        return char
    if char in _BIDI or unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}:
        return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"
    return char


def _next_blank(text: str, position: int) -> int:
    while position < len(text) and not text[position].isspace():
        position += 1
    return position


def _datum(matched: re.Match[str]) -> PerfDatum:
    label = matched["label"]
    if label.startswith("'"):
        label = label[1:-1].replace("''", "'")
    return PerfDatum(
        label=label,
        value=None if matched["value"] == "U" else _number(matched["value"]),
        unit=matched["unit"] or "",
        warn=matched["warn"] or "",
        crit=matched["crit"] or "",
        minimum=_number(matched["low"]),
        maximum=_number(matched["high"]),
    )


def _number(text: str | None) -> float | None:
    if not text or re.fullmatch(_NUMBER, text, re.ASCII) is None:
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _render_datum(datum: PerfDatum) -> str:
    quoted = datum.label.replace("'", "''")
    value = "U" if datum.value is None else repr(datum.value)
    bounds = [datum.warn, datum.crit, *("" if x is None else repr(x) for x in (datum.minimum, datum.maximum))]
    return f"'{quoted}'={value}{datum.unit};{';'.join(bounds)}".rstrip(";")

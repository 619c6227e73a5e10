r"""What a probe printed: the text format of monitoring plugins, as a value. Pure.

Source: draft-kaestle-monitoring-plugins-interface-04, section on textual output (one ``|`` parts the text
from the performance data), and the plugin API of Nagios 3 for several lines: what follows a ``|`` on the
first line is performance data up to the line's end; of the further lines, everything after the first
``|`` is performance data again. In one thing we differ: where nothing behind that second ``|`` is performance
data, it is text that happens to hold a ``|``, and no line of it is lost.

Output is untrusted, and so is kept in one reversible form, *shown text*: valid UTF-8 in which each byte
that is not UTF-8, and each byte of a control character (tab and newline excepted), of a line separator
and of a character that turns the direction of writing, is shown as ``\xNN`` (two lower-case digits). A
backslash that the probe printed itself stays as it is, but before ``xNN``, where it is shown as ``\x5c``.
So no text from a probe can end a line, hide, or pass for another, and ``restore_output`` gives back the bytes.
"""

import re
from dataclasses import dataclass
from typing import Final

from pps_agent.probes.perfdata import PerfDatum, parse_perfdata, render_perfdata, scan_perfdata

__all__ = [
    "CONTROL",
    "MAX_DETAILS_CHARS",
    "MAX_SUMMARY_CHARS",
    "PerfDatum",
    "PluginOutput",
    "clean_line",
    "cut_summary",
    "cut_text",
    "decode_output",
    "escape_char",
    "make_safe",
    "parse_perfdata",
    "parse_plugin_output",
    "render_perfdata",
    "restore_output",
    "show_bytes",
    "show_text",
]

MAX_SUMMARY_CHARS: Final = 512
MAX_DETAILS_CHARS: Final = 65_536
"""Both fit the report's limits (pps_wire.report)."""

CONTROL: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""A regular expression's set of the characters that are never shown as themselves."""
_UNSAFE: Final = re.compile(rf"[{CONTROL}]|\\(?=x[0-9a-f]{{2}})")
_CONTROL: Final = re.compile(f"[{CONTROL}]")
_SHOWN: Final = re.compile(rb"\\x([0-9a-f]{2})")
_CUT: Final = "\n[… {} characters left out …]\n"


@dataclass(frozen=True, slots=True)
class PluginOutput:
    """One plugin's words: first line, further lines, measurements.

    ``perftext`` is the good measurements as printed, ``refused`` what stood among them and is none.
    """

    summary: str
    details: str
    perfdata: tuple[PerfDatum, ...] = ()
    perftext: str = ""
    refused: tuple[str, ...] = ()


def parse_plugin_output(raw: bytes) -> PluginOutput:
    """Read what a plugin printed on stdout. Never fails: any bytes give a value.

    Lines end with LF, CR LF or CR. Blank lines before the first text are skipped. A first line too long for a
    summary is cut there and kept whole in the details.
    """
    text = raw.strip().decode("utf-8", "surrogateescape")
    if not (text.isascii() and text.isprintable()):
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = show_text(text)
    if "\n" not in text and "|" not in text and len(text) <= MAX_SUMMARY_CHARS:  # most probes, most of the time
        return PluginOutput(" ".join(text.split()), "")
    first, _, rest = text.partition("\n")
    headline, _, perf_first = first.partition("|")
    long_text, _, perf_rest = rest.partition("|")
    if perf_rest and not parse_perfdata(perf_rest):
        long_text, perf_rest = rest, ""
    summary = " ".join(headline.split())
    details = long_text.strip("\n")
    if len(summary) > MAX_SUMMARY_CHARS:
        details = f"{headline.strip()}\n{details}".rstrip("\n")
    perf = scan_perfdata(f"{perf_first}\n{perf_rest}")
    return PluginOutput(cut_summary(summary), details, perf.data, perf.text, perf.refused)


def decode_output(raw: bytes) -> str:
    """Give any bytes as shown text; see the module's docstring."""
    return show_text(raw.decode("utf-8", "surrogateescape"))


def restore_output(text: str) -> bytes:
    """Give the bytes that ``decode_output`` showed as this text."""
    return _SHOWN.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode("utf-8", "surrogateescape"))


def show_text(text: str) -> str:
    """Give any text as shown text. A surrogate below U+DD00 stands for the byte that could not be decoded."""
    if "\\x" not in text and text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(escape_char, text)


def make_safe(text: str) -> str:
    """Give text of any origin without what shown text never holds. Shown text stays as it is."""
    return text if text.isascii() and text.isprintable() else _CONTROL.sub(escape_char, text)


def clean_line(text: str) -> str:
    """Give one line without control characters, each run of blanks as one. The backslash stays as it is."""
    return " ".join(_CONTROL.sub(" ", text).split())


def cut_summary(text: str) -> str:
    """Give a line of at most MAX_SUMMARY_CHARS characters; one that was cut ends with ``…``."""
    return text if len(text) <= MAX_SUMMARY_CHARS else text[: MAX_SUMMARY_CHARS - 1] + "…"


def cut_text(text: str, limit: int = MAX_DETAILS_CHARS) -> str:
    """Give text of at most ``limit`` characters (at least 64): head and tail, and how much is missing."""
    if len(text) <= limit:
        return text
    room = limit - len(_CUT) - 20
    tail = room // 4
    head = room - tail
    return text[:head] + _CUT.format(len(text) - head - tail) + text[len(text) - tail :]


def escape_char(found: re.Match[str]) -> str:
    """Give a matched character as its bytes; for ``re.sub``."""
    return show_bytes(found[0])


def show_bytes(char: str) -> str:
    r"""Give a character as the ``\xNN`` of its bytes."""
    errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", errors))

"""What a run printed, in any of the three formats, as statements about metrics. Pure.

The format is found by the first bytes unless the probe's definition names it: JSON begins with ``{``, or
with ``[`` before ``{`` or ``]``; a WLCG tuple with one of its keys; everything else is text of a monitoring
plugin (``[OK] fine`` is).
"""

import re
from dataclasses import dataclass, replace
from typing import Final

from pps_agent.probes import json_format, wlcg
from pps_agent.probes.definition import Format
from pps_agent.probes.parse import cut_summary, cut_text, parse_plugin_output, show_text
from pps_agent.probes.perfdata import render_perfdata, scan_perfdata
from pps_wire.report import Status

_KEYS: Final = tuple(f"{key}:".encode() for key in wlcg.KNOWN)
_WORD: Final = re.compile(
    r"[\[(<* ]*(?!NOT? )(?P<subject>(?:[A-Z][A-Z0-9_./-]* ){0,2}?)"
    r"(?P<word>OK|WARNING|CRITICAL|UNKNOWN)(?P<end>[\])>*:;,.!]+ *|(?: [-\u2013])+ *|$)(?:[-\u2013]+ +)?"
)
"""The status at the beginning of a plugin's text: ``OK``, ``CRITICAL: …``, ``[WARNING] …``, ``DISK OK - …``."""
_MAX_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Statement:
    """What was said of one metric; ``metric`` empty: of the probe itself. ``status`` None: no word of it.

    All text is shown text (pps_agent/probes/parse.py), ``perfdata`` is good and as printed.
    """

    metric: str
    status: Status | None
    summary: str
    details: str = ""
    perfdata: str = ""
    notes: tuple[str, ...] = ()


def detect_format(raw: bytes) -> Format:
    """Tell the format by the first bytes."""
    text = raw.lstrip()
    if text[:1] == b"{":
        return Format.JSON
    if text[:1] == b"[":
        return Format.JSON if text[1:].lstrip()[:1] in (b"", b"{", b"]") else Format.NAGIOS
    if text.startswith(_KEYS):
        after = text[text.index(b":") + 1 :][:1]
        return Format.WLCG if after in (b"", b" ", b"\t", b"\r", b"\n") else Format.NAGIOS
    return Format.NAGIOS


def read_output(raw: bytes, form: Format) -> tuple[Statement, ...]:
    """Read what was printed, in this format or, with ``auto``, in what it looks like. Raises: WireError only."""
    match detect_format(raw) if form is Format.AUTO else form:
        case Format.JSON:
            return tuple(map(_read_json, json_format.parse_results(raw)))
        case Format.WLCG:
            return tuple(map(_read_wlcg, wlcg.parse_records(raw)))
        case _:
            return (read_text(raw),)


def read_text(raw: bytes) -> Statement:
    """Read text of a monitoring plugin; never fails."""
    output = parse_plugin_output(raw)
    status = split_status(output.summary)[0]
    return Statement("", status, output.summary, output.details, output.perftext, _note_refused(output.refused))


def split_status(text: str) -> tuple[Status | None, str]:
    """Part the status word at the beginning from the rest, e.g. ``DISK OK - free`` into OK and ``DISK: free``."""
    matched = _WORD.match(text)
    if matched is None:
        return None, text
    subject, rest = matched["subject"].strip(), text[matched.end() :].strip()
    return Status[matched["word"]], f"{subject}: {rest}" if subject and rest else subject or rest


def _read_json(result: json_format.JsonResult) -> Statement:
    perf = scan_perfdata(render_perfdata(json_format.read_perfdata(result)))
    stated = _state(json_format.status_of(result), result.summary, result.details)
    return replace(stated, metric=result.metric, perfdata=perf.text, notes=_note_refused(perf.refused))


def _read_wlcg(record: wlcg.WlcgRecord) -> Statement:
    """Read one record. The format has no place for measurements; they follow a ``|`` in the summary, as in text."""
    summary, _, measured = record.summary.partition("|")
    perf = scan_perfdata(show_text(measured))
    stated = _state(record.status, summary, record.details)
    return replace(stated, metric=record.metric, perfdata=perf.text, notes=_note_refused(perf.refused))


def _state(status: Status, summary: str, details: str) -> Statement:
    """Give a statement with safe texts; a summary that is not one short line is kept whole in the details."""
    shown, rest = show_text(summary).strip(), show_text(details).strip("\n")
    line = " ".join(shown.split())
    if len(shown) > len(cut_summary(line)) or "\n" in shown:
        rest = f"{shown}\n{rest}".rstrip("\n")
    return Statement("", status, cut_summary(line) or "(no summary)", cut_text(rest))


def _note_refused(refused: tuple[str, ...]) -> tuple[str, ...]:
    if not refused:
        return ()
    words = ", ".join(word if len(word) <= 80 else f"{word[:79]}…" for word in refused[:_MAX_SHOWN])
    more = f" and {len(refused) - _MAX_SHOWN} more" if len(refused) > _MAX_SHOWN else ""
    return (f"not performance data, or said before: {words}{more}",)

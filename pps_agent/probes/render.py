"""Results for others: as text of a monitoring plugin, as WLCG tuples, as JSON. Pure.

Whatever a probe printed, nobody who reads these is misled: a plugin's text is one line with at most one ``|``
and further lines without any, tuples and JSON hold as many results as were given. A ``|`` in text becomes
``¦`` where it would part text from measurements.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pps_agent.probes import json_format, wlcg
from pps_agent.probes.json_format import JsonResult
from pps_agent.probes.output import split_status
from pps_agent.probes.parse import cut_summary, make_safe, restore_output
from pps_agent.probes.perfdata import scan_perfdata
from pps_agent.probes.wlcg import WlcgRecord
from pps_agent.state import ProbeResult
from pps_wire.report import Status

SENSU_LIMIT_BYTES: Final = 16 * 1024
"""What a plugin may print where ARGO hands its results on."""
MIN_LIMIT_BYTES: Final = 4096

_BAR: Final = str.maketrans("|", "¦")
_CUT: Final = "[… {} bytes left out …]"
_NOTES_BYTES: Final = 200
"""Room for the two lines that say what was cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What WLCG tuples say beyond a result: which service was tested, and who gathered it."""

    service_uri: str
    host_name: str
    service_flavour: str
    site_name: str
    gathered_at: str
    vo_name: str = ""
    vo_fqan: str = ""


def render_nagios(results: Sequence[ProbeResult], limit_bytes: int | None = None) -> str:
    """Give the text of a plugin: ``OK - …|time=0.2s`` and further lines, each ended.

    The first result speaks; each of the others has a line. ``limit_bytes`` (not below MIN_LIMIT_BYTES) is the
    most it may take as UTF-8: measurements, from the last, and further lines are cut then, and that is said.
    """
    own, *others = results
    head = _headline(own)
    words = [word.translate(_BAR) for word in scan_perfdata(own.perfdata).printed]
    lines = [f"{other.probe}: {_headline(other)}" for other in others]
    long_text = "\n".join((*lines, *filter(None, [make_safe(own.details).translate(_BAR).strip("\n")])))
    if limit_bytes is not None:
        room = max(limit_bytes, MIN_LIMIT_BYTES) - _size(head) - _NOTES_BYTES
        words, left_out = _fit_words(words, room if not long_text else room // 2)
        long_text = _fit_text(long_text, room - sum(_size(word) + 1 for word in words))
        if left_out:
            long_text = f"[… {left_out} measurements left out …]\n{long_text}".rstrip("\n")
    first = f"{head}|{' '.join(words)}" if words else head
    return f"{first}\n{long_text}\n" if long_text else f"{first}\n"


def render_json(results: Sequence[ProbeResult]) -> str:
    """Give results as JSON v1: an object for one, a list for several."""
    return json_format.render_results(tuple(map(_json_result, results))).decode() + "\n"


def render_wlcg(results: Sequence[ProbeResult], place: Place) -> str:
    """Give results as WLCG tuples, measurements after a ``|`` in the summary."""
    return wlcg.render_records(_record(result, place) for result in results)


def _headline(result: ProbeResult) -> str:
    """Give the status, once, and the summary on one line without a bar."""
    text = strip_status(cut_summary(" ".join(make_safe(result.summary).split()).translate(_BAR)), result.status)
    return f"{result.status.name} - {text}" if text else result.status.name


def strip_status(text: str, status: Status) -> str:
    """Give a summary without the words that say its status: ``DISK OK - fine`` is ``DISK: fine``."""
    word, rest = split_status(text)
    while word is status:
        text = rest
        word, rest = split_status(text)
    return text


def _fit_words(words: list[str], room: int) -> tuple[list[str], int]:
    """Give as many words as fit with a blank after each, and how many do not."""
    kept: list[str] = []
    for word in words:
        room -= _size(word) + 1
        if room < 0:
            break
        kept.append(word)
    return kept, len(words) - len(kept)


def _fit_text(text: str, room: int) -> str:
    """Give the head of a text that is too long, and a line that says how much is missing."""
    raw = text.encode()
    if len(raw) <= room:
        return text
    kept = raw[:room].decode(errors="ignore").rstrip("\n")
    return f"{kept}\n{_CUT.format(len(raw) - _size(kept))}"


def _size(text: str) -> int:
    return len(text.encode())


def _ended_at(result: ProbeResult) -> datetime:
    return (result.started_at + timedelta(seconds=result.duration_s)).replace(microsecond=0)


def _json_result(result: ProbeResult) -> JsonResult:
    return JsonResult(
        metric=result.probe,
        status=json_format.word_of(result.status),
        summary=make_safe(result.summary),
        details=make_safe(result.details),
        perfdata=json_format.describe_perfdata(scan_perfdata(result.perfdata).data),
        timestamp=_ended_at(result),
    )


def _record(result: ProbeResult, place: Place) -> WlcgRecord:
    measured = scan_perfdata(result.perfdata).text
    summary = _real(result.summary).translate(_BAR)
    return WlcgRecord(
        service_uri=place.service_uri,
        host_name=place.host_name,
        service_flavour=place.service_flavour,
        site_name=place.site_name,
        status=result.status,
        metric=result.probe,
        summary=f"{summary}|{measured}" if measured else summary,
        gathered_at=place.gathered_at,
        timestamp=_ended_at(result),
        vo_name=place.vo_name,
        vo_fqan=place.vo_fqan,
        details=_real(result.details),
    )


def _real(text: str) -> str:
    """Give what shown text stands for; the writer of tuples shows it again in its own way."""
    return restore_output(make_safe(text)).decode("utf-8", "surrogateescape")

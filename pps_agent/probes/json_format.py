"""JSON v1 from a probe: one result as an object, or several as a list of objects. Pure.

::

    {"v": 1, "status": "OK", "summary": "put, get and remove took 0.9 s",
     "perfdata": [{"label": "put", "value": 0.4, "unit": "s", "warn": "5", "crit": "10", "min": 0}]}

Rules as for all documents (pps_wire/document.py): unknown fields are ignored, a newer ``v`` is refused as such.
"""

from typing import Annotated, Final, Literal, TypeVar

import msgspec

from pps_agent.probes.perfdata import (
    MAX_LABEL_CHARS,
    MAX_PERFDATA,
    PerfDatum,
    is_label,
    is_unit,
    parse_range,
    render_range,
)
from pps_wire.document import FormatVersion, Moment, decode_document
from pps_wire.errors import WireError
from pps_wire.report import Status

OUTPUT_VERSION: Final = 1

StatusWord = Literal["OK", "WARNING", "CRITICAL", "UNKNOWN"]
StatusNumber = Literal[0, 1, 2, 3]
LabelText = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LABEL_CHARS)]
RangeText = Annotated[str, msgspec.Meta(max_length=800)]
_T = TypeVar("_T")


class Measurement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured value; ``value`` null: it could not be told. ``warn`` and ``crit`` are ranges, e.g. ``@10:20``."""

    label: LabelText
    value: float | None
    unit: Annotated[str, msgspec.Meta(max_length=16)] = ""
    warn: RangeText = ""
    crit: RangeText = ""
    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        if not is_label(self.label):
            raise ValueError("label holds a character that cannot be printed")
        if not is_unit(self.unit) or (self.value is None and self.unit):
            raise ValueError("unit is none: write letters, % or nothing; a value that is null has none")
        for text in filter(None, (self.warn, self.crit)):
            try:
                parse_range(text)
            except WireError as exc:
                raise ValueError(exc.problem) from exc


class JsonResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One result. ``metric`` empty: of the probe itself. ``timestamp`` absent: when the probe ended."""

    # From a factory, because omit_defaults would leave a plain default out of what is written.
    v: FormatVersion = msgspec.field(default_factory=lambda: OUTPUT_VERSION)
    metric: Annotated[str, msgspec.Meta(max_length=128)] = ""
    status: StatusWord | StatusNumber
    summary: str
    details: str = ""
    perfdata: Annotated[tuple[Measurement, ...], msgspec.Meta(max_length=MAX_PERFDATA)] = ()
    timestamp: Moment | None = None


def parse_results(raw: bytes) -> tuple[JsonResult, ...]:
    """Read one result or a list of at least one. Untrusted. Raises: WireError and nothing else, for any bytes.

    The error names the byte where the JSON breaks, or the result and the field that is not as it must be.
    """
    if not raw.lstrip().startswith(b"["):
        return (_decode(raw, _RESULT, "JSON output"),)
    parts = _decode(raw, _PARTS, "JSON output")
    if not parts:
        raise WireError("JSON output", "the list is empty: a run gives at least one result")
    return tuple(_decode(bytes(part), _RESULT, f"JSON result {number}") for number, part in enumerate(parts, 1))


def render_results(results: tuple[JsonResult, ...]) -> bytes:
    """Give the JSON of results: an object for one, else a list."""
    return msgspec.json.encode(results[0] if len(results) == 1 else results)


def status_of(result: JsonResult) -> Status:
    """Give a result's status, whether it was written as a word or as a number."""
    return Status[result.status] if isinstance(result.status, str) else Status(result.status)


def word_of(status: Status) -> StatusWord:
    """Give a status as its word."""
    return _WORDS[status]


def read_perfdata(result: JsonResult) -> tuple[PerfDatum, ...]:
    """Give a result's measurements as values."""
    return tuple(
        PerfDatum(
            label=item.label,
            value=item.value,
            unit=item.unit,
            warn=parse_range(item.warn) if item.warn else None,
            crit=parse_range(item.crit) if item.crit else None,
            minimum=item.min,
            maximum=item.max,
        )
        for item in result.perfdata
    )


def describe_perfdata(data: tuple[PerfDatum, ...]) -> tuple[Measurement, ...]:
    """Give values as measurements of a result."""
    return tuple(
        Measurement(
            label=datum.label,
            value=datum.value,
            unit=datum.unit,
            warn=render_range(datum.warn) if datum.warn else "",
            crit=render_range(datum.crit) if datum.crit else "",
            min=datum.minimum,
            max=datum.maximum,
        )
        for datum in data
    )


def _decode(raw: bytes, decoder: msgspec.json.Decoder[_T], where: str) -> _T:
    """Decode one document; the error tells the byte also where the decoder does not."""
    try:
        raw.decode()
    except UnicodeDecodeError as exc:
        raise WireError(where, f"not UTF-8 (byte {exc.start})") from exc
    try:
        return decode_document(raw, decoder, where, OUTPUT_VERSION)
    except WireError as exc:
        if exc.problem.endswith("truncated"):
            raise WireError(where, f"JSON ends too early (byte {len(raw)})") from exc
        raise


_WORDS: Final[dict[Status, StatusWord]] = {
    Status.OK: "OK",
    Status.WARNING: "WARNING",
    Status.CRITICAL: "CRITICAL",
    Status.UNKNOWN: "UNKNOWN",
}
_RESULT = msgspec.json.Decoder(JsonResult)
_PARTS = msgspec.json.Decoder(list[msgspec.Raw])

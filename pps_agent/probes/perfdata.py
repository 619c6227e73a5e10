"""Performance data of monitoring plugins: labels, values, units, thresholds as ranges. Pure.

::

    'label'=value[UOM];[warn];[crit];[min];[max]
    time=0.2s;1;2;0 'free space'=12%;@0:10;~:5 queue=U

Source: draft-kaestle-monitoring-plugins-interface-04 (range-expression, performance-data-value), with
what the older plugin guidelines allow beyond it: ``''`` for a quote in a quoted label, ``U`` for a value
that could not be told, a sign and an exponent in numbers. Output is untrusted: what does not follow the
grammar is refused as a whole and named; a quoted label is never looked into for further values.
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from pps_wire.errors import WireError

MAX_PERFDATA: Final = 256
MAX_PERFDATA_CHARS: Final = 16_384
MAX_LABEL_CHARS: Final = 256

_NUMBER: Final = r"[+-]?(?:[0-9]{1,350}(?:\.[0-9]{0,350})?|\.[0-9]{1,350})(?:[eE][+-]?[0-9]{1,4})?"
_DATUM: Final = re.compile(
    r"(?P<label>'(?:[^'\n]++|'')++'|[^ \t\n'=|]++)"
    rf"=(?:U|(?P<value>{_NUMBER})(?P<unit>[^ \t\n;=|'\"0-9.,+-]{{1,16}})?)"
    r"(?:;(?P<warn>[^; \t\n]{0,800}))?(?:;(?P<crit>[^; \t\n]{0,800}))?"
    rf"(?:;(?P<low>{_NUMBER})?)?(?:;(?P<high>{_NUMBER})?)?;?(?=[ \t\n]|$)",
)
_RANGE: Final = re.compile(rf"(?P<at>@?)(?:(?P<low>~|{_NUMBER})?(?P<colon>:))?(?P<high>{_NUMBER})?")
_REFUSED: Final = re.compile(r"'(?:[^'\n]++|'')*+'[^ \t\n]*|'[^\n]*|[^ \t\n]+")
"""What is skipped when no datum begins here: a quoted label with what hangs on it, the rest of the line
after a quote that is never closed, or one word."""
_PLAIN: Final = re.compile(r"[^ \t\n'=|]+")
_BLANKS: Final = re.compile(r"[ \t\n]*")


@dataclass(frozen=True, slots=True)
class Range:
    """A threshold. Both bounds belong to the range. ``inside`` (``@``): the alarm is for values within it."""

    low: float = 0.0
    high: float = math.inf
    inside: bool = False


@dataclass(frozen=True, slots=True)
class PerfDatum:
    """One measured value. ``value`` None means the probe could not tell (``U``); it has no unit then."""

    label: str
    value: float | None
    unit: str = ""
    warn: Range | None = None
    crit: Range | None = None
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class Perfdata:
    """What was read: values, the text of each as printed, and the texts that were refused."""

    data: tuple[PerfDatum, ...] = ()
    printed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The values as printed, parted by blanks."""
        return " ".join(self.printed)


def parse_range(text: str) -> Range:
    """Read a range, e.g. ``10``, ``10:``, ``~:10``, ``10:20``, ``@10:20``. Raises: WireError and nothing else."""
    matched = _RANGE.fullmatch(text)
    if matched is None or not (matched["low"] or matched["high"]):
        raise WireError("range", f"{text[:80]!r} is not a range: write 10, 10:, ~:10, 10:20 or @10:20")
    numbers = {name: float(matched[name]) for name in ("low", "high") if matched[name] and matched[name] != "~"}
    if not all(map(math.isfinite, numbers.values())):
        raise WireError("range", f"{text[:80]!r} holds a number that is too large")
    low = numbers.get("low", -math.inf if matched["low"] else 0.0)
    high = numbers.get("high", math.inf)
    if low > high:
        raise WireError("range", f"{text[:80]!r} begins above its end: for values up to {high:g} write ~:{high:g}")
    return Range(low, high, bool(matched["at"]))


def render_range(limits: Range) -> str:
    """Give the shortest text that ``parse_range`` reads back as this range."""
    at = "@" if limits.inside else ""
    high = "" if limits.high == math.inf else render_number(limits.high)
    if limits.low == 0 and high:
        return at + high
    return f"{at}{'~' if limits.low == -math.inf else render_number(limits.low)}:{high}"


def is_in(limits: Range, value: float) -> bool:
    """Tell whether a value lies between the bounds; both belong to the range."""
    return limits.low <= value <= limits.high


def is_exceeded(limits: Range, value: float) -> bool:
    """Tell whether a value raises the alarm: outside the range, or inside where it was written with ``@``."""
    return is_in(limits, value) is limits.inside


def scan_perfdata(text: str) -> Perfdata:
    """Read performance data and tell good from bad. Never fails.

    At most MAX_PERFDATA values in MAX_PERFDATA_CHARS characters; the rest is refused. Of two values with one
    label the first counts.
    """
    found: dict[str, PerfDatum] = {}
    printed: list[str] = []
    refused: list[str] = []
    room = MAX_PERFDATA_CHARS
    position = _skip_blanks(text, 0)
    while position < len(text):
        matched = _DATUM.match(text, position)
        datum = None if matched is None else _read_datum(matched)
        if matched is None or datum is None or datum.label in found or len(found) >= MAX_PERFDATA:
            matched = matched or _REFUSED.match(text, position)
            refused.append(matched[0] if matched else text[position:])
        elif len(matched[0]) >= room:
            refused.append(matched[0])
        else:
            found[datum.label] = datum
            printed.append(matched[0])
            room -= len(matched[0]) + 1
        position = _skip_blanks(text, matched.end() if matched else len(text))
    return Perfdata(tuple(found.values()), tuple(printed), tuple(refused))


def parse_perfdata(text: str) -> tuple[PerfDatum, ...]:
    """Read performance data, e.g. ``time=0.2s;1;2;0 'free space'=12GB``, and leave out what is none."""
    return scan_perfdata(text).data


def render_perfdata(data: tuple[PerfDatum, ...]) -> str:
    """Give the text that ``parse_perfdata`` reads back as these values. Numbers have no exponent, as the draft asks."""
    return " ".join(map(_render_datum, data))


def render_number(value: float) -> str:
    """Give a finite number in digits, exactly and without an exponent, e.g. ``0.00001``."""
    text = repr(value)
    if "e" in text:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")


def is_label(text: str) -> bool:
    """Tell whether a text can be the label of a value: one line, 1 to MAX_LABEL_CHARS characters."""
    return 0 < len(text) <= MAX_LABEL_CHARS and text.isprintable()


def is_unit(text: str) -> bool:
    """Tell whether a text can be the unit of a value; an empty one can."""
    matched = _DATUM.fullmatch(f"a=1{text}")
    return matched is not None and (matched["unit"] or "") == text


def _skip_blanks(text: str, position: int) -> int:
    matched = _BLANKS.match(text, position)
    return matched.end() if matched else position


def _read_datum(matched: re.Match[str]) -> PerfDatum | None:
    """Give the value a match stands for; None where a number or a range in it is none."""
    label = matched["label"]
    if label.startswith("'"):
        label = label[1:-1].replace("''", "'")
    numbers = [float(text) if text else None for text in matched.group("value", "low", "high")]
    if len(label) > MAX_LABEL_CHARS or not all(number is None or math.isfinite(number) for number in numbers):
        return None
    try:
        warn, crit = (parse_range(text) if text else None for text in matched.group("warn", "crit"))
    except WireError:
        return None
    return PerfDatum(label, numbers[0], matched["unit"] or "", warn, crit, numbers[1], numbers[2])


def _render_datum(datum: PerfDatum) -> str:
    label = datum.label
    if _PLAIN.fullmatch(label) is None:
        label = "'" + label.replace("'", "''") + "'"
    value = "U" if datum.value is None else render_number(datum.value) + datum.unit
    ranges = ["" if limits is None else render_range(limits) for limits in (datum.warn, datum.crit)]
    bounds = ["" if bound is None else render_number(bound) for bound in (datum.minimum, datum.maximum)]
    return f"{label}={value};{';'.join((*ranges, *bounds))}".rstrip(";")

"""The keys of ``probe.toml`` for the reference page: defaults asked of the parser, meanings written here.

What the parser knows and this module does not, or the other way round, fails test_probe_metadata.py.
"""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from pps_agent.probes.definition import DEFAULT_LIMITS, ProbeDefinition, Scope, Weight, Where
from pps_agent.probes.definition import Format as OutputFormat
from pps_agent.probes.definition_file import OPTIONS, parse_definition
from pps_agent.probes.protocol import LIMIT_NAMES

PROBE_EXAMPLE: Final = (Path(__file__).parent / "probe.toml").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Row:
    """One key: what it takes, its default, what it means."""

    value: str
    default: str
    meaning: str


def smallest() -> ProbeDefinition:
    """Give the definition that has only what is required: all else is default."""
    definition = parse_definition(b'[probe]\nname = "org.test.x"\n', Path("/x"), [])
    assert definition is not None
    return definition


def _default(field: str) -> str:
    value = getattr(_SMALLEST, field)
    match value:
        case None:
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case int():
            return f"`{value}`"
        case Enum():
            return f'`"{value.value}"`'
        case _:
            return f'`"{value}"`' if isinstance(value, str) else "`[]`"


def _words(kind: type[Enum]) -> str:
    return " or ".join(f'`"{choice.value}"`' for choice in kind)


def _limit(name: str) -> str:
    return f"`{DEFAULT_LIMITS[name]}`" if name in DEFAULT_LIMITS else "none"


_SMALLEST: Final = smallest()
_LIMITS: Final = {
    "cpu_s": "processor time of each process",
    "memory_bytes": "address space of each process",
    "files": "open files of each process",
    "file_bytes": "size of each file it writes",
    "processes": "processes of the probes' user at a time, where that is not the agent's own",
    "directory_bytes": "all that it writes into the directory of its run",
}
_NUMBER = "whole number"
_NAMES = "list of names"
PROBE_METADATA: Final[dict[str, dict[str, Row]]] = {
    "probe": {
        "name": Row("reverse DNS name", "**required**", "what releases, schedulers and results call it"),
        "aliases": Row(_NAMES, _default("aliases"), "further names, e.g. those of SAM or EMI"),
        "version": Row("text", _default("version"), "of the probe itself"),
        "summary": Row("text", _default("summary"), "what it tests, in one line"),
        "service_type": Row("text", _default("service_type"), "WN, UI, CE, SE, BDII, Squid, Site or Agent"),
        "where": Row(_words(Where), _default("where"), "where jobs run, or where the agent runs"),
        "scope": Row(_words(Scope), '`"wn"` on nodes, `"site"` on the head', "what it tests"),
        "vos": Row("list of VOs", _default("vos"), "VOs it is meant for; none: any"),
        "needs_proxy": Row(
            "true or false",
            _default("needs_proxy"),
            "X509_USER_PROXY must name a readable file, else it is UNKNOWN without a start",
        ),
        "depends_on": Row(_NAMES, _default("depends_on"), "probes that must be OK, else it is UNKNOWN without a start"),
        "interval_s": Row(
            _NUMBER,
            "none; a day with `at`",
            "how often the daemon runs it by itself; none: when a release or a person asks",
        ),
        "retry_interval_s": Row(
            _NUMBER, _default("retry_interval_s"), "how soon after a result that is not OK, while attempts are left"
        ),
        "max_attempts": Row(_NUMBER, _default("max_attempts"), "results that are not OK in a row until that counts"),
        "timeout_s": Row(
            _NUMBER, _default("timeout_s"), "time limit of one run; the site's `probes.timeout_s` is its limit"
        ),
        "freshness_s": Row(_NUMBER, "2 * `interval_s` + `timeout_s`", "how long a result counts"),
        "at": Row(
            "time of day, UTC",
            _default("at"),
            "fixed time instead of a splay; `interval_s` is a multiple of a day then",
        ),
        "splay_s": Row(
            _NUMBER, "`interval_s`", "over how long the starts at different agents are spread; 0: not at all"
        ),
        "weight": Row(_words(Weight), _default("weight"), "few heavy ones run at a time (`probes.heavy`)"),
        "format": Row(_words(OutputFormat), _default("format"), "how it speaks on stdout"),
        "matrix": Row(
            '`"releases"`', "none", "run it against production and each installed release, and show the difference"
        ),
        "metrics": Row(_NAMES, _default("metrics"), "further metrics that one run may report"),
    },
    "requires": {
        "commands": Row(
            _NAMES, _default("commands"), "programs that must be in PATH, else it is UNKNOWN without a start"
        ),
        "variables": Row(
            "table: variable = meaning", "empty", "variables that must be set, else it is UNKNOWN without a start"
        ),
    },
    "argument": {
        "variable": Row(
            "variable",
            "**required**",
            "what the value becomes; the loader's, PATH, HOME, PPS_RELEASE… and PPS_PRODUCTION… cannot be set",
        ),
        "form": Row("a form, see below", '`"word"`', "what the value may be"),
        "option": Row(" or ".join(f'`"{option}"`' for option in OPTIONS), "none", "the plugin option it answers to"),
        "help": Row("text", "empty", "what to give, with its unit"),
    },
    "limits": {name: Row(_NUMBER, _limit(name), meaning) for name, meaning in _LIMITS.items() if name in LIMIT_NAMES},
}

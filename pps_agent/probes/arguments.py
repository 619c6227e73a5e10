"""What a caller may set of a probe: plugin options and arguments of requests, checked, as variables. Pure.

A caller names an argument of ``[arguments]`` and gives one text. What passes is one line without control
characters, of the argument's form, and becomes one variable of the probe's environment: never a word of a
command line. Values are untrusted.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Final

from pps_agent.probes.definition import Form, ProbeDefinition
from pps_agent.probes.perfdata import parse_range
from pps_wire.errors import WireError

MAX_VALUE_CHARS: Final = 2048

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_NUMBER: Final = r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?"
_WHOLE_NUMBER: Final = re.compile(_NUMBER, re.ASCII)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:,=+@-]{0,127}", re.ASCII)
_URL: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]{0,31}://(?P<user>[^/?#@]*@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]]+)"
    r"(?::(?P<port>[0-9]+))?(?:[/?#][!-~]*)?",
    re.ASCII,
)
_URL_REFUSED: Final = re.compile(r'[\s"\'<>\\^`{|}]|[^!-~]')


def bind_arguments(definition: ProbeDefinition, values: Mapping[str, str]) -> dict[str, str]:
    """Give the variables that these values set; ``values`` holds texts by the names of arguments.

    Raises: WireError with all faults, and nothing else, for any texts.
    """
    variables: dict[str, str] = {}
    faults: list[str] = []
    for name, value in sorted(values.items()):
        argument = definition.arguments.get(name)
        try:
            if argument is None:
                raise WireError("arguments", _unknown(definition, name))
            check_value(argument.form, value)
            variables[argument.variable] = value
        except WireError as exc:
            faults.append(exc.problem if argument is None else f"{name}: {exc.problem}")
    if faults:
        raise WireError("arguments", "; ".join(faults[:8]))
    return variables


def bind_options(definition: ProbeDefinition, options: Mapping[str, str]) -> dict[str, str]:
    """Give the variables that plugin options (``-H``, ``-p``, ``-u``, ``-w``, ``-c``) set. Raises: WireError."""
    by_option = {argument.option: name for name, argument in definition.arguments.items() if argument.option}
    if unknown := sorted(options.keys() - by_option.keys()):
        known = ", ".join(sorted(by_option)) or "none"
        raise WireError("arguments", f"{definition.name} takes no option {unknown[0]}; it takes: {known}")
    return bind_arguments(definition, {by_option[option]: value for option, value in options.items()})


def check_value(form: Form, value: str) -> None:
    """Refuse a text that is not of this form. Raises: WireError and nothing else."""
    if len(value) > MAX_VALUE_CHARS:
        raise WireError("argument", f"has {len(value)} characters, at most {MAX_VALUE_CHARS} are allowed")
    is_right, wanted = _FORMS[form]
    if not is_right(value):
        raise WireError("argument", f"{value[:80]!r} is not {wanted}")


def describe_form(form: Form) -> str:
    """Give what a text of this form must be, for people."""
    return _FORMS[form][1]


def _unknown(definition: ProbeDefinition, name: str) -> str:
    import difflib  # only on the way to an error

    close = difflib.get_close_matches(name, definition.arguments, 1)
    known = ", ".join(sorted(definition.arguments)) or "none"
    hint = f"did you mean {close[0]}?" if close else f"it takes: {known}"
    return f"{definition.name} takes no argument {name[:80]!r}; {hint}"


def _is_host(value: str) -> bool:
    if len(value) > 253:
        return False
    if value.strip("[]") != value:
        return value[0] + value[-1] == "[]" and _is_address(value[1:-1], 6)
    if ":" in value:
        return _is_address(value, 6)
    if value.rstrip(".").rpartition(".")[2].isdigit():  # no host's last part is a number: it must be an address
        return _is_address(value, 4)
    return _HOST.fullmatch(value) is not None


def _is_address(value: str, version: int) -> bool:
    if "%" in value:  # a zone names an interface of the caller's machine
        return False
    try:
        return ipaddress.ip_address(value).version == version
    except ValueError:
        return False


def _is_port(value: str) -> bool:
    return _PORT.fullmatch(value) is not None and int(value) <= 65_535


def _is_url(value: str) -> bool:
    if _URL_REFUSED.search(value):
        return False
    found = _URL.fullmatch(value)
    if found is None or ":" in (found["user"] or "") or not _is_host(found["host"]):
        return False
    return found["port"] is None or _is_port(found["port"])


def _is_number(value: str) -> bool:
    return _WHOLE_NUMBER.fullmatch(value) is not None


def _is_word(value: str) -> bool:
    return _WORD.fullmatch(value) is not None


def _is_path(value: str) -> bool:
    return value.startswith("/") and len(value) <= 1024 and value.isprintable() and ".." not in value.split("/")


def _is_range(value: str) -> bool:
    try:
        parse_range(value)
    except WireError:
        return False
    return True


_FORMS: Final[Mapping[Form, tuple[Callable[[str], bool], str]]] = {
    Form.HOST: (_is_host, "a host: write a name as se01.example.org, or an IP address"),
    Form.PORT: (_is_port, "a port: write a number from 1 to 65535"),
    Form.URL: (_is_url, "an address as root://se01.example.org:1094//directory, without a password in it"),
    Form.NUMBER: (_is_number, "a number: write e.g. 30 or 2.5"),
    Form.WORD: (_is_word, "one word of letters, digits and _ . : , = + @ -, at most 128 of them"),
    Form.PATH: (_is_path, "an absolute path without '..' and control characters, of at most 1024 characters"),
    Form.RANGE: (_is_range, "a range: write 10, 10:, ~:10, 10:20 or @10:20"),
}

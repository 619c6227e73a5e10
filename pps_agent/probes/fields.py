"""Lines of a byte stream, and typed reads out of the JSON object on each. Pure; standard library only."""

import base64
import binascii
import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Final, NoReturn

from pps_wire.errors import WireError

MAX_LINE_BYTES: Final = 1024**2
MAX_WHOLE: Final = 2**62


class LineBuffer:
    """Cuts a byte stream into lines of at most MAX_LINE_BYTES."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Give the lines that are complete now. Raises: WireError when one is too long."""
        *lines, self._pending = (self._pending + chunk).split(b"\n") if b"\n" in chunk else [self._pending + chunk]
        for line in lines:
            if len(line) > MAX_LINE_BYTES:
                refuse(f"a line of {len(line)} bytes; at most {MAX_LINE_BYTES} are allowed")
            yield line
        if len(self._pending) > MAX_LINE_BYTES:
            refuse(f"a line of more than {MAX_LINE_BYTES} bytes")


class Fields:
    """One decoded object; every reader takes a key out and checks its type. Raises: WireError and nothing else."""

    __slots__ = ("_left", "_where")

    def __init__(self, line: bytes, where: str) -> None:
        self._where = where
        try:
            decoded = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as exc:
            raise WireError(f"runner {where}", f"not JSON: {exc}") from exc
        if not isinstance(decoded, dict):
            refuse(f"the {where} is not an object")
        self._left: dict[str, object] = decoded

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def _take(self, key: str) -> object:
        if key not in self._left:
            refuse(f"the {self._where} has no {key!r}")
        return self._left.pop(key)

    def finish(self) -> None:
        """Refuse what nobody took."""
        if self._left:
            refuse(f"the {self._where} has unknown keys: {', '.join(sorted(self._left))[:200]}")

    def text(self, key: str, default: str | None = None) -> str:
        """Take a text without NUL. Of all readers: where there is a default, the key may be absent."""
        if default is not None and key not in self._left:
            return default
        return checked_text(self._take(key), key)

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of texts."""
        value = self._take(key)
        if not isinstance(value, list):
            refuse(f"{key!r} is not a list")
        return tuple([checked_text(item, key) for item in value])

    def text_map(self, key: str) -> dict[str, str]:
        """Take an object whose values are texts."""
        value = self._take(key)
        if not isinstance(value, dict):
            refuse(f"{key!r} is not an object")
        for name, item in value.items():
            checked_text(name, key)
            checked_text(item, key)
        return value

    def variables(self, key: str) -> dict[str, str]:
        """Take environment variables: names without ``=``."""
        variables = self.text_map(key)
        check_names(variables, key)
        return variables

    def octets_map(self, key: str) -> dict[str, bytes]:
        """Take variables whose values are bytes; the key may be absent."""
        if key not in self._left:
            return {}
        return {name: _decoded(value, key) for name, value in self.variables(key).items()}

    def whole_map(self, key: str, allowed: Collection[str]) -> Mapping[str, int]:
        """Take an object of positive whole numbers under allowed names."""
        value = self._take(key)
        if not isinstance(value, dict) or any(name not in allowed for name in value):
            refuse(f"{key!r} is not an object of {', '.join(allowed)}")
        for number in value.values():
            if type(number) is not int or not 0 < number <= MAX_WHOLE:
                refuse(f"a number in {key!r} is not a positive whole one")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """Take a whole number that is not negative."""
        if default is not None and key not in self._left:
            return default
        value = self._take(key)
        if type(value) is not int or not 0 <= value <= MAX_WHOLE:
            refuse(f"{key!r} is not a whole number")
        return value

    def optional_integer(self, key: str) -> int | None:
        """Take a whole number; the key may be absent."""
        return self.integer(key) if key in self._left else None

    def number(self, key: str, default: float | None = None) -> float:
        """Take a finite number."""
        if default is not None and key not in self._left:
            return default
        value = self._take(key)
        if type(value) not in (int, float) or not math.isfinite(number := _as_float(value)):
            refuse(f"{key!r} is not a number")
        return number

    def truth(self, key: str) -> bool:
        """Take true or false; absent is false."""
        value = self._left.pop(key, False)
        if not isinstance(value, bool):
            refuse(f"{key!r} is not true or false")
        return value

    def octets(self, key: str) -> bytes:
        """Take bytes written as base64; absent is none."""
        return _decoded(self.text(key, ""), key)


def checked_text(value: object, key: str) -> str:
    """Give a value back that is text a program can be given. Raises: WireError."""
    if not isinstance(value, str) or "\0" in value:
        refuse(f"{key!r} holds something that is not text without NUL")
    if value.isascii():
        return value
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise WireError("runner", f"{key!r} holds a lone surrogate: {exc.reason}") from exc
    return value


def check_names(names: Collection[str], key: str) -> None:
    """Refuse what cannot be the name of a variable. Raises: WireError."""
    if any(not name or "=" in name for name in names):
        refuse(f"a name in {key!r} is empty or holds '='")


def render_line(message: Mapping[str, object]) -> bytes:
    """Give one message as a line of JSON."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def render_bounded(message: Mapping[str, object]) -> bytes:
    """Give one message as a line. Raises: WireError when it is longer than a line may be."""
    if len(line := render_line(message)) > MAX_LINE_BYTES:
        refuse(f"arguments and environment take {len(line)} bytes; at most {MAX_LINE_BYTES} are allowed")
    return line


def refuse(problem: str) -> NoReturn:
    """Raise what says that a message is not as described."""
    raise WireError("runner", problem)


def _decoded(value: str, key: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise WireError("runner", f"{key!r} is not base64: {exc}") from exc


def _as_float(value: object) -> float:
    if not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf

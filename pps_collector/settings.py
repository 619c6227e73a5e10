"""The collector's settings: one frozen value from one TOML file and the command line's options.

All faults are listed together, as ``path:line: text``; an unknown key is one of them.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from pps_collector.errors import ConfigError

DEFAULT_FILE: Final = Path("/etc/pps-collector/collector.toml")
_NAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")
_SCHEMES = ("sqlite", "postgresql")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole tree; flat, since there is little to set."""

    state: Path = field(
        default=Path("/var/lib/pps-collector"),
        metadata={"help": "directory of the collector's own certificate authority and embedded database"},
    )
    database: str = field(
        default="", metadata={"help": "sqlite:///PATH or postgresql://HOST/NAME; empty: SQLite in the state directory"}
    )
    listen: Address = field(
        default=Address("127.0.0.1", 8443), metadata={"help": "HOST:PORT of the agents' API (TLS); port 0: a free one"}
    )
    pages: Address = field(
        default=Address("127.0.0.1", 8080), metadata={"help": "HOST:PORT of pages and health; plain HTTP, so loopback"}
    )
    names: tuple[str, ...] = field(
        default=(), metadata={"help": "further host names and addresses for the server certificate"}
    )
    silent_after_s: int = field(default=3 * 3600, metadata={"help": "a site silent for longer is shown as NO DATA"})
    queue_bytes: int = field(
        default=64 * 1024**2, metadata={"help": "batches waiting to be written; beyond it agents are told to wait"}
    )

    @property
    def database_url(self) -> str:
        """The database's URL with the default filled in. May hold a password: never log it."""
        return self.database or f"sqlite:///{self.state}/collector.db"


def load_settings(file: Path | None, options: Mapping[str, str | None]) -> Settings:
    """Read the file, then put the given options over it.

    Without ``file`` the default one is read when it exists. Raises: ConfigError listing all faults.
    """
    path = file or DEFAULT_FILE
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as exc:
        if file is not None:
            raise ConfigError([f"{path}: no such file; name the settings file with --config"]) from exc
        text = ""
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError([f"{path}: {exc}; make it a readable UTF-8 file"]) from exc
    return parse_settings(text, str(path), {key: value for key, value in options.items() if value is not None})


def parse_settings(text: str, where: str, options: Mapping[str, str]) -> Settings:
    """Build the settings from a file's text and options, e.g. ``{"listen": "127.0.0.1:0"}``.

    Raises: ConfigError listing all faults of both.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError([f"{where}: {exc}; mend the TOML"]) from exc
    faults: list[str] = []
    values: dict[str, Any] = {}
    given = [(key, value, f"{where}:{_line_of(text, key)}") for key, value in table.items()]
    given += [(key, value, f"--{key}") for key, value in options.items()]
    known = [one.name for one in fields(Settings)]
    for key, value, place in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
            faults.append(f"{place}: unknown key {key}; {hint}")
            continue
        try:
            values[key] = _READERS[key](value)
        except ValueError as exc:
            faults.append(f"{place}: {key}: {exc}")
    if faults:
        raise ConfigError(faults)
    return Settings(**values)


def _line_of(text: str, key: str) -> int:
    pattern = re.compile(rf"^\s*\[*\s*[\"']?{re.escape(key)}[\"']?\s*[\].=]")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _read_path(value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("write a path in quotes")
    return Path(value).absolute()


def _read_database(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("write a URL in quotes, sqlite:///PATH or postgresql://HOST/NAME")
    scheme = value.partition(":")[0].partition("+")[0]
    if value and scheme not in _SCHEMES:
        raise ValueError(f"{scheme!r} is not supported; use sqlite:///PATH or postgresql://HOST/NAME")
    # psycopg 3 is the one driver that is shipped.
    return f"postgresql+psycopg:{value.partition(':')[2]}" if scheme == "postgresql" else value


def _read_address(value: object) -> Address:
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{value!r} is not an address; write HOST:PORT, e.g. 127.0.0.1:8443")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def _read_names(value: object) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [None]
    if not all(isinstance(name, str) and (_NAME.match(name) or ":" in name) for name in names):
        raise ValueError('write a list of host names or addresses, e.g. ["pps.example.org"]')
    return tuple(names)


def _read_seconds(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 60:
        raise ValueError(f"{value!r} is not a time; write whole seconds, at least 60")
    return value


def _read_queue(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1024**2:
        raise ValueError(f"{value!r} is not a size; write bytes, at least {1024**2}")
    return value


_READERS: Final[dict[str, Callable[[object], Any]]] = {
    "state": _read_path,
    "database": _read_database,
    "listen": _read_address,
    "pages": _read_address,
    "names": _read_names,
    "silent_after_s": _read_seconds,
    "queue_bytes": _read_queue,
}

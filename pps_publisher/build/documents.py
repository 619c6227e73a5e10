"""Files a release manager writes by hand: what changed (``--changes``) and the environment (``--environment``).

A changes file, all keys optional::

    effort_ph = 24
    effort_validated = true
    variables_old = { GLITE_WMS = "wms1" }
    variables_new = { GLITE_WMS = "wms2" }
    flags = { environment-change = true }

    [[fixes]]
    id = "bug:96306"
    severity = "major"
    summary = "xrdcp hangs on an empty file"

    [[config_steps]]
    id = "open-port"
    text = "Open port 1094 to the node network."
    check = ["nc", "-z", "localhost", "1094"]

An environment file::

    prepend = { PATH = ["bin"] }
    assign = { GFAL_CONFIG_DIR = "etc/gfal2.d" }
"""

from pathlib import Path
from typing import TypeVar

import msgspec

from pps_publisher.errors import ConfigError
from pps_wire.release import Changes, ConfigStep, Overlay


class ChangesFile(Changes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a changes file: the classifier's input and the configuration steps."""

    config_steps: tuple[ConfigStep, ...] = ()

    def changes(self) -> Changes:
        """Give the part that goes into the release's ``changes``."""
        return Changes(**{name: getattr(self, name) for name in Changes.__struct_fields__})


class _EnvironmentFile(Overlay, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of an environment file."""


_T = TypeVar("_T", ChangesFile, _EnvironmentFile)


def load_changes(path: Path) -> ChangesFile:
    """Read a changes file. Raises: ConfigError naming file and field."""
    return _load(path, ChangesFile)


def load_environment(path: Path) -> Overlay:
    """Read an environment file. Raises: ConfigError naming file and field."""
    found = _load(path, _EnvironmentFile)
    return Overlay(prepend=found.prepend, assign=found.assign)


def _load(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind)
    except OSError as exc:
        raise ConfigError([f"{path}: {exc.strerror}; name a readable TOML file"]) from exc
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ConfigError([f"{path}: {exc}; allowed keys: {', '.join(kind.__struct_fields__)}"]) from exc

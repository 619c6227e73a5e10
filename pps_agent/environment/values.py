"""What capture, compose and render hand to one another. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BASE_PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")
"""PATH of the throw-away shell and of probes: what every node has without any profile."""

NO_HOME: Final = "/nonexistent"
"""HOME of the throw-away shell. A value that mentions it belongs to one person, so it is left out."""


@dataclass(frozen=True, slots=True)
class Captured:
    """What sourcing the site's profile files set or changed, against a shell that sourced none.

    ``problems`` are lines for the administrator: files that were skipped, and why.
    """

    variables: Mapping[str, str]
    files: tuple[Path, ...] = ()
    fingerprint: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Composed:
    """The environment of one release: single values to set, and entries that lead colon-separated lists.

    The entries of ``prepend`` stand in the order of search: the release's own, then the site's.
    ``dropped`` names what the site sets and previews do not inherit, ``inherited`` the single values they do.
    """

    release: str
    tree: Path
    assign: Mapping[str, str]
    prepend: Mapping[str, tuple[str, ...]]
    dropped: tuple[str, ...] = field(default=())
    inherited: tuple[str, ...] = field(default=())

"""Which paths and link targets a manifest may hold: those that mean one thing on every system, below its tree."""

import re
import unicodedata
from typing import Final

from pps_wire.errors import WireError

MAX_PATH_BYTES: Final = 4095
"""Linux counts the final NUL in its PATH_MAX of 4096."""
MAX_NAME_BYTES: Final = 255
MAX_DEPTH: Final = 128
"""Deepest path: one descriptor a level is needed to write and to remove it."""

_REFUSED_CATEGORIES: Final = frozenset(("Cc", "Cf", "Cn", "Cs", "Zl", "Zp"))
# Default ignorable characters outside category Cf: file systems that fold case pass over them.
# Source: Unicode, DerivedCoreProperties.txt.
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Nearly all paths of real trees: nothing below needs to be asked of them but their length.
_PLAIN: Final = re.compile(r"(?!\.)[\w.+,@=~-]{1,200}(?:/(?!\.)[\w.+,@=~-]{1,200}){0,15}", re.ASCII)


def lint_path(path: str) -> None:
    """Refuse a path that is not plainly below its root, or that is too long or too deep. Raises: WireError."""
    if _PLAIN.fullmatch(path) and len(path) <= MAX_PATH_BYTES:
        return
    if not path or path.startswith("/") or path.endswith("/"):
        raise WireError(path or "path", "must be relative, not empty, without a final slash")
    lint_text(path)
    names = path.split("/")
    if len(names) > MAX_DEPTH:
        raise WireError(path[:80], f"lies deeper than {MAX_DEPTH} levels")
    for name in names:
        if name in ("", ".", ".."):
            raise WireError(path, "has an empty, '.' or '..' component")
        if len(name.encode()) > MAX_NAME_BYTES:
            raise WireError(path, f"has a component of more than {MAX_NAME_BYTES} bytes")


def lint_text(text: str) -> None:
    """Refuse text that hides something or has two spellings. Raises: WireError."""
    if text.isascii() and text.isprintable():
        pass
    elif _INVISIBLE.search(text) or any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in text):
        raise WireError(ascii(text[:80]), "holds control, invisible, surrogate or unassigned characters")
    if "\\" in text:
        raise WireError(text, "holds a backslash")
    if unicodedata.normalize("NFC", text) != text:
        raise WireError(text, "is not in Unicode form NFC")
    if len(text.encode()) > MAX_PATH_BYTES:
        raise WireError(text[:80], f"is longer than {MAX_PATH_BYTES} bytes")


def fold(path: str) -> str:
    """Give what paths have in common where case and Unicode form are not kept (NFKC_Casefold, Unicode 3.13)."""
    if path.isascii():
        return path.lower()
    folded = unicodedata.normalize("NFKC", path).casefold()
    while (again := unicodedata.normalize("NFKC", folded).casefold()) != folded:
        folded = again
    return folded

"""Secrets taken out of what a probe said. Pure.

A probe may print what it was given, on purpose or in an error message. Each secret is looked for as it is,
as base64 of itself at any offset, and as URLs and JSON write it; the longest form goes first, so that none
leaves a recognisable rest.
"""

import base64
import json
import re
import string
from collections.abc import Iterable
from typing import Final

MIN_SECRET_CHARACTERS: Final = 4
"""Shorter ones would be found everywhere, and their places in a text would give them away."""
MASK: Final = "[secret]"
_MIN_FORM_CHARACTERS: Final = 4
_UNRESERVED: Final = frozenset(string.ascii_letters + string.digits + "-._~")
_PERCENT: Final = re.compile("%[0-9A-F]{2}")


class Redactor:
    """Takes the same secrets out of many texts."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Raises: ValueError for a secret that is too short to be hidden."""
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) < MIN_SECRET_CHARACTERS:
                raise ValueError(f"a secret has fewer than {MIN_SECRET_CHARACTERS} characters: it cannot be hidden")
            forms |= forms_of(secret)
        ordered = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to hide."""
        return self._pattern is None

    def redact(self, text: str) -> str:
        """Give the text with a mask in place of each secret."""
        if self._pattern is None:
            return text
        return self._pattern.sub(MASK, text)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Give the text with a mask in place of each secret. Raises: ValueError for a secret that is too short."""
    return Redactor(secrets).redact(text)


def forms_of(secret: str) -> set[str]:
    """Give how a secret may look in a text: itself, its lines, and its encodings."""
    stripped = secret.strip()
    lines = {line.strip() for line in secret.splitlines()}
    forms = set[str]()
    for text in {secret, stripped, *lines}:
        if len(text) >= MIN_SECRET_CHARACTERS:
            octets = text.encode("utf-8", "surrogateescape")
            forms |= {text, json.dumps(text)[1:-1], repr(text)[1:-1]}
            quoted = {_quote(octets, safe) for safe in ("", "/")}
            quoted |= {form.replace("%20", "+") for form in quoted}
            forms |= quoted | {_PERCENT.sub(lambda match: match[0].lower(), form) for form in quoted}
            forms |= _base64_forms(octets) | {octets.hex(), octets.hex().upper()}
    return {form for form in forms if len(form) >= _MIN_FORM_CHARACTERS}


def _quote(octets: bytes, safe: str) -> str:
    """Write bytes as URLs do (RFC 3986, section 2.1)."""
    kept = _UNRESERVED.union(safe)
    return "".join(chr(octet) if chr(octet) in kept else f"%{octet:02X}" for octet in octets)


def _base64_forms(octets: bytes) -> set[str]:
    """Give what base64 of any text around these bytes must contain, for each of the three offsets."""
    forms = set[str]()
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + octets).decode()
        # The first characters hold bits of what comes before, the last ones of what comes after.
        first = (0, 2, 3)[offset]
        whole = (offset + len(octets)) * 8 // 6
        form = encoded[first:whole]
        forms |= {form, form.replace("+", "-").replace("/", "_")}
    forms.add(base64.b64encode(octets).decode())
    return forms

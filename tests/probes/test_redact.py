"""Secrets do not survive in what is shown, however they were written."""

import base64
import json
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pps_agent.probes.redact import MASK, MIN_SECRET_CHARACTERS, Redactor, redact

_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_secrets = st.text(st.characters(exclude_categories=["Cs"]), min_size=MIN_SECRET_CHARACTERS, max_size=40)
_plain = st.text("abcXYZ019_-./+=%", min_size=8, max_size=40)

WRITTEN = {
    "as it is": lambda secret: secret,
    "url": lambda secret: urllib.parse.quote(secret, safe=""),
    "url path": urllib.parse.quote,
    "form": urllib.parse.quote_plus,
    "json": lambda secret: json.dumps(secret)[1:-1],
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
    "hex": lambda secret: secret.encode().hex(),
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
@given(before=_words, secret=_secrets, after=_words)
def test_a_secret_is_gone_however_it_was_written(
    written: Callable[[str], str], before: str, secret: str, after: str
) -> None:
    form = written(secret)
    assume(form not in MASK)
    assert form not in redact(f"{before} {form} {after}", [secret]).replace(MASK, "\0")


@given(before=st.binary(max_size=10), secret=_plain, after=st.binary(max_size=10))
def test_a_secret_inside_of_something_that_was_encoded_as_a_whole_cannot_be_read_from_it(
    before: bytes, secret: str, after: bytes
) -> None:
    encoded = base64.b64encode(before + secret.encode() + after).decode()
    left = redact(f"Authorization: Basic {encoded}", [secret])
    assert MASK in left
    assert secret not in left


@given(text=st.text(" .,;:!?(){}", max_size=200), secrets=st.lists(st.text("abcxyz", min_size=4), max_size=4))
def test_what_is_no_secret_stays(text: str, secrets: list[str]) -> None:
    assert redact(text, secrets) == text


@given(text=_words)
def test_without_secrets_nothing_changes(text: str) -> None:
    assert redact(text, []) == text


@given(secret=_plain, more=st.text("abc019", min_size=1, max_size=10))
def test_of_two_secrets_one_within_the_other_no_rest_is_left(secret: str, more: str) -> None:
    longer = secret + more
    assert redact(f"<{longer}> <{secret}>", [secret, longer]) == f"<{MASK}> <{MASK}>"


def test_a_file_s_lines_are_each_a_secret() -> None:
    key = "-----BEGIN KEY-----\nMIIabcdefgh\nQUJDREVGR0g=\n-----END KEY-----\n"
    assert redact("error near MIIabcdefgh!", [key]) == f"error near {MASK}!"
    assert redact(f"<{key}>", [key]) == f"<{MASK}>"


@pytest.mark.parametrize("secret", ["", "a", "abc"])
def test_a_secret_too_short_to_be_hidden_is_not_accepted(secret: str) -> None:
    with pytest.raises(ValueError, match="fewer than 4 characters"):
        Redactor([secret])

"""Reads a request's body with a limit, and leaves a refused one politely."""

import asyncio
from typing import Final

from litestar.types import Receive, Scope, Send

_READ_TIMEOUT_S: Final = 60
_LINGER_S: Final = 2
_LINGER_BYTES: Final = 8 * 1024**2


class BodyTooLargeError(Exception):
    """The body is, or says it is, larger than allowed; ``is_read`` when nothing of it is left to come."""

    def __init__(self, *, is_read: bool) -> None:
        super().__init__()
        self.is_read = is_read


class BodyCutError(Exception):
    """The client went away, or took too long to send."""


def header(scope: Scope, name: bytes) -> str:
    """Give a request header's first value, or an empty string."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """Give the body as it travelled. Raises: BodyTooLargeError, BodyCutError."""
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise BodyTooLargeError(is_read=False)
    body = bytearray()
    try:
        async with asyncio.timeout(_READ_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise BodyCutError
                body += message.get("body", b"")
                is_read = not message.get("more_body", False)
                if len(body) > limit_bytes:
                    raise BodyTooLargeError(is_read=is_read)
                if is_read:
                    return bytes(body)
    except TimeoutError as exc:
        raise BodyCutError from exc


async def answer(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    """Send a JSON answer."""
    await _start(send, status, body, headers)
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def answer_early(receive: Receive, send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    """Send a JSON answer although the client may still be sending, then close.

    Closing at once would reset the connection and the client might never see the answer, so a
    bounded rest is thrown away first.
    """
    await _start(send, status, body, headers | {"connection": "close"})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    left = _LINGER_BYTES
    try:
        async with asyncio.timeout(_LINGER_S):
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    break
                left -= len(message.get("body", b""))
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _start(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    all_headers = {"content-type": "application/json", "content-length": str(len(body))} | headers
    raw = [(name.encode(), value.encode("latin-1")) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})

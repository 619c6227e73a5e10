"""The payload: one file of Python text that any batch system takes, and the document it prints. Pure.

The text is ``probes/node_run.py`` with an interpreter line and the request in it, so that whoever wonders can
read what a job does. Same request, same bytes. What comes back is untrusted: see ``parse_document``.
"""

import base64
import hashlib
import textwrap
import zlib
from typing import Final, NoReturn

import msgspec

from pps_wire.errors import WireError
from pps_wire.node import MAX_DOCUMENT_BYTES, MAX_REQUEST_BYTES, NodeDocument, NodeRequest, parse_node_document

MAX_OUTPUT_BYTES: Final = MAX_DOCUMENT_BYTES + 1024**2
"""Of a job's standard output that is read: a document and what prologues, epilogues and modules say around it."""

_BEGIN: Final = "-----BEGIN PPS NODE DOCUMENT {}-----"
_END: Final = "-----END PPS NODE DOCUMENT {}-----"
_ANY_BEGIN: Final = b"-----BEGIN PPS NODE DOCUMENT "
_REQUEST_LINE: Final = '\nREQUEST = ""\n'
_DIGEST_LINE: Final = '\nDIGEST = ""\n'
_WIDTH: Final = 100


def render_payload(request: NodeRequest, source: str, python: str) -> str:
    """Give the payload: ``source`` is the text of node_run.py, ``python`` the interpreter on the node.

    Raises: WireError when the request is larger than a batch system should be given.
    """
    raw = msgspec.json.encode(request)
    if len(raw) > MAX_REQUEST_BYTES:
        raise WireError("node request", f"{len(raw)} bytes; at most {MAX_REQUEST_BYTES}: give nodes fewer probes")
    packed = base64.b64encode(zlib.compress(raw, 9)).decode()
    digest = hashlib.sha256(packed.encode()).hexdigest()
    if source.count(_REQUEST_LINE) != 1 or source.count(_DIGEST_LINE) != 1:
        raise AssertionError("node_run.py has lost the places for request and digest")
    body = "\n".join(textwrap.wrap(packed, _WIDTH))
    text = source.replace(_REQUEST_LINE, f'\nREQUEST = """\n{body}\n"""\n').replace(
        _DIGEST_LINE, f'\nDIGEST = "{digest}"\n'
    )
    return f"#!{python} -IS\n{text}"


def parse_document(output: bytes, nonce: str) -> NodeDocument:
    """Find the one document in a job's output and read it. Raises: WireError and nothing else, for any bytes.

    Text around it is passed over. Two documents, one of another request, and one without its last line are
    refused: somebody else wrote there, or the job was cut short.
    """
    if len(output) > MAX_OUTPUT_BYTES:
        _refuse(f"the job printed more than {MAX_OUTPUT_BYTES} bytes")
    begins = [line for line in output.split(b"\n") if line.startswith(_ANY_BEGIN)]
    if not begins:
        _refuse("the job printed no document")
    if len(begins) > 1:
        _refuse("the job printed more than one document")
    begin, end = (f"\n{form.format(nonce)}\n".encode() for form in (_BEGIN, _END))
    _, found, rest = (b"\n" + output).partition(begin)
    if not found:
        _refuse("the document answers another request")
    body, found, _ = (b"\n" + rest + b"\n").partition(end)
    if not found:
        _refuse("the document breaks off: the job was cut short or the disk is full")
    document = parse_node_document(body)
    if document.nonce != nonce:
        _refuse("the document answers another request")
    return document


def _refuse(problem: str) -> NoReturn:
    raise WireError("node document", problem)

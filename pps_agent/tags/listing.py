r"""The text of one tag list, ``<vo>/<vo>.list``: pure functions over its bytes.

Grammar, as the readers of these files implement it: tokens parted by white space, several on a
line allowed; lines whose first token starts with ``#`` are comments; the last line may lack its
newline. Sample: ``b"# by hand\nVO-dteam-a VO-dteam-b\nVO-dteam-c"``. Lines and tokens that are
no tag of the VO belong to somebody else: they are kept byte for byte and never hide the others.
Source: cream-utils, glite-ce-glue1-applicationsoftware-env (CREAM bugs 59871 and 96306).
"""

import re
from collections.abc import Iterable
from typing import Final

from pps_wire import names
from pps_wire.errors import WireError
from pps_wire.names import Tag, Vo

_BOM: Final = b"\xef\xbb\xbf"
_LINE: Final = re.compile(rb"[^\n]*\n|[^\n]+")
_TOKEN: Final = re.compile(rb"[ \t\r\f\v]*([^ \t\r\f\v\n]+)")


def parse_tokens(content: bytes) -> tuple[bytes, ...]:
    """Give every token outside comments, in file order, repeats included. Takes any bytes."""
    lines = _LINE.findall(content.removeprefix(_BOM))
    return tuple(token for line in lines if not _is_comment(line) for token in line.split())


def parse_tags(content: bytes, vo: Vo) -> tuple[Tag, ...]:
    """Give the valid tags of ``vo``, in file order, each once. Takes any bytes."""
    found: dict[Tag, None] = {}
    for token in parse_tokens(content):
        try:
            found[names.parse_tag(token.decode("ascii"), vo)] = None
        except (UnicodeDecodeError, WireError):
            continue  # another tool's token: not ours to judge, see the grammar above
    return tuple(found)


def with_tags(content: bytes, tags: Iterable[Tag]) -> bytes:
    """Append tags, one a line; unchanged when there are none, else with a final newline."""
    lines = b"".join(tag.encode("ascii") + b"\n" for tag in tags)
    if not lines:
        return content
    gap = b"" if not content or content.endswith(b"\n") else b"\n"
    return content + gap + lines


def without_tags(content: bytes, tags: Iterable[Tag]) -> bytes:
    """Take out every occurrence of the tags; unchanged when there is none, else with a final newline.

    A line that held nothing else goes as a whole; other tokens of a line keep their spacing.
    """
    unwanted = {tag.encode("ascii") for tag in tags}
    bom = _BOM if content.startswith(_BOM) else b""
    kept = bom + b"".join(_without(line, unwanted) for line in _LINE.findall(content.removeprefix(_BOM)))
    if kept == content or not kept.removeprefix(bom):
        return kept
    return kept if kept.endswith(b"\n") else kept + b"\n"


def case_variant(tag: Tag, tokens: Iterable[bytes]) -> str:
    """Give the token that differs from ``tag`` in letter case only, or an empty text.

    slapd compares these values without regard to case and refuses the whole modification on such
    a pair, which would freeze the tags of every VO of the subcluster.
    """
    wanted = tag.encode("ascii")
    folded = wanted.lower()
    for token in tokens:
        if token.lower() == folded and token != wanted:
            return token.decode("ascii")
    return ""


def _without(line: bytes, unwanted: set[bytes]) -> bytes:
    tokens = line.split()
    if _is_comment(line) or unwanted.isdisjoint(tokens):
        return line
    if unwanted.issuperset(tokens):
        return b""
    rest = _TOKEN.sub(lambda match: b"" if match[1] in unwanted else match[0], line)
    return rest.lstrip(b" \t\r\f\v") if tokens[0] in unwanted else rest


def _is_comment(line: bytes) -> bool:
    return line.lstrip().startswith(b"#")

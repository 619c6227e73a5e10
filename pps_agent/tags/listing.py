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
from pps_wire.names import Tag, Vo

_BOM: Final = b"\xef\xbb\xbf"
_LINE: Final = re.compile(rb"[^\n]*\n|[^\n]+")
_TOKEN: Final = re.compile(rb"[ \t\r\f\v]*([^ \t\r\f\v\n]+)")


def parse_tokens(content: bytes) -> tuple[bytes, ...]:
    """Give every token outside comments, in file order, repeats included. Takes any bytes."""
    text = content.removeprefix(_BOM)
    if b"#" not in text:
        return tuple(text.split())
    lines = _LINE.findall(text)
    return tuple(token for line in lines if not _is_comment(line) for token in line.split())


def parse_tags(content: bytes, vo: Vo) -> tuple[Tag, ...]:
    """Give the valid tags of ``vo``, in file order, each once. Takes any bytes."""
    fits, longest = names.tag_pattern(vo).fullmatch, names.MAX_TAG_LEN
    # Another tool's token is not ours to judge, see the grammar above.
    found = dict.fromkeys(token for token in parse_tokens(content) if fits(token) and len(token) <= longest)
    return tuple(Tag(token.decode("ascii")) for token in found)


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


def find_variant(tags: Iterable[Tag], tokens: Iterable[bytes]) -> tuple[Tag, str] | None:
    """Give a tag and a token that differ in letter case only, if there are such.

    slapd compares these values without regard to case and refuses the whole modification on such
    a pair, which would freeze the tags of every VO of the subcluster.
    """
    wanted = {tag.lower().encode("ascii"): tag for tag in tags}
    for token in tokens:
        tag = wanted.get(token.lower())
        if tag is not None and token != tag.encode("ascii"):
            return tag, token.decode("ascii")
    return None


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

r"""The text of one tag list, ``<vo>/<vo>.list``: pure functions over its bytes.

Grammar, as the readers of these files implement it: tokens parted by white space, several on a
line allowed; lines whose first token starts with ``#`` are comments; the last line may lack its
newline. Sample: ``b"# by hand\nVO-dteam-a VO-dteam-b\nVO-dteam-c"``. Lines and tokens that are
no tag of the VO belong to somebody else: they are kept byte for byte and never hide the others.
Source: cream-utils, glite-ce-glue1-applicationsoftware-env (CREAM bugs 59871 and 96306).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from pps_wire import names
from pps_wire.names import Tag, Vo

_BOM: Final = b"\xef\xbb\xbf"
_LINE: Final = re.compile(rb"[^\n]*\n|[^\n]+")
_COMMENT: Final = re.compile(rb"^[ \t\r\f\v]*#[^\n]*", re.MULTILINE)
_TOKEN: Final = re.compile(rb"[ \t\r\f\v]*([^ \t\r\f\v\n]+)")


def parse_tokens(content: bytes) -> tuple[bytes, ...]:
    """Give every token outside comments, in file order, repeats included. Takes any bytes."""
    return tuple(_without_comments(content).split())


def parse_tags(content: bytes, vo: Vo) -> tuple[Tag, ...]:
    """Give the valid tags of ``vo``, in file order, each once. Takes any bytes."""
    # Another tool's token is not ours to judge, see the grammar above. Latin-1 gives a character for each byte.
    text = _without_comments(content).decode("latin-1")
    return tuple(dict.fromkeys(map(Tag, names.tag_pattern(vo).findall(text))))


def find_present(content: bytes, tags: Iterable[Tag]) -> frozenset[Tag]:
    """Give those of the tags that stand in a list. Takes any bytes."""
    tokens = frozenset(parse_tokens(content))
    return frozenset(tag for tag in tags if tag.encode("ascii") in tokens)


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
    if not unwanted:
        return content
    bom = _BOM if content.startswith(_BOM) else b""
    kept = bom + b"".join(_without(line, unwanted) for line in _LINE.findall(content.removeprefix(_BOM)))
    if kept == content or not kept.removeprefix(bom):
        return kept
    return kept if kept.endswith(b"\n") else kept + b"\n"


def find_variant(tags: Iterable[Tag], tokens: Sequence[bytes]) -> tuple[Tag, str] | None:
    """Give a tag and a token that differ in letter case only, if there are such.

    slapd compares these values without regard to case and refuses the whole modification on such
    a pair, which would freeze the tags of every VO of the subcluster.
    """
    wanted = {tag.lower().encode("ascii"): tag for tag in tags}
    for token, folded in zip(tokens, map(bytes.lower, tokens), strict=True):
        tag = wanted.get(folded)
        if tag is not None and token != tag.encode("ascii"):
            return tag, token.decode("ascii")
    return None


def _without(line: bytes, unwanted: set[bytes]) -> bytes:
    tokens = line.split()
    if unwanted.isdisjoint(tokens) or tokens[0].startswith(b"#"):
        return line
    if unwanted.issuperset(tokens):
        return b""
    rest = _TOKEN.sub(lambda match: b"" if match[1] in unwanted else match[0], line)
    return rest.lstrip(b" \t\r\f\v") if tokens[0] in unwanted else rest


def _without_comments(content: bytes) -> bytes:
    text = content.removeprefix(_BOM)
    return _COMMENT.sub(b"", text) if b"#" in text else text

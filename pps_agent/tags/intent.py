"""What a change is about to do, written down before it does anything: from then on it is done, whoever finishes it.

``<base>/.pps-tags/<vo>/intent.json``. Its edits are harmless when done again, so that the next who opens the lists
finishes a change whose process was killed, and who may only read sees the lists as they will be. Pure; standard
library only.
"""

import json
from typing import Final, NamedTuple

from pps_agent.tags import listing
from pps_agent.tags.audit import Entry, ListEdit, parse_entry
from pps_agent.tags.life import Lives, parse_lives, render_lives
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag, Vo, parse_subcluster, parse_tag

_FORMAT: Final = 1
MAX_LISTS: Final = 1000
"""Lists that one change may be about: whoever finishes it makes their directories, and a VO's manager may plant one."""


class Intent(NamedTuple):
    """A change: the log's line for it, and the VO's entries afterwards (None: they stay)."""

    line: bytes
    lives: Lives | None

    @property
    def entry(self) -> Entry:
        """The change as the log has it."""
        return parse_entry(self.line)


def render_intent(intent: Intent) -> bytes:
    """Give the bytes of the file."""
    lives = None if intent.lives is None else render_lives(intent.lives).decode()
    return json.dumps({"format": _FORMAT, "line": intent.line.decode(), "lives": lives}).encode() + b"\n"


def parse_intent(content: bytes, vo: Vo) -> Intent:
    """Read the file of a VO. Others may have written it. Raises: WireError when it is none of ours."""
    try:
        document = json.loads(content)
        if document["format"] != _FORMAT:
            raise WireError("intent", f"is of format {document['format']!r}, this agent knows {_FORMAT}: update it")
        lives, line = document["lives"], document["line"].encode()
        lists = parse_entry(line).lists
        if len(lists) > MAX_LISTS:
            raise WireError("intent", f"is about {len(lists)} lists, more than {MAX_LISTS}: move it away")
        for edit in lists:
            if edit.subcluster:
                parse_subcluster(edit.subcluster)
            for tag in (*edit.add, *edit.remove):
                parse_tag(tag, vo)
        return Intent(line, None if lives is None else parse_lives(lives.encode(), vo))
    except WireError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise WireError("intent", f"is not what this program writes ({exc}): move it away") from exc


def find_edit(intent: Intent | None, subcluster: Subcluster | None) -> ListEdit | None:
    """Give what a change does to one list (None: the global one), if anything."""
    if intent is None:
        return None
    return next((edit for edit in intent.entry.lists if edit.subcluster == (subcluster or "")), None)


def apply_edit(content: bytes, edit: ListEdit | None) -> bytes:
    """Give a list after the edit. What is done already changes nothing."""
    if edit is None:
        return content
    kept = listing.without_tags(content, map(Tag, edit.remove))
    wanted = [Tag(tag) for tag in edit.add]
    present = listing.find_present(kept, wanted)
    return listing.with_tags(kept, [tag for tag in wanted if tag not in present])

"""Changes of rights in words, in the short form of getfacl; pure."""

from collections.abc import Callable, Iterator

from pps_agent.acl import Acl
from pps_agent.setup.rights import Change

Naming = Callable[[int], str]


def describe_change(change: Change, name_user: Naming, name_group: Naming) -> str:
    """Say what is changed, e.g. ``group dteamsgm, mode 2775, access u::rwx,u:pps-agent:rwx,g::rwx,m::rwx,o::r-x``."""
    return ", ".join(_parts(change, name_user, name_group))


def _parts(change: Change, name_user: Naming, name_group: Naming) -> Iterator[str]:
    if change.made:
        yield "made"
    if change.owner is not None:
        yield f"owner {name_user(change.owner)}"
    if change.group is not None:
        yield f"group {name_group(change.group)}"
    if change.mode is not None:
        yield f"mode {change.mode:04o}"
    if change.access is not None and change.access == change.default:
        yield f"access, also to new files, {_render(change.access, name_user, name_group)}"
        return
    if change.access is not None:
        yield f"access {_render(change.access, name_user, name_group)}"
    if change.default is not None:
        yield f"for new files {_render(change.default, name_user, name_group)}"


def _render(acl: Acl, name_user: Naming, name_group: Naming) -> str:
    entries = [("u", "", acl.owner)]
    entries += [("u", name_user(number), rights) for number, rights in acl.users]
    entries += [("g", "", acl.group)]
    entries += [("g", name_group(number), rights) for number, rights in acl.groups]
    entries += [] if acl.mask is None else [("m", "", acl.mask)]
    entries += [("o", "", acl.other)]
    return ",".join(f"{kind}:{name}:{_letters(rights)}" for kind, name, rights in entries)


def _letters(rights: int) -> str:
    return "".join(letter if rights & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))

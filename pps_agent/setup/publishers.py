"""What accounts that publish tags need: a place for the last good ones, and the agent access to a BDII's directory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from pps_agent.setup.accounts import Account
from pps_agent.setup.rights import ROOT, Kind, Place, Rights
from pps_agent.tags.layout import KEPT

_READABLE: Final = 0o755
_PRIVATE: Final = 0o700


def cache_rights(cache: Path, agent: Account, accounts: Iterable[Account]) -> Iterator[tuple[Place, Rights]]:
    """Give the places in a cache with what is to be there.

    The directory that holds the accounts' is root's: its owner could take them away.
    """
    root, name = cache.parent, cache.name
    yield (
        Place(root, (name,)),
        Rights(Kind.DIRECTORY, _READABLE, agent.uid, agent.gid, is_made=True, is_kept=True),
    )
    yield Place(root, (name, KEPT)), Rights(Kind.DIRECTORY, _READABLE, ROOT, ROOT, is_exact=True, is_made=True)
    for account in dict.fromkeys(accounts):
        yield (
            Place(root, (name, KEPT, str(account.uid))),
            Rights(Kind.DIRECTORY, _PRIVATE, account.uid, account.gid, is_exact=True, is_made=True),
        )


def ldif_rights(ldif: Path, agent: Account) -> tuple[Place, Rights]:
    """Give the directory of a file that a BDII reads: the agent is let in, all else stays the BDII's own."""
    place = Place(ldif.parent.parent, (ldif.parent.name,))
    return place, Rights(Kind.DIRECTORY, mode=None, users=(agent.uid,))

"""Accounts and groups of this machine by name."""

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass

from pps_agent.errors import SiteError
from pps_wire.names import Vo


@dataclass(frozen=True, slots=True)
class Account:
    """An account and its own group."""

    name: str
    uid: int
    gid: int


def find_account(name: str, option: str) -> Account:
    """Look up the account that an option names. Raises: SiteError."""
    try:
        found = pwd.getpwnam(name)
    except KeyError as exc:
        raise SiteError(
            f"there is no account {name!r}: make it (config/pps-agent.sysusers), or name another with {option}"
        ) from exc
    return Account(found.pw_name, found.pw_uid, found.pw_gid)


def find_groups(managers: Mapping[Vo, str]) -> dict[Vo, int]:
    """Look up the group of each VO's managers. Raises: SiteError."""
    found = {}
    for vo, name in managers.items():
        try:
            found[vo] = grp.getgrnam(name).gr_gid
        except KeyError as exc:
            raise SiteError(
                f"there is no group {name!r}, which site.managers names for {vo}: make it, or name another there"
            ) from exc
    return found


def find_missing(account: Account, groups: frozenset[int]) -> tuple[str, ...]:
    """Give the names of those groups that an account is not in, sorted."""
    return tuple(sorted(name_group(gid) for gid in groups - set(os.getgrouplist(account.name, account.gid))))


def name_user(uid: int) -> str:
    """Give an account's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def name_group(gid: int) -> str:
    """Give a group's name, or its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)

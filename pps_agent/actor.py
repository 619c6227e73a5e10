"""Who gives a command: the account, and the login behind it where the kernel kept that."""

import os
import pwd
from pathlib import Path
from typing import Final

_NO_LOGIN: Final = 2**32 - 1


def observe_actor(login: Path = Path("/proc/self/loginuid")) -> str:
    """Give who runs this process, e.g. ``root (uid 0), logged in as alice (uid 1000)``.

    ``login`` is the audit uid, which su and sudo leave as it is. Source: proc(5).
    """
    uid = os.getuid()
    try:
        logged_in = int(login.read_text())
    except (OSError, ValueError):
        logged_in = _NO_LOGIN
    if logged_in in (uid, _NO_LOGIN):
        return _name(uid)
    return f"{_name(uid)}, logged in as {_name(logged_in)}"


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"

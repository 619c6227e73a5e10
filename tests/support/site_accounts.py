"""The accounts of a site's head, real for each process that is started here, and unknown to the rest of the machine.

Each sees its own ``/etc/passwd`` and ``/etc/group`` (a mount namespace) and runs with the rights of one account.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.services import need

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
AGENT, MANAGER, SECOND, OPS_MANAGER, STRANGER, PUBLISHER = (
    "pps-agent",
    "dteamsgm",
    "dteamsgm2",
    "opssgm",
    "stranger",
    "ldap",
)
UIDS = {AGENT: 61001, MANAGER: 61002, SECOND: 61003, OPS_MANAGER: 61004, STRANGER: 61005, PUBLISHER: 61006, "root": 0}
GIDS = {"pps-agent": 62001, "dteamsgm": 62002, "opssgm": 62004, "users": 62005, "ldap": 62006}
OWN_GROUPS = {AGENT: "pps-agent", MANAGER: "dteamsgm", SECOND: "users", OPS_MANAGER: "opssgm", PUBLISHER: "ldap"}
_ENTER = 'mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && exec "$@"'


@dataclass(frozen=True)
class Said:
    """What a process gave."""

    code: int
    out: str
    err: str


class Accounts:
    """Starts processes as the accounts of a site; ``base`` is a directory that all of them can enter."""

    def __init__(self, base: Path) -> None:
        usable = os.geteuid() == 0 and shutil.which("unshare") and shutil.which("setpriv")
        need("" if usable else "root, unshare or setpriv is missing: no other accounts can be had")
        self.base, self.config = base, base / "agent.toml"
        lines = (f"{name}:x:{uid}:{self._gid(name)}::/:/bin/sh\n" for name, uid in UIDS.items())
        (base / "passwd").write_text("".join(lines))
        self.members({"dteamsgm": [SECOND]})

    def members(self, members: dict[str, list[str]]) -> None:
        """Say who is in a group that is not his own."""
        lines = (f"{name}:x:{gid}:{','.join(members.get(name, []))}\n" for name, gid in {**GIDS, "root": 0}.items())
        (self.base / "group").write_text("".join(lines))

    def run(self, user: str, *words: str, stdin: str | None = None) -> Said:
        """Run a command as an account, in all its groups."""
        done = subprocess.run(
            self.command(user, *words),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **self._how,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def start(self, user: str, *words: str) -> "subprocess.Popen[str]":
        """Start a command as an account; its stdout is a pipe."""
        return subprocess.Popen(self.command(user, *words), stdout=subprocess.PIPE, text=True, **self._how)

    def command(self, user: str, *words: str) -> list[str]:
        """Give the argument list."""
        rights = ["setpriv", f"--reuid={user}", f"--regid={self._gid(user)}", "--init-groups"] if user != "root" else []
        return ["unshare", "--mount", "sh", "-c", _ENTER, str(self.base), *rights, *words]

    @property
    def _how(self) -> dict[str, object]:
        return {
            "cwd": ROOT,
            "env": {"PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "PPS_AGENT_CONFIG": str(self.config)},
        }

    @staticmethod
    def _gid(user: str) -> int:
        return 0 if user == "root" else GIDS[OWN_GROUPS.get(user, "users")]

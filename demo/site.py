"""The demo's site: settings, sample profile.d, tag files, and a look at its production client."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from demo.programs import Answer, find_program, run

SITE: Final = "DEMO-SITE"
SUBCLUSTER: Final = "ce01.demo.example.org"
VO: Final = "dteam"
_PROFILE: Final = Path(__file__).parent / "site" / "profile.d"


class Site:
    """One site below ``base``; every command is the real program run as a process."""

    def __init__(self, base: Path, repository_url: str, root: Path) -> None:
        self.base = base
        self.profile = base / "profile.d"
        base.mkdir(parents=True)
        self._write_profile()
        shutil.copy(root, base / "root.json")
        (base / "tags").mkdir()
        self.config = base / "agent.toml"
        self.config.write_text(
            f"""# Settings of the demo's site
[site]
name = "{SITE}"
vos = ["{VO}"]
subclusters = ["{SUBCLUSTER}"]

[repository]
url = "{repository_url}"
root = "root.json"

[paths]
store = "store"
state = "state"
cache = "cache"
tags = "tags"

[policy]
install_bc = "auto"

[environment]
profile = ["{self.profile}/*.sh"]
"""
        )
        (base / "conf.d").mkdir()

    def _write_profile(self) -> None:
        """Set up what a production node has: profile.d files, and the directories they name."""
        for directory in ("grid-security/certificates", "grid-security/vomsdir", "exp_soft/dteam", "profile.d"):
            (self.base / directory).mkdir(parents=True)
        for source in sorted(_PROFILE.iterdir()):
            text = source.read_text().replace("@BASE@", str(self.base))
            (self.profile / source.name).write_text(text)

    def add_settings(self, name: str, text: str) -> None:
        """Add a file to conf.d, as a site's configuration management would."""
        (self.base / "conf.d" / name).write_text(text)

    def agent(self, *arguments: object, codes: tuple[int, ...] = (0,)) -> Answer:
        """Run ``pps-agent`` with the site's settings."""
        return run("pps-agent", ["--config", self.config, *arguments], codes=codes)

    def once(self, codes: tuple[int, ...] = (0,)) -> Any:
        """Run one round and give its JSON."""
        return self.agent("once", "--output", "json", codes=codes).json()

    def plugin(self) -> list[str]:
        """Give the command line of the BDII plugin that prints this site's tags."""
        return [find_program("pps-agent"), "--config", str(self.config), "tag", "ldif"]

    def tags(self) -> list[str]:
        """Give the tags in the VO's file, the way lcg-ManageVOTag would read them."""
        path = self.base / "tags" / SUBCLUSTER / VO / f"{VO}.list"
        return path.read_text().split() if path.exists() else []

    def disk_bytes(self) -> int:
        """Give what the store takes on disk, shared files counted once."""
        seen: dict[tuple[int, int], int] = {}
        for folder, _, names in os.walk(self.base / "store"):
            for name in names:
                status = (Path(folder) / name).lstat()
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
        return sum(seen.values())

    def production(self) -> str:
        """Give a fingerprint of production: the environment of a site shell and the client it finds there."""
        shell = subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", _LOOK, "look", str(self.profile)],
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            check=True,
        )
        return hashlib.sha256(shell.stdout).hexdigest()

    def job(self, release: str | None) -> str:
        """Give the path of xrdcp that a user's job gets, having asked for a release or for nothing."""
        ask = f". {self.base}/store/releases/{release}/env.sh; " if release else ""
        script = f"for f in {self.profile}/*.sh; do . $f >/dev/null; done; {ask}command -v xrdcp || true"
        shell = subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", script],
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            check=True,
            text=True,
        )
        return shell.stdout.strip()


_LOOK: Final = """
for f in "$1"/*.sh; do . "$f" >/dev/null; done
env | grep -v ^_= | sort
for c in xrdcp gfal-copy curl; do
    p=$(command -v $c) && { echo "$p"; sha256sum "$p"; ldd "$p" | sed 's/ (0x.*//'; }
done
exit 0
"""

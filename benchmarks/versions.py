"""The real client and two updates of it, made from the first by an edit that is the same on every machine.

``small`` changes 14 contents of 20 to 40 kB, ``large`` 84 contents of 60 to 600 kB, the first in path order:
64 bytes, derived from the version and the path, are put behind each. So sizes and compression stay as they are.
"""

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.client import PROBES, Build, Clients
from pps_agent.frames import open_manifest
from pps_wire.manifest import Entry, File

CACHE: Final = Path(".demo/cache")


@dataclass(frozen=True, slots=True)
class Edit:
    """Which files an update changes: so many, with sizes between two bounds."""

    version: str
    files: int
    least_bytes: int
    most_bytes: int

    def choose(self, tree: Path) -> list[Path]:
        """Give the files to change, relative to ``tree``."""
        sizes = {path.relative_to(tree): path.lstat().st_size for path in tree.rglob("*") if _is_plain(path)}
        fitting = sorted(path for path, size in sizes.items() if self.least_bytes < size < self.most_bytes)
        return fitting[: self.files]


SMALL: Final = Edit("6.1.14", 14, 20_000, 40_000)
LARGE: Final = Edit("6.1.84", 84, 60_000, 600_000)


class Versions(Clients):
    """Builds them below the demo's cache, where the next run finds them again."""

    def __init__(self) -> None:
        super().__init__(CACHE, None, PROBES)

    def unpack_first(self) -> Path:
        """Give the first client's tree."""
        return self._unpack().resolve()

    def unpack(self, build: Build) -> Path:
        """Give a build's tree, unpacked as a person would."""
        tree = build.directory / "tree"
        if not tree.exists():
            staged = build.directory / "tree.part"
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir()
            archive = next(build.directory.glob("*.tar.zst"))
            subprocess.run(["tar", "--zstd", "-xf", archive, "-C", staged], check=True)
            staged.rename(tree)
        return tree.resolve()

    def build_edited(self, edit: Edit) -> Build:
        """Build one update of the first client."""
        tree = self._unpack()
        overlay = self._cache / f"overlay-{edit.version}"
        shutil.rmtree(overlay, ignore_errors=True)
        for name in edit.choose(tree):
            changed = overlay / name
            changed.parent.mkdir(parents=True, exist_ok=True)
            mark = hashlib.sha512(f"{edit.version} {name}".encode()).digest()
            changed.write_bytes((tree / name).read_bytes() + mark)
            changed.chmod((tree / name).stat().st_mode & 0o777 | 0o200)
        return self._build(
            edit.version, ["--from-tree", tree, "--keep-runpath", "--no-clean-root", *self._platform()], overlay
        )


def entries_of(build: Build) -> list[Entry]:
    """Give what a build's manifest lists."""
    return list(open_manifest(next(build.directory.glob("*.manifest.zst")).read_bytes()).entries())


def files_of(build: Build) -> list[File]:
    """Give the files of a build's manifest."""
    return [entry for entry in entries_of(build) if isinstance(entry, File)]


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()

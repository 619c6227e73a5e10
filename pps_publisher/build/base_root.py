"""A clean root of Debian's base packages: downloaded through apt, unpacked, kept in the cache."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from pps_publisher.build.clean_root import CleanRoot
from pps_publisher.build.debian import UNPACK_S, close_over, demand_apt, fetch_packages, observe_os
from pps_publisher.build.programs import ENVIRONMENT, last_lines
from pps_publisher.errors import SiteError

BASE_SYSTEM: Final = (
    "base-files",
    "bash",
    "ca-certificates",
    "coreutils",
    "dash",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "libc-bin",
    "libstdc++6",
    "mawk",
    "openssl",
    "perl",
    "python3",
    "sed",
    "tar",
    "util-linux",
)
"""What every host of this distribution has, whatever it is for; what these need comes along."""

_MERGED: Final = ("bin", "lib", "lib64", "sbin")
"""Links into usr on every installed system, which no package carries."""


def load_debian_root(cache: Path, extra: tuple[str, ...] = ()) -> CleanRoot:
    """Give the clean root of the base system and of ``extra`` packages, made anew when packages have changed.

    Raises: SiteError where apt is missing or fails; FetchError; OSError.
    """
    demand_apt()
    files = fetch_packages(close_over((*BASE_SYSTEM, *extra)), cache)
    key = hashlib.sha256("\n".join(file.name for file in files).encode()).hexdigest()[:16]
    root = cache / f"clean-root-{key}"
    if not root.is_dir():
        _make(files, root)
    return CleanRoot(root.resolve(), observe_os())


def _make(files: tuple[Path, ...], root: Path) -> None:
    staged = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        staged.chmod(0o755)
        (staged / "usr").mkdir()
        for name in _MERGED:
            (staged / "usr" / name).mkdir()
            (staged / name).symlink_to(f"usr/{name}")
        for file in files:
            _unpack(file, staged)
        staged.rename(root)
    except OSError:
        if not root.is_dir():  # else another build was faster
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _unpack(file: Path, root: Path) -> None:
    """Unpack one package below ``root``; apt's index vouches for its bytes. dpkg-deb alone would replace the links."""
    read = ["dpkg-deb", "--fsys-tarfile", str(file)]
    write = ["tar", "--keep-directory-symlink", "--no-same-owner", "--exclude=./dev/*", "-xf", "-", "-C", str(root)]
    with subprocess.Popen(read, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as reader:
        try:
            done = subprocess.run(
                write,
                stdin=reader.stdout,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=UNPACK_S,
                env=ENVIRONMENT,
            )
        except subprocess.TimeoutExpired as exc:
            reader.kill()
            raise SiteError(f"{file}: took more than {UNPACK_S} s to unpack; look at the machine") from exc
    if done.returncode or reader.returncode:
        raise SiteError(f"{file}: does not unpack ({last_lines(done.stderr)}); delete it and try again")

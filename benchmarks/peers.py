"""What a site would use instead, from Debian's packages, served by the same nginx."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.site import Site, await_port, free_port

_TAR: Final = 'curl -sf "$1" | tar --zstd -x -C "$2" && sync -f "$2"'


def unpack_with_tar(url: str, tree: Path) -> None:
    """Fetch and unpack an artifact as a person does, unverified, and flush it."""
    subprocess.run(["bash", "-o", "pipefail", "-c", _TAR, "peer", url, tree], check=True)


class Ostree:
    """An ostree repository with a branch for each version, and a client of it.

    The client is ``bare-user-only``, which as our store keeps one mode for programs and one for other
    files, so that a checkout is hard links. Its own durability rules stay on (it flushes before it commits).
    """

    def __init__(self, site: Site, trees: dict[str, Path]) -> None:
        self._served = site.www / "ostree"
        self._client = site.base / "ostree-client"
        self._url = f"{site.url}/ostree"
        _quietly("ostree", "init", f"--repo={self._served}", "--mode=archive")
        for name, tree in trees.items():
            _quietly(
                "ostree",
                "commit",
                f"--repo={self._served}",
                f"--branch={name}",
                f"--tree=dir={tree}",
                "--canonical-permissions",
            )
        _quietly("ostree", "summary", f"--repo={self._served}", "-u")

    def clear(self) -> None:
        """Empty the client."""
        for path in (self._client, *self._client.parent.glob("ostree-tree-*")):
            shutil.rmtree(path, ignore_errors=True)

    def install(self, name: str) -> None:
        """Make a client, pull a version and check it out."""
        _quietly("ostree", "init", f"--repo={self._client}", "--mode=bare-user-only")
        _quietly("ostree", "remote", "add", f"--repo={self._client}", "--no-gpg-verify", "peer", self._url)
        self.update(name)

    def update(self, name: str) -> None:
        """Pull a version and check it out beside the others."""
        _quietly("ostree", "pull", f"--repo={self._client}", "peer", name)
        tree = self._client.with_name(f"ostree-tree-{name}")
        _quietly("ostree", "checkout", f"--repo={self._client}", "-U", "-H", f"peer:{name}", tree)

    def forget(self, name: str) -> None:
        """Remove a version, its checkout and what only it used."""
        shutil.rmtree(self._client.with_name(f"ostree-tree-{name}"), ignore_errors=True)
        _quietly("ostree", "refs", f"--repo={self._client}", "--delete", f"peer:{name}")
        _quietly("ostree", "prune", f"--repo={self._client}", "--refs-only")

    def used_bytes(self) -> int:
        """Give what repository and checkouts take on disk, shared blocks once."""
        paths = [self._client, *sorted(self._client.parent.glob("ostree-tree-*"))]
        text = subprocess.run(["du", "-sc", "-B1", *paths], check=True, capture_output=True, text=True).stdout
        return int(text.splitlines()[-1].split()[0])


class Casync:
    """A casync chunk store and an index for each version; the old tree is the seed."""

    def __init__(self, site: Site, trees: dict[str, Path]) -> None:
        self._url = f"{site.url}/casync"
        served = site.www / "casync"
        served.mkdir()
        for name, tree in trees.items():
            _quietly(
                "casync",
                "make",
                "--without=privileged",
                f"--store={served}/default.castr",
                f"{served}/{name}.caidx",
                tree,
            )

    def update(self, name: str, seed: Path, target: Path) -> None:
        """Extract a version beside its seed and flush it."""
        shutil.rmtree(target, ignore_errors=True)
        index = f"{self._url}/{name}.caidx"
        _quietly(
            "casync",
            "extract",
            "--without=privileged",
            f"--store={self._url}/default.castr",
            f"--seed={seed}",
            index,
            target,
        )
        _quietly("sync", "-f", target)


class Rsync:
    """An rsync daemon over the trees; unchanged files become hard links."""

    def __init__(self, url: str) -> None:
        self._url = url

    def update(self, name: str, seed: Path, target: Path) -> None:
        """Copy a version, linking what the seed has, and flush it."""
        shutil.rmtree(target, ignore_errors=True)
        _quietly("rsync", "-a", "--checksum", f"--link-dest={seed}", f"{self._url}/{name}/", f"{target}/")
        _quietly("sync", "-f", target)


@contextmanager
def serve_rsync(base: Path, trees: dict[str, Path]) -> Iterator[Rsync]:
    """Run an rsync daemon on a free port of the loopback until the end."""
    port = free_port()
    config = base / "rsyncd.conf"
    modules = "".join(f"[{name}]\npath = {tree.resolve()}\n" for name, tree in trees.items())
    config.write_text(f"use chroot = no\n{modules}")
    process = subprocess.Popen(
        ["rsync", "--daemon", "--no-detach", f"--port={port}", "--address=127.0.0.1", f"--config={config}"]
    )
    try:
        await_port(port, process)
        yield Rsync(f"rsync://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()


class Zsync:
    """Tar archives with zsync's control files; the old archive is the seed."""

    def __init__(self, site: Site, trees: dict[str, Path]) -> None:
        self._url = f"{site.url}/zsync"
        self._served = site.www / "zsync"
        self._served.mkdir()
        for name, tree in trees.items():
            archive = self._served / f"{name}.tar"
            _quietly("tar", "-cf", archive, "--sort=name", "-C", tree, ".")
            _quietly("zsyncmake", "-u", archive.name, "-o", f"{archive}.zsync", archive)

    def archive(self, name: str) -> Path:
        """Give a version's archive."""
        return self._served / f"{name}.tar"

    def update(self, name: str, seed: Path, target: Path) -> None:
        """Make a version's archive from the seed, unpack and flush it."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        archive = target.with_suffix(".tar")
        archive.unlink(missing_ok=True)
        _quietly("zsync", "-q", "-i", seed, "-o", archive, f"{self._url}/{name}.tar.zsync", cwd=target.parent)
        _quietly("tar", "-xf", archive, "-C", target)
        _quietly("sync", "-f", target)


def _quietly(*command: object, cwd: Path | None = None) -> None:
    words: Sequence[str] = [str(word) for word in command]
    subprocess.run(words, check=True, capture_output=True, cwd=cwd)

"""The preview clients of the demo: a real one, an update of it, and one that was packed wrongly."""

import hashlib
import json
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo.programs import StepError, run

COMPONENT: Final = "grid-clients"
FIRST, UPDATE, BROKEN = "6.1.0", "6.1.1", "6.2.0"
PROBES: Final = ("org.pps.wn.softver", "org.pps.wn.env")
STORAGE_PROBE: Final = "org.pps.se.xroot"
SMOKES: Final = ("xrdcp --version", "gfal-ls file:///usr", "voms-proxy-info --version")
_SOURCES: Final = ("pps_publisher", "pps_wire", "demo/client.py")


@dataclass(frozen=True, slots=True)
class Build:
    """One build directory and the description in it; ``cached`` when an earlier demo made it."""

    directory: Path
    release: dict[str, Any]
    id: str
    cached: bool


class Clients:
    """Builds the three clients below ``cache``, where the next demo finds them again."""

    def __init__(self, cache: Path, tree: Path | None, probes: tuple[str, ...]) -> None:
        self._source = ["--from-debian"] if tree is None else ["--from-tree", tree]
        self._probes = probes
        self._packages = cache / "packages"
        key = hashlib.sha256(json.dumps([digest_sources(), str(tree), probes]).encode()).hexdigest()[:16]
        self._cache = cache / key

    def build_first(self) -> Build:
        """Build the real client from Debian's packages (or the given tree)."""
        return self._build(FIRST, [*self._source, *self._proof()], self._write_version(FIRST))

    def _platform(self) -> list[str]:
        """Give the first client's platform: what was changed in its tree does not change that."""
        return ["--platform", json.loads(next((self._cache / FIRST).glob("*.release.json")).read_text())["platform"]]

    def build_update(self) -> Build:
        """Build an update that changes a few files: two texts and two libraries."""
        overlay = self._write_version(UPDATE)
        tree = self._unpack()
        for name in _find_libraries(tree):
            changed = overlay / name
            changed.parent.mkdir(parents=True, exist_ok=True)
            # Bytes behind the last section: another file, the same code.
            changed.write_bytes((tree / name).read_bytes() + secrets.token_bytes(64))
            changed.chmod(0o755)
        return self._build(
            UPDATE, ["--from-tree", tree, "--keep-runpath", "--no-clean-root", *self._platform()], overlay
        )

    def build_broken(self) -> Build:
        """Build a client whose xrdcp is a wrapper around a program that was left out of the package."""
        overlay = self._write_version(BROKEN)
        wrapper = overlay / "bin" / "xrdcp"
        wrapper.parent.mkdir(exist_ok=True)
        wrapper.write_text('#!/bin/sh\nexec "${0%/*}/../libexec/xrdcp-6.2" "$@"\n')
        wrapper.chmod(0o755)
        return self._build(
            BROKEN, ["--from-tree", self._unpack(), "--keep-runpath", "--no-clean-root", *self._platform()], overlay
        )

    def _build(self, version: str, source: list[Any], overlay: Path) -> Build:
        out = self._cache / version
        cached = (out / "done").exists()
        if not cached:
            shutil.rmtree(out, ignore_errors=True)
            probes = [argument for name in self._probes for argument in ("--probe", name)]
            run(
                "pps-publish",
                [
                    *("build", *source, "--overlay", overlay, "--out", out, "--component", COMPONENT),
                    *("--version", version, "--class", "client-bc", "--vo", "dteam", "--vo", "ops"),
                    *("--reference", "patch:3064", *probes, "--output", "json"),
                ],
            )
            (out / "done").touch()
        return describe_build(out, cached=cached)

    def _proof(self) -> list[Any]:
        """Prove Debian's client over Debian's base system; run it there where this machine lets bubblewrap work."""
        if "--from-debian" not in self._source:
            return ["--no-clean-root"]
        smokes = [argument for command in SMOKES for argument in ("--smoke", command)]
        return ["--cache", self._packages, *(smokes if _has_bwrap() else ())]

    def _write_version(self, version: str) -> Path:
        overlay = self._cache / f"overlay-{version}"
        (overlay / "etc").mkdir(parents=True, exist_ok=True)
        (overlay / "VERSION").write_text(f"{version}\n")
        (overlay / "etc" / "RELEASE-NOTES").write_text(f"{COMPONENT} {version}, a preview\n")
        return overlay

    def _unpack(self) -> Path:
        """Unpack the first client's artifact as a person would, with tar."""
        tree = self._cache / "tree"
        if not tree.exists():
            artifact = next((self._cache / FIRST).glob("*.tar.zst"))
            staged = self._cache / "tree.part"
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir()
            done = subprocess.run(["tar", "--zstd", "-xf", artifact, "-C", staged], capture_output=True, check=False)
            if done.returncode != 0:
                raise StepError(f"tar cannot unpack {artifact}: {done.stderr.decode(errors='replace')}")
            staged.rename(tree)
        return tree


def _has_bwrap() -> bool:
    try:
        tried = subprocess.run(
            ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"], capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return tried.returncode == 0


def describe_build(directory: Path, *, cached: bool = False) -> Build:
    """Give the build in a directory."""
    description = next(directory.glob("*.release.json"))
    return Build(directory, json.loads(description.read_text()), description.name.removesuffix(".release.json"), cached)


def _find_libraries(tree: Path) -> list[Path]:
    """Give two libraries of middling size, the same at every call."""
    sizes = {path.relative_to(tree): path.stat().st_size for path in tree.rglob("*.so.*") if not path.is_symlink()}
    fitting = sorted(name for name, size in sizes.items() if 40_000 < size < 400_000)
    return fitting[:2]


def digest_sources() -> str:
    """Give what a build depends on besides its tree: the publisher's code and this module."""
    digest = hashlib.sha256()
    for source in _SOURCES:
        path = Path(source)
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()

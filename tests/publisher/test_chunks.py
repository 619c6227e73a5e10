import hashlib
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from pps_publisher.bundle import pack_manifest, unpack_manifest
from pps_publisher.chunks import check_artifact, write_artifact
from pps_publisher.errors import PublishError
from pps_publisher.tree import load_tree
from pps_wire.manifest import MAX_WINDOW_BYTES, File, Manifest
from pps_wire.names import ReleaseId
from tests.support.repository import Content, LinkTo, Program, write_tree

RELEASE = ReleaseId("c-1-x86_64-glibc2.36")
FILES: dict[str, Content] = {
    "bin/tool": Program(b"#!/bin/sh\nexit 0\n"),
    "bin/alias": LinkTo("tool"),
    "etc/empty": b"",
    "etc/block": bytes(512),
    "lib/" + "long" * 40 + "/" + "name" * 30: b"behind a long name",
    "lib/zażółć": "gęślą jaźń\n".encode(),
    "lib/far": LinkTo("../lib/" + "long" * 40),
    "lib/big": random.Random(1).randbytes(9_000_000) + bytes(3_000_000),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tree(tmp_path / "tree", FILES)
    (tmp_path / "tree" / "empty-directory").mkdir()
    return tmp_path / "tree"


def pack(root: Path) -> tuple[bytes, Manifest]:
    stream = io.BytesIO()
    manifest, artifact = write_artifact(load_tree(root), RELEASE, stream)
    content = stream.getvalue()
    assert (artifact.length, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    return content, manifest


def listing(root: Path) -> dict[str, tuple[str, object]]:
    found: dict[str, tuple[str, object]] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("directory", "755")
        else:
            found[name] = ("555" if path.stat().st_mode & 0o100 else "444", path.read_bytes())
    return found


def test_tar_of_a_person_unpacks_the_identical_tree_with_the_modes_sites_land(root: Path, tmp_path: Path) -> None:
    content, _ = pack(root)
    archive, target = tmp_path / "a.tar.zst", tmp_path / "unpacked"
    archive.write_bytes(content)
    target.mkdir()
    subprocess.run(
        ["tar", "--zstd", "-xpf", archive, "-C", target], check=True, env={"LC_ALL": "C", "PATH": os.environ["PATH"]}
    )
    assert listing(root) == listing(target)
    modes = {f"{path.stat().st_mode & 0o7777:o}" for path in target.rglob("*") if not path.is_symlink()}
    assert modes == {"444", "555", "755"}


def test_every_file_is_a_frame_of_its_own_that_states_its_size_and_keeps_the_window(root: Path) -> None:
    content, manifest = pack(root)
    for entry in manifest.files():
        frame = content[entry.o : entry.o + entry.z]
        parameters = zstandard.get_frame_parameters(frame)
        assert parameters.content_size == entry.s
        assert parameters.window_size <= MAX_WINDOW_BYTES
        body = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj().decompress(frame)
        assert (len(body), hashlib.sha256(body).hexdigest()) == (entry.s, entry.h)
        assert body == (root / entry.p).read_bytes()
        assert entry.x == (entry.p == "bin/tool")


def test_the_same_tree_gives_the_same_bytes_under_another_path_umask_locale_day_and_hash_seed(
    root: Path, tmp_path: Path
) -> None:
    content, manifest = pack(root)
    moved = tmp_path / "quite" / "another" / "place"
    moved.parent.mkdir(parents=True)
    root.rename(moved)
    os.utime(moved / "bin" / "tool", (1, 1))
    (moved / "etc").chmod(0o700)
    (moved / "etc" / "empty").chmod(0o600)
    script = (
        "import os, sys; os.umask(0o077)\n"
        "from pathlib import Path\n"
        "from pps_publisher.chunks import write_artifact; from pps_publisher.tree import load_tree\n"
        "write_artifact(load_tree(Path(sys.argv[1])), 'c-1-x86_64-glibc2.36', sys.stdout.buffer)\n"
    )
    environment = {
        "LC_ALL": "POSIX",
        "TZ": "Asia/Tokyo",
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    again = subprocess.run(
        [sys.executable, "-c", script, str(moved)], check=True, capture_output=True, env=environment, cwd=Path.cwd()
    )
    assert hashlib.sha256(again.stdout).hexdigest() == hashlib.sha256(content).hexdigest()
    assert pack_manifest(manifest) == pack_manifest(unpack_manifest(pack_manifest(manifest)))


def test_an_artifact_that_agrees_with_its_manifest_has_no_problem(root: Path) -> None:
    content, manifest = pack(root)
    assert list(check_artifact(io.BytesIO(content), manifest)) == []


@pytest.mark.parametrize("seed", range(40))
def test_one_changed_byte_anywhere_is_found(seed: int, tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {name: body for name, body in FILES.items() if name != "lib/big"})
    content, manifest = pack(tmp_path / "tree")
    place = random.Random(seed).randrange(len(content))
    damaged = bytearray(content)
    damaged[place] ^= 1 << seed % 8
    digest_differs = hashlib.sha256(damaged).digest() != hashlib.sha256(content).digest()
    problems = list(check_artifact(io.BytesIO(damaged), manifest))
    # a bit of a frame header may be one that no decoder reads; the artifact's own sha256 covers it
    assert problems or digest_differs
    assert all(isinstance(problem, str) for problem in problems)


def test_a_truncated_or_extended_artifact_is_found(root: Path) -> None:
    content, manifest = pack(root)
    assert list(check_artifact(io.BytesIO(content[:-1]), manifest))
    assert list(check_artifact(io.BytesIO(content + b"x"), manifest))
    assert list(check_artifact(io.BytesIO(b""), manifest))


def test_an_artifact_whose_headers_say_something_else_is_found(root: Path) -> None:
    content, manifest = pack(root)
    last = manifest.entries[-1]
    assert isinstance(last, File)
    renamed = Manifest(
        manifest.head, (*manifest.entries[:-1], File(p="lib/żona", s=last.s, h=last.h, o=last.o, z=last.z))
    )
    problems = list(check_artifact(io.BytesIO(content), renamed))
    assert problems == ["lib/żona: the archive's header does not say what the manifest says"]


def test_a_file_that_changes_while_it_is_read_is_refused(root: Path) -> None:
    tree = load_tree(root)
    (root / "lib" / "big").write_bytes(b"shorter now")
    with pytest.raises(PublishError, match="lib/big: changed while it was read"):
        write_artifact(tree, RELEASE, io.BytesIO())

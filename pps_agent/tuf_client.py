"""The command line of the public TUF conformance suite, over the agent's own client, fetcher and limits.

``python -m pps_agent.tuf_client --metadata-dir D init ROOT``, then ``refresh`` and ``download``; exit 0 or 1,
errors on stderr. For testing the agent against any TUF repository, not for running a site.
Source: CLIENT-CLI.md of theupdateframework/tuf-conformance.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, Root, TargetFile

from pps_agent.errors import AgentError, FetchError, TrustError
from pps_agent.fetch import Fetcher
from pps_agent.files import save_bytes, sync_directory
from pps_agent.mirrors import Mirrors
from pps_agent.updater import MetadataKeeper

_URL_SAFE: Final = "/%!$&'()*+,;=:@"
"""A target path is a path-relative URL already; only what would end the path is quoted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give 0, or 1 when any part of it failed."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "init":
            init(given.metadata_dir, given.trusted_root)
        elif given.metadata_url is None:
            raise AgentError("the repository is unknown; add --metadata-url")
        elif given.command == "refresh":
            refresh(given.metadata_dir, given.metadata_url, given.timeout_s)
        else:
            _download(given)
    except (AgentError, OSError) as exc:
        sys.stderr.write(f"tuf_client: {exc}\n")
        return 1
    return 0


def init(directory: Path, trusted_root: Path) -> None:
    """Trust this root from now on. Raises: OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    save_bytes(directory / "root.json", trusted_root.read_bytes())


def refresh(directory: Path, url: str, timeout_s: float, target: str | None = None) -> TargetFile | None:
    """Bring the metadata up to date; give what is signed for ``target``. Raises: AgentError, OSError."""
    root = (directory / "root.json").read_bytes()
    with Fetcher(timeout_s) as fetcher:
        keeper = MetadataKeeper(directory, directory, Mirrors(fetcher, [url]), "")
        with keeper.lock():
            found = keeper.update(root, () if target is None else (target,))
    return None if target is None else found[target]


def download(target: TargetFile, url: str, directory: Path, timeout_s: float) -> Path:
    """Give the file of a target, fetched unless it is here already. Raises: FetchError, TrustError, OSError.

    ``url`` is its whole address. A file that is there before is replaced in one step, or stays.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{quote(target.path, safe='')}"
    if _is_right(path, target):
        return path
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".", suffix=".tmp", delete=False) as stream:
        temporary = Path(stream.name)
        try:
            with Fetcher(timeout_s) as fetcher:
                for piece in fetcher.stream(url, target.length):
                    stream.write(piece)
            stream.flush()
            if not _is_right(temporary, target):
                raise TrustError(f"{url}: differs from the signed length and hash; tell the release managers")
            os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink()
            raise
    sync_directory(directory)
    return path


def locate_target(target: TargetFile, base_url: str, *, consistent: bool) -> str:
    """Give the address of a target; consistent snapshots put a hash before its name (clause 5.7.3). Pure."""
    folder, slash, name = target.path.rpartition("/")
    digest = target.hashes.get("sha256") or next(iter(target.hashes.values()))
    path = f"{folder}{slash}{digest}.{name}" if consistent else target.path
    return f"{base_url.rstrip('/')}/{quote(path, safe=_URL_SAFE)}"


def _download(given: argparse.Namespace) -> None:
    if None in (given.target_name, given.target_base_url, given.target_dir):
        raise AgentError("download needs --target-name, --target-base-url and --target-dir; add them")
    target = refresh(given.metadata_dir, given.metadata_url, given.timeout_s, given.target_name)
    if target is None:
        raise FetchError(f"{given.target_name}: nobody signs for it; check the name", permanent=True)
    root = Metadata[Root].from_bytes((given.metadata_dir / "root.json").read_bytes()).signed
    url = locate_target(target, given.target_base_url, consistent=bool(root.consistent_snapshot))
    download(target, url, given.target_dir, given.timeout_s)


def _is_right(path: Path, target: TargetFile) -> bool:
    try:
        with path.open("rb") as stream:
            target.verify_length_and_hashes(stream)
    except (OSError, LengthOrHashMismatchError):
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tuf_client", description="the agent's TUF client, for any repository")
    parser.add_argument("--metadata-dir", type=Path, required=True, help="where trusted metadata is kept")
    parser.add_argument("--metadata-url", help="address of the repository's metadata")
    parser.add_argument("--target-name", help="target path to download")
    parser.add_argument("--target-base-url", help="address of the repository's targets")
    parser.add_argument("--target-dir", type=Path, help="where downloaded targets are kept")
    parser.add_argument("--timeout-s", type=float, default=30, help="time limit of one request, in seconds")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init", help="trust a root").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh", help="bring the metadata up to date")
    commands.add_parser("download", help="bring the metadata up to date and fetch a target")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Makes a new probe from one that is there: the SAM task "clone a sensor" as one step.

The copy has a name of its own, no alias, version 1 and the texts adapted, its tests too. It appears under its
final name in one step, or not at all.
"""

import re
import secrets
import shutil
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pps_agent.disk import explained
from pps_agent.errors import AgentError
from pps_agent.files import sync_directory
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.directory import METADATA, PROGRAM, read_probe
from pps_wire.names import ProbeName

MAX_FILES: Final = 1000
MAX_BYTES: Final = 64 * 1024**2
_ADAPTED: Final = (METADATA, PROGRAM, "README.md")


def clone_probe(source: ProbeDefinition, name: ProbeName, target: Path) -> Path:
    """Copy the probe to the directory ``target`` under a new name. Raises: AgentError, SiteError; nothing is left then.

    A directory that is there is never written into.
    """
    files = render_clone(read_files(source.run.parent), source, name, target.name)
    check_target(target)
    staged = target.parent / f".{target.name}.{secrets.token_hex(6)}.tmp" / target.name
    with explained(target):
        try:
            for path, (content, is_program) in files.items():
                _write(staged / path, content, 0o755 if is_program else 0o644)
            copy = read_probe(staged)
            if copy.definition is None or copy.definition.name != name or copy.definition.aliases:
                reason = next(iter(copy.faults), "its name is not set in a table [probe]")
                raise AgentError(f"{source.run.parent} cannot be copied: {reason}")
            staged.rename(target)  # onto one that was made meanwhile it fails, unless that is empty
            sync_directory(target.parent)
        finally:
            shutil.rmtree(staged.parent, ignore_errors=True)
    return target


def check_target(target: Path) -> None:
    """Refuse a place where something is, or that is in no directory. Raises: AgentError."""
    if target.exists() or target.is_symlink():
        raise AgentError(f"{target} is there already: give another name, or remove it first")
    if not target.parent.is_dir():
        raise AgentError(f"{target.parent} is no directory: make it, and name it in paths.probes")


def read_files(directory: Path) -> dict[PurePosixPath, tuple[bytes, bool]]:
    """Read a probe's regular files: content and whether it is a program. Raises: AgentError when they are too many."""
    files: dict[PurePosixPath, tuple[bytes, bool]] = {}
    size_bytes = 0
    with explained(directory):
        for path in sorted(directory.rglob("*")):
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or "__pycache__" in path.parts:
                continue
            size_bytes += status.st_size
            if len(files) >= MAX_FILES or size_bytes > MAX_BYTES:
                raise AgentError(f"{directory}: more than {MAX_FILES} files or {MAX_BYTES} bytes: no probe is so large")
            files[PurePosixPath(path.relative_to(directory))] = path.read_bytes(), bool(status.st_mode & 0o111)
    return files


def render_clone(
    files: Mapping[PurePosixPath, tuple[bytes, bool]], source: ProbeDefinition, name: ProbeName, directory: str
) -> dict[PurePosixPath, tuple[bytes, bool]]:
    """Give the files of the copy: metadata, program, page and cases speak of the new name. Pure."""
    old = source.run.parent.name
    rendered = {}
    for path, (content, is_program) in files.items():
        adapted = content
        if str(path) == METADATA:
            adapted = _render_metadata(content, source.name, name)
        elif str(path) in _ADAPTED or path.suffix == ".case":
            adapted = _rename(content, source.name, name)
            if "." in old:  # one plain word may mean anything else too
                adapted = _rename(_rename(adapted, old, directory), re.escape(old), re.escape(directory))
        if str(path) == "README.md":
            adapted = re.sub(rb"\A#[^\n]*", f"# {directory}".encode(), adapted)
        rendered[path] = adapted, is_program
    return rendered


def _render_metadata(content: bytes, old: ProbeName, new: ProbeName) -> bytes:
    """Give ``probe.toml`` with another name and its own history; comments and all else stay."""
    pieces: list[bytes] = []
    position = 0
    for start, end, key, value in _entries(content):
        pieces.append(content[position:start])
        match key:
            case "name":
                pieces.append(f'name = "{new}"\n'.encode())
            case "version":
                pieces.append(b'version = "1"\n')
            case "metrics":
                names = ", ".join(f'"{_renamed(metric, old, new)}"' for metric in value)
                pieces.append(f"metrics = [{names}]\n".encode())
            case "aliases":
                pass
            case _:
                pieces.append(content[start:end])
        position = end
    return b"".join((*pieces, content[position:]))


def _entries(content: bytes) -> Iterator[tuple[int, int, str, list[str]]]:
    """Give each entry of the table [probe]: where it stands, its key and, of a list, the values."""
    table = re.search(rb"(?m)^[ \t]*\[[ \t]*probe[ \t]*\][^\n]*(?:\n|\Z)", content)
    position = table.end() if table else len(content)
    while position < len(content):
        newline = content.find(b"\n", position)
        line_end = len(content) if newline < 0 else newline + 1
        line = content[position:line_end].strip()
        if line.startswith(b"["):
            return
        if line and not line.startswith(b"#"):
            line_end, entry = _read_entry(content, position)
            key, value = next(iter(entry.items()))
            yield position, line_end, key, value if isinstance(value, list) else []
        position = line_end


def _read_entry(content: bytes, start: int) -> tuple[int, dict[str, Any]]:
    """Give the end and the value of the entry that begins here: as many lines as make it whole."""
    end = start
    while end < len(content):
        newline = content.find(b"\n", end)
        end = len(content) if newline < 0 else newline + 1
        try:
            return end, tomllib.loads(content[start:end].decode())
        except ValueError:
            continue
    raise AgentError("probe.toml: an entry of [probe] has no end: mend it first")


def _renamed(metric: str, old: str, new: str) -> str:
    return new + metric[len(old) :] if metric.startswith(old) else f"{new}.{metric.rpartition('.')[2]}"


def _rename(content: bytes, old: str, new: str) -> bytes:
    """Replace a name where it stands for itself, or for a metric below it; not as a part of a longer word."""
    return re.sub(rb"(?<![\w./-])" + re.escape(old).encode() + rb"(?![\w-])", lambda _: new.encode(), content)


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(0o755, parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)

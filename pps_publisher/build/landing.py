"""Lands a tree in a directory as a site's agent would, to try it there."""

import os
import shutil
from pathlib import Path

from pps_publisher.chunks import DIRECTORY_MODE, FILE_MODE, PROGRAM_MODE
from pps_publisher.lint import Kind, Tree


def land_tree(tree: Tree, directory: Path) -> None:
    """Write a tree whose names the lint accepted into ``directory``, which is made. Raises: OSError.

    Parents come before what is in them, and links come last, so that nothing is written through one.
    """
    _make_directory(directory)
    for node in tree.nodes:
        if node.kind is Kind.DIRECTORY:
            _make_directory(directory / node.path)
        elif node.kind is Kind.FILE:
            _copy(node.source, directory / node.path, PROGRAM_MODE if node.executable else FILE_MODE)
    for node in tree.nodes:
        if node.kind is Kind.LINK:
            (directory / node.path).symlink_to(node.to)


def _make_directory(path: Path) -> None:
    path.mkdir()
    path.chmod(DIRECTORY_MODE)


def _copy(source: Path, place: Path, mode: int) -> None:
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as writer, source.open("rb") as reader:
        shutil.copyfileobj(reader, writer, 1024 * 1024)
        os.fchmod(writer.fileno(), mode)

"""Which old file a new one most likely came from, judged by names and sizes alone. Pure."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from pps_wire.delta import MAX_DELTA_FILE_BYTES
from pps_wire.manifest import File, Manifest

_NUMBERS: Final = re.compile(r"[0-9]+(?:\.[0-9]+)*")


def pair_files(old: Manifest, new: Manifest) -> Iterator[tuple[File, File]]:
    """Give each new content that the old release has not, with the old file to make its delta from.

    The file of the same path, else of the same name but for its numbers (``libcurl.so.4.8.0`` for
    ``libcurl.so.4.8.1``). A content that stands twice comes once, as the first of its paths; files that
    are empty or larger than MAX_DELTA_FILE_BYTES do not come.
    """
    known = {file.h for file in old.files()}
    fitting = [file for file in old.files() if 0 < file.s <= MAX_DELTA_FILE_BYTES]
    paths = {file.p: file for file in fitting}
    stems = defaultdict(list)
    for file in fitting:
        stems[_stem(file.p)].append(file)
    for file in new.files():
        if file.h in known or not 0 < file.s <= MAX_DELTA_FILE_BYTES:
            continue
        known.add(file.h)
        from_ = paths.get(file.p) or _nearest(file, stems[_stem(file.p)])
        if from_ is not None:
            yield from_, file


def _stem(path: str) -> str:
    return _NUMBERS.sub("0", posixpath.basename(path))


def _nearest(new: File, candidates: list[File]) -> File | None:
    """Give the candidate that shares most of the path, its name included; then the one nearest in size."""

    def distance(old: File) -> tuple[int, int, str]:
        ours, theirs = new.p.split("/"), old.p.split("/")
        shared = sum(one == other for one, other in zip(reversed(ours), reversed(theirs), strict=False))
        return -shared, abs(old.s - new.s), old.p

    return min(candidates, key=distance, default=None)

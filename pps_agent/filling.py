"""Fill one staging tree: files that are here are hashed and linked while the others still arrive.

Two threads do both kinds of work. One starts with what the network brings, the other with what is here;
who is done helps the other.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pps_agent.disk import remove_tree
from pps_agent.errors import SiteError
from pps_agent.frames import Block
from pps_agent.origins import Origins
from pps_agent.patching import Patching
from pps_agent.transfer import Reception, Source, Write, receive, reception
from pps_agent.tree import TreeWriter
from pps_wire.manifest import File

Progress = Callable[[int, int], None]
"""Called with the bytes unpacked so far and all that will be."""


class Filling:
    """Writing one tree.

    ``resumed``, ``patched`` and ``fetched`` count files: from broken-off tries, made from deltas, from frames.
    ``delta_faults`` are the reasons why deltas did not work; their files are among those fetched.
    """

    def __init__(
        self,
        tree: Path,
        origins: Origins,
        source: Source,
        length: int,
        progress: Progress,
        *,
        sync: bool,
        patching: Patching | None = None,
    ) -> None:
        patches = patching.patches if patching is not None else ()
        origins = origins.patched({patch.file.p for patch in patches})
        self.resumed = self.patched = 0
        self.fetched = origins.fetched_files
        self.delta_faults: list[str] = []
        self._patching = patching
        self._tree = tree
        self._origins = origins
        self._source = source
        self._length = length
        self._progress = progress
        self._sync = sync
        self._known = origins.known()
        self._missing: list[File] = []
        self._lock = threading.Lock()
        self._stopped = self._taken = False
        self._done_bytes = 0
        self._total_bytes = origins.fetched_bytes + sum(patch.file.s for patch in patches)

    def fill(self, dead: Sequence[Path]) -> None:
        """Make the tree and write all of it; the tries in ``dead``, which are among its origins, are removed.

        What they held is in the tree then, also when the transfer failed. Raises: FetchError, TrustError;
        OSError, SiteError.
        """
        self._tree.mkdir(mode=0o755)
        with TreeWriter(self._tree, sync=self._sync) as writer, TreeWriter(self._tree, sync=self._sync) as second:
            for directory in self._origins.manifest.directories():
                writer.make_directory(directory.p)
            self._patch(writer)
            try:
                self._take_and_receive(writer, second)
            finally:
                for path in dead if self._taken and not self._stopped else ():
                    remove_tree(path)
            self._receive_missing(writer)
            for file, first in self._origins.twins():
                if not writer.adopt(file, f"{self._tree}/{first.p}"):
                    raise SiteError(f"{self._tree}/{first.p}: changed while it was copied; check that disk")
            for link in self._origins.manifest.links():
                writer.make_link(link.p, link.to)
            if self._sync:
                writer.sync_directories(directory.p for directory in self._origins.manifest.directories())

    def _patch(self, writer: TreeWriter) -> None:
        """Make what deltas lead to; what they do not is fetched later, like what turned out damaged."""
        if self._patching is None:
            return
        for file, problem in self._patching.run(self._into(writer)):
            self.delta_faults.append(problem)
            self._missing.append(file)
            self._total_bytes -= file.s
        self.patched = len(self._patching.patches) - len(self.delta_faults)

    def _take_and_receive(self, writer: TreeWriter, second: TreeWriter) -> None:
        with (
            reception(self._origins, self._length, self._source) as arriving,
            ThreadPoolExecutor(1, "fill") as pool,
        ):
            helper = pool.submit(self._take_first, arriving, second)
            try:
                arriving.drain(self._into(writer))
            except OSError:
                self._stopped = True
                raise
            finally:
                self._take(writer)
            helper.result()
        if spoilt := arriving.spoilt():
            receive(spoilt, self._length, self._source, self._into(writer))

    def _take_first(self, arriving: Reception, writer: TreeWriter) -> None:
        try:
            self._take(writer)
        except BaseException:
            arriving.stop()
            raise
        arriving.drain(self._into(writer))

    def _take(self, writer: TreeWriter) -> None:
        """Take over what is here, file by file, until nothing is left or another thread met a fault of the machine."""
        try:
            while (step := self._next_known()) is not None:
                file, place = step
                if not file.s:
                    writer.write(file, ())
                elif writer.adopt(file, place):
                    with self._lock:
                        self.resumed += self._origins.is_leftover(place)
                elif not any(writer.adopt(file, f"{other}/{file.p}") for other in self._origins.places):
                    self._missing.append(file)
        except BaseException:
            self._stopped = True
            raise

    def _next_known(self) -> tuple[File, str] | None:
        with self._lock:
            if self._stopped:
                return None
            step = next(self._known, None)
            self._taken = step is None
            return step

    def _receive_missing(self, writer: TreeWriter) -> None:
        """Fetch what turned out damaged where it was expected."""
        if self._missing:
            self._missing.sort(key=lambda file: file.o)
            self._total_bytes += sum(file.s for file in self._missing)
            self.fetched += len(self._missing)
            receive(self._missing, self._length, self._source, self._into(writer))

    def _into(self, writer: TreeWriter) -> Write:
        def write(file: File, blocks: Iterator[Block]) -> None:
            writer.write(file, blocks)
            with self._lock:
                self._done_bytes += file.s
                self._progress(self._done_bytes, self._total_bytes)

        return write

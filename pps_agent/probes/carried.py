"""Probes that a release carries, ``probes/<name>/`` in its tree: as trusted as the release, and for it alone.

What counts is the signed manifest: which files there are, that they are files and no links, and every byte
of the two that matter. So it makes no difference who owns the tree, which others may distribute.
"""

from typing import Final

from pps_agent.errors import SiteError
from pps_agent.probes.catalogue import Catalogue, Origin, Refused
from pps_agent.probes.directory import METADATA, PROGRAM, Read, read_probe
from pps_agent.store import Store
from pps_wire.errors import WireError
from pps_wire.manifest import File
from pps_wire.names import ReleaseId

CARRIED: Final = "probes"
"""Where probes stand in a release's tree."""


def load_carried(store: Store, release: ReleaseId) -> Catalogue:
    """Read the probes of an installed release; what is not as signed is refused. Raises: SiteError."""
    base = store.tree(release) / CARRIED
    if not base.is_dir():
        return Catalogue()
    try:
        files = {file.p: file for file in store.manifest(release).files() if file.p.startswith(f"{CARRIED}/")}
    except (OSError, WireError) as exc:
        raise SiteError(f"{release}: its manifest cannot be read: {exc}; pps-agent release repair {release}") from exc
    names = sorted({path.split("/")[1] for path in files if path.endswith(f"/{METADATA}") and path.count("/") == 2})
    reads = [(read, _fault(read, files, release)) for read in (read_probe(base / name, signed=True) for name in names)]
    fine = [read for read, fault in reads if not fault]
    refused = [
        Refused(read.path, read.names, (fault, *read.faults[1:]), "", Origin.RELEASE) for read, fault in reads if fault
    ]
    definitions = tuple(read.definition for read in fine if read.definition is not None)
    # merging refuses the second of two that claim one name
    return Catalogue(refused=tuple(refused), reads={read.path: read for read, _ in reads}).merge(Catalogue(definitions))


def _fault(read: Read, files: dict[str, File], release: ReleaseId) -> str:
    """Tell what keeps one probe from running; empty when nothing does."""
    for name, sha256 in ((METADATA, read.metadata_sha256), (PROGRAM, read.program_sha256)):
        file = files.get(f"{CARRIED}/{read.path.name}/{name}")
        if file is None:
            return f"{read.path}: {name} is no file of {release}'s manifest: its release manager must ship it"
        if sha256 and sha256 != file.h:
            return f"{read.path / name}: is not what was signed: pps-agent release repair {release}"
    return read.faults[0] if read.faults else ""

"""``SHA256SUMS`` beside probes: what a package installed, in the format of sha256sum(1). Pure.

::

    cd /usr/libexec/pps-agent/probes && sha256sum */probe.toml */run >SHA256SUMS

Where a directory has one, each probe below it must stand in it with both its files.
"""

import re
from collections.abc import Mapping
from typing import Final

SUMS: Final = "SHA256SUMS"
MAX_SUMS_BYTES: Final = 16 * 1024**2
_LINE: Final = re.compile(r"(?P<sha256>[0-9a-f]{64}) [ *](?:\./)?(?P<path>[^\\/\x00]+/[^\\\x00]+)", re.ASCII)


def parse_sums(content: bytes, faults: list[str]) -> dict[str, str]:
    """Read sha256sum's output: sha256 (hex) by relative path. What cannot be read is added to the faults."""
    sums: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        if found := _LINE.fullmatch(line):
            sums[found["path"]] = found["sha256"]
        elif line.strip():
            faults.append(
                f"{SUMS}:{number}: not a line of sha256sum: make the list anew when the probes are as they were"
            )
    return sums


def find_difference(sums: Mapping[str, str], directory: str, found: Mapping[str, str]) -> str:
    """Tell what of a probe is not as installed; ``found`` holds sha256 by file name. Empty when all is."""
    for name, sha256 in found.items():
        listed = sums.get(f"{directory}/{name}")
        if listed is None:
            hint = "it did not come with the package; move it to a directory of paths.probes"
            return f"{directory}/{name} is not in {SUMS}: {hint}"
        if listed != sha256:
            digests = f"sha256 {sha256[:16]}…, installed {listed[:16]}…"
            return (
                f"{directory}/{name} was changed since it was installed ({digests}):"
                " install the package again, or make a probe of your own with pps-agent probe clone"
            )
    return ""

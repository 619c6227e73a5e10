"""Names that stand in paths, tags and messages: one type and one parser each.

Standard library only, so that the tag commands and the node payload can afford it.
Every parser takes any string and raises WireError and nothing else.
"""

import re
from typing import Final, NewType

from pps_wire.errors import WireError

Component = NewType("Component", str)
Version = NewType("Version", str)
Platform = NewType("Platform", str)
ReleaseId = NewType("ReleaseId", str)
Vo = NewType("Vo", str)
Tag = NewType("Tag", str)
Site = NewType("Site", str)
Subcluster = NewType("Subcluster", str)
HostGroup = NewType("HostGroup", str)
ProbeName = NewType("ProbeName", str)

DEFAULT_GROUP: Final = HostGroup("default")
"""The host group of a site that has only one, and of every report that names none."""
ARCHES: Final = ("aarch64", "noarch", "ppc64le", "x86_64")
MAX_TAG_LEN: Final = 255

# "(?!\n)" because Python's "$" also matches before a final newline; JSON Schema's does not.
_END = r"$(?!\n)"
_TAG_REST: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
COMPONENT_PATTERN: Final = r"^[a-z0-9][a-z0-9+._-]{0,63}" + _END
VERSION_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9+._~]{0,63}" + _END
PLATFORM_PATTERN: Final = (
    r"^(?:" + "|".join(ARCHES) + r")-glibc[0-9]{1,2}\.[0-9]{1,3}(?:-[a-z0-9][a-z0-9._]{0,31})?" + _END
)
RELEASE_ID_PATTERN: Final = (
    r"^[a-z0-9][a-z0-9+._-]{0,63}-[A-Za-z0-9][A-Za-z0-9+._~]{0,63}-(?:"
    + "|".join(ARCHES)
    + r")-glibc[0-9]{1,2}\.[0-9]{1,3}(?:-[a-z0-9][a-z0-9._]{0,31})?"
    + _END
)
VO_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}" + _END
SUFFIX_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,180}" + _END
SITE_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}" + _END
SUBCLUSTER_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}" + _END
GROUP_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}" + _END
GLIBC_PATTERN: Final = r"^[0-9]{1,2}\.[0-9]{1,3}" + _END
PROBE_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}(?:\.[A-Za-z0-9][A-Za-z0-9_-]{0,62}){1,8}" + _END

_DIGITS_OR_LETTERS = re.compile(r"[0-9]+|[A-Za-z]+|~")


def parse_component(text: str) -> Component:
    """Read a component name, e.g. ``grid-clients``: lower case, at most 64 characters."""
    return Component(_match(COMPONENT_PATTERN, text, "component", "a lower-case word such as grid-clients"))


def parse_version(text: str) -> Version:
    """Read a version, e.g. ``6.1.0``: no ``-``, so that a release id reads one way only."""
    return Version(_match(VERSION_PATTERN, text, "version", "letters, digits and + . _ ~, no '-', e.g. 6.1.0"))


def parse_platform(text: str) -> Platform:
    """Read a platform ``<arch>-glibc<min>[-<os>]``, e.g. ``x86_64-glibc2.36-debian12``."""
    return Platform(_match(PLATFORM_PATTERN, text, "platform", "<arch>-glibc<min>[-<os>], e.g. x86_64-glibc2.36"))


def parse_release_id(text: str) -> ReleaseId:
    """Check a release id as a whole; it is never taken apart again."""
    return ReleaseId(_match(RELEASE_ID_PATTERN, text, "release", "<component>-<version>-<platform>"))


def parse_vo(text: str) -> Vo:
    """Read a virtual organisation's name, kept as written, e.g. ``dteam`` or ``vo.neugrid.eu``."""
    return Vo(_match(VO_PATTERN, text, "vo", "letters, digits and . _ -, e.g. dteam"))


def parse_site(text: str) -> Site:
    """Read a site name as the topology source writes it, e.g. ``CERN-PROD``."""
    return Site(_match(SITE_PATTERN, text, "site", "letters, digits and . _ -, e.g. CERN-PROD"))


def parse_subcluster(text: str) -> Subcluster:
    """Read a GlueSubClusterUniqueID; it becomes a directory name, so no ``/`` and no leading dot."""
    return Subcluster(_match(SUBCLUSTER_PATTERN, text, "subcluster", "a host-like name, e.g. ce01.example.org"))


def parse_host_group(text: str) -> HostGroup:
    """Read a host group's name, e.g. ``el9-workers``."""
    return HostGroup(_match(GROUP_PATTERN, text, "group", "letters, digits and . _ -, e.g. el9-workers"))


def parse_probe_name(text: str) -> ProbeName:
    """Read a probe's reverse-DNS name, e.g. ``org.pps.wn.softver``."""
    return ProbeName(_match(PROBE_PATTERN, text, "probe", "a reverse-DNS name such as org.pps.wn.softver"))


def parse_tag(text: str, vo: Vo) -> Tag:
    """Read one VO tag of ``vo``, e.g. ``VO-dteam-pps-6.1.0``.

    ASCII, at most MAX_TAG_LEN characters. A tag of another VO is refused: the VO part cannot be
    told from the text alone, since VO names may hold ``-``.
    Source: GLUE schema 1.3, GlueHostApplicationSoftwareRunTimeEnvironment (an IA5 string).
    """
    prefix = f"VO-{vo}-"
    wanted = f"{prefix}<name> with letters, digits and . _ - only"
    if not text.startswith(prefix):
        raise WireError("tag", f"{text[:80]!r} is not a tag of VO {vo}: write {wanted}")
    if len(text) > MAX_TAG_LEN:
        raise WireError("tag", f"{text[:40]!r}… has {len(text)} characters, at most {MAX_TAG_LEN} are allowed")
    if re.fullmatch(_TAG_REST, text[len(prefix) :]) is None:
        raise WireError("tag", f"{text!r} is not a valid tag: write {wanted}")
    return Tag(text)


def tag_pattern(vo: Vo) -> re.Pattern[str]:
    """Give what finds the tags of ``vo`` among words parted by ASCII white space: for lists of many thousands."""
    prefix = f"VO-{vo}-"
    rest = f"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_TAG_LEN - len(prefix) - 1}}}"
    return re.compile(rf"(?<![^ \t\n\r\v\f]){re.escape(prefix)}{rest}(?![^ \t\n\r\v\f])")


def expand_tag(suffix: str, vo: Vo) -> Tag:
    """Give the tag that announces a release with this tag suffix to one VO."""
    return parse_tag(f"VO-{vo}-{suffix}", vo)


def format_release_id(component: Component, version: Version, platform: Platform) -> ReleaseId:
    """Join the three parts into the release id, which is also its directory name in the store."""
    return ReleaseId(f"{component}-{version}-{platform}")


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Give a sort key: numbers by value, ``~`` before the end of the text, letters before numbers.

    The order RPM and dpkg users expect: ``1.0~rc1 < 1.0 < 1.0.1 < 1.0.10``.
    """
    key: list[tuple[int, int, str]] = []
    for piece in _DIGITS_OR_LETTERS.findall(version):
        if piece == "~":
            key.append((0, 0, ""))
        elif piece.isdigit():
            key.append((3, int(piece), ""))
        else:
            key.append((2, 0, piece))
    key.append((1, 0, ""))
    return tuple(key)


def _match(pattern: str, text: str, where: str, wanted: str) -> str:
    if re.match(pattern, text) is None:
        raise WireError(where, f"{text[:80]!r} is not valid: write {wanted}")
    return text

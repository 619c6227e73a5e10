"""What a signed release says of itself before anything is downloaded: the TUF target's ``custom``.

Unknown fields are ignored (a newer publisher may add some); a higher ``v`` is refused.
Source: TUF specification 1.0, clause 4.5 (TARGETS, ``custom`` is opaque to TUF).
"""

from enum import Enum
from typing import Annotated, Any, Final

import msgspec

from pps_wire import names
from pps_wire.document import MAX_INTEGER, FormatVersion, Moment, decode_document, refuse_newer
from pps_wire.errors import WireError
from pps_wire.names import Component, Platform, ReleaseId, Tag, Version, Vo

CUSTOM_VERSION: Final = 1
WITHDRAWAL_VERSION: Final = 1
MAX_ARTIFACT_BYTES: Final = 16 * 1024**3

ComponentText = Annotated[Component, msgspec.Meta(pattern=names.COMPONENT_PATTERN)]
VersionText = Annotated[Version, msgspec.Meta(pattern=names.VERSION_PATTERN)]
PlatformText = Annotated[Platform, msgspec.Meta(pattern=names.PLATFORM_PATTERN)]
ReleaseIdText = Annotated[ReleaseId, msgspec.Meta(pattern=names.RELEASE_ID_PATTERN)]
VoText = Annotated[Vo, msgspec.Meta(pattern=names.VO_PATTERN)]
ProbeText = Annotated[names.ProbeName, msgspec.Meta(pattern=names.PROBE_PATTERN)]
SiteText = Annotated[names.Site, msgspec.Meta(pattern=names.SITE_PATTERN)]
SubclusterText = Annotated[names.Subcluster, msgspec.Meta(pattern=names.SUBCLUSTER_PATTERN)]
SuffixText = Annotated[str, msgspec.Meta(pattern=names.SUFFIX_PATTERN)]
Sha256Text = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
ShortText = Annotated[str, msgspec.Meta(max_length=1024)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
_ArtifactPath = Annotated[str, msgspec.Meta(pattern=r"^artifacts/[A-Za-z0-9][A-Za-z0-9+._~-]{0,250}$(?!\n)")]
RelativePath = Annotated[
    str, msgspec.Meta(pattern=r"^(?!.*(?:^|/)\.\.?(?:/|$))[A-Za-z0-9._+-]+(?:/[A-Za-z0-9._+-]+)*$(?!\n)")
]
VariableText = Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Z0-9_]{0,63}$(?!\n)")]
_GlibcText = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,2}\.[0-9]{1,3}$(?!\n)")]


class ReleaseClass(Enum):
    """How a client update reaches sites (service description, sections 4.1.1 and 4.1.2)."""

    CLIENT_BC = "client-bc"
    CLIENT_NBC = "client-nbc"


class Severity(Enum):
    """Severity of a fixed bug, as the EMT assigns it."""

    MINOR = "minor"
    NORMAL = "normal"
    MAJOR = "major"
    CRITICAL = "critical"


class Flag(Enum):
    """A yes/no question the release manager answers; one not answered is unknown, not no."""

    ENVIRONMENT_CHANGE = "environment-change"
    OLD_SERVERS_INCOMPATIBLE = "old-servers-incompatible"
    NEW_FUNCTIONALITY = "new-functionality"
    SCHEMA_CHANGE = "schema-change"
    OPERATIONAL_CHANGE = "operational-change"


class Fix(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One bug or request this release resolves, e.g. ``bug:96306``."""

    id: ShortText
    severity: Severity
    summary: ShortText = ""


class ConfigStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing a site's administrator must do before a ``client-nbc`` release may be announced.

    ``check`` is an argument list that exits 0 once the step is done; empty means a person says so.
    """

    id: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$(?!\n)")]
    text: ShortText
    check: tuple[str, ...] = ()


class Changes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the classifier judges: configuration variables before and after, fixes, effort, flags.

    ``effort_ph`` is in person-hours, a whole number: the signed JSON of TUF has no fractions.
    """

    variables_old: dict[str, str] = {}
    variables_new: dict[str, str] = {}
    fixes: tuple[Fix, ...] = ()
    effort_ph: Count | None = None
    effort_validated: bool = False
    flags: dict[Flag, bool] = {}


class Requires(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node must offer: machine architecture, lowest glibc, and the OS id when bound to one."""

    arch: str
    glibc: _GlibcText
    os: str = ""


class Overlay(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a release's environment adds to the site's: paths inside the tree, relative to its root.

    ``prepend`` puts entries before the site's in a colon-separated list, ``assign`` sets one path,
    e.g. ``prepend={"PATH": ("bin",)}``, ``assign={"GFAL_CONFIG_DIR": "etc/gfal2.d"}``.
    """

    prepend: dict[VariableText, tuple[RelativePath, ...]] = {}
    assign: dict[VariableText, RelativePath] = {}


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """The chunked tarball: where it lies below the repository's root, and how large it is."""

    path: _ArtifactPath
    length: Annotated[int, msgspec.Meta(ge=0, le=MAX_ARTIFACT_BYTES)]
    sha256: Sha256Text
    installed_bytes: Count
    files: Count


class MirroredFrom(msgspec.Struct, frozen=True, kw_only=True):
    """Where a pilot's repository has a release from: sha256 of that one's first root, version of its ``clients``."""

    root_sha256: Sha256Text
    clients_version: Count


class Deltas(msgspec.Struct, frozen=True, kw_only=True):
    """The pack of per-file deltas beside the artifact; the manifest says what lies where in it.

    A reader that does not know ``format`` (see ``pps_wire/delta.py``) does without.
    """

    format: ShortText
    path: _ArtifactPath
    length: Annotated[int, msgspec.Meta(ge=0, le=MAX_ARTIFACT_BYTES)]
    sha256: Sha256Text


class Release(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A preview as its publisher describes it; lives in the ``custom`` of its TUF target."""

    # From a factory, because omit_defaults would leave a plain default out of what is signed.
    v: FormatVersion = msgspec.field(default_factory=lambda: CUSTOM_VERSION)
    component: ComponentText
    version: VersionText
    platform: PlatformText
    class_: ReleaseClass = msgspec.field(name="class")
    vos: Annotated[tuple[VoText, ...], msgspec.Meta(min_length=1)]
    tag_suffix: SuffixText
    requires: Requires
    artifact: Artifact
    environment: Overlay = Overlay()
    probes: tuple[ProbeText, ...] = ()
    changes: Changes = Changes()
    config_steps: tuple[ConfigStep, ...] = ()
    replaces: tuple[ReleaseIdText, ...] = ()
    expires_at: Moment | None = None
    references: tuple[ShortText, ...] = ()
    deltas: Deltas | None = None
    mirrored_from: MirroredFrom | None = None

    def __post_init__(self) -> None:
        for vo in self.vos:
            names.expand_tag(self.tag_suffix, vo)

    @property
    def id(self) -> ReleaseId:
        """The release id, also its directory name in every store."""
        return names.format_release_id(self.component, self.version, self.platform)

    def tags(self) -> dict[Vo, Tag]:
        """Give the tag that announces this release, one per VO."""
        return {vo: names.expand_tag(self.tag_suffix, vo) for vo in self.vos}


class Withdrawal(msgspec.Struct, frozen=True, kw_only=True):
    """Says that a release must no longer be used. One signature suffices; see ADR 0003."""

    v: FormatVersion = WITHDRAWAL_VERSION
    release: ReleaseIdText
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    at: Moment


_WITHDRAWAL = msgspec.json.Decoder(Withdrawal)


def target_path(release: Release) -> str:
    """Give the TUF target path of a release's manifest; three levels, as the delegation demands."""
    return f"clients/{release.component}/{release.version}/{release.platform}.manifest.zst"


def withdrawal_path(release: Release) -> str:
    """Give the TUF target path under which a release is withdrawn."""
    return f"withdrawals/{release.component}/{release.version}/{release.platform}.json"


def parse_release(custom: object) -> Release:
    """Read a release from the decoded ``custom`` object of a verified TUF target.

    Raises: WireError and nothing else, for any JSON-like value.
    """
    refuse_newer(_peek_version(custom), "release", CUSTOM_VERSION)
    try:
        release = msgspec.convert(custom, Release)
        # What another reader handed over may hold lone surrogates, which could not be written again.
        msgspec.json.encode(release)
    except (msgspec.MsgspecError, WireError, RecursionError, UnicodeEncodeError) as exc:
        raise WireError("release", str(exc)) from exc
    return release


def parse_withdrawal(raw: bytes) -> Withdrawal:
    """Read a withdrawal document. Raises: WireError and nothing else, for any bytes."""
    return decode_document(raw, _WITHDRAWAL, "withdrawal", WITHDRAWAL_VERSION)


def render_custom(release: Release) -> dict[str, Any]:
    """Give the JSON-like object that goes into the TUF target's ``custom``."""
    built: dict[str, Any] = msgspec.to_builtins(release)
    return built


def _peek_version(custom: object) -> int:
    """Give the format before anything else is looked at: a newer one may have other fields."""
    try:
        return msgspec.convert(custom.get("v", 1) if isinstance(custom, dict) else 1, FormatVersion)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return 1

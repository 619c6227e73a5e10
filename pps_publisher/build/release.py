"""From a finished tree and its description to the three files of a build."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pps_publisher.bundle import Bundle, pack_manifest, save_bundle
from pps_publisher.chunks import artifact_path, write_artifact
from pps_publisher.errors import PublishError
from pps_publisher.files import replacing
from pps_publisher.lint import Tree
from pps_publisher.roles import plain_custom
from pps_wire.classify import classify_client
from pps_wire.names import Component, Platform, ProbeName, ReleaseId, Version, Vo, format_release_id
from pps_wire.release import (
    Artifact,
    Changes,
    ConfigStep,
    Overlay,
    Release,
    ReleaseClass,
    Requires,
    parse_release,
    render_custom,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the release manager says of a release; the rest is computed from its tree."""

    component: Component
    version: Version
    platform: Platform
    class_: ReleaseClass
    vos: tuple[Vo, ...]
    tag_suffix: str
    requires: Requires
    environment: Overlay = Overlay()  # noqa: RUF009 - frozen
    probes: tuple[ProbeName, ...] = ()
    changes: Changes = Changes()  # noqa: RUF009 - frozen
    config_steps: tuple[ConfigStep, ...] = ()
    replaces: tuple[ReleaseId, ...] = ()
    expires_at: datetime | None = None
    references: tuple[str, ...] = ()

    @property
    def id(self) -> ReleaseId:
        """The release id."""
        return format_release_id(self.component, self.version, self.platform)


def check_description(description: Description) -> Release:
    """Give the release without its artifact's figures, so that faults show before any work is done.

    Raises: WireError for a field that sites would refuse; PublishError when the stated class
    contradicts the classifier; ConfigError when a figure cannot be signed.
    """
    refuse_wrong_class(description)
    nothing = Artifact(path=artifact_path(description.id), length=0, sha256="0" * 64, installed_bytes=0, files=0)
    release = _release_of(description, nothing)
    plain_custom(release)
    return release


def refuse_wrong_class(description: Description) -> None:
    """Refuse a release that calls itself backward compatible and is not; stricter than needed is allowed.

    Raises: PublishError with every reason.
    """
    judged = classify_client(description.changes, description.config_steps)
    if description.class_ is ReleaseClass.CLIENT_BC and judged.class_ is not ReleaseClass.CLIENT_BC:
        raise PublishError(
            f"{description.id} is not {ReleaseClass.CLIENT_BC.value}: it "
            + "; it ".join(judged.reasons)
            + f". Publish it as --class {ReleaseClass.CLIENT_NBC.value}, or take the changes out"
        )


def write_bundle(tree: Tree, description: Description, directory: Path) -> Bundle:
    """Write artifact, manifest and description of a release into ``directory``.

    Same tree and description, same bytes. Raises: as ``check_description``; WireError when the tree
    holds names that sites would refuse; OSError.
    """
    check_description(description)
    place = directory / f"{description.id}.tar.zst"
    with replacing(place) as stream:
        manifest, artifact = write_artifact(tree, description.id, stream)
    bundle = Bundle(_release_of(description, artifact), pack_manifest(manifest), place)
    save_bundle(directory, bundle)
    return bundle


def _release_of(description: Description, artifact: Artifact) -> Release:
    release = Release(
        component=description.component,
        version=description.version,
        platform=description.platform,
        class_=description.class_,
        vos=description.vos,
        tag_suffix=description.tag_suffix,
        requires=description.requires,
        artifact=artifact,
        environment=description.environment,
        probes=description.probes,
        changes=description.changes,
        config_steps=description.config_steps,
        replaces=description.replaces,
        expires_at=description.expires_at,
        references=description.references,
    )
    return parse_release(render_custom(release))

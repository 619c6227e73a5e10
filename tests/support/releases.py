"""Releases whose probes pass, or fail on purpose, in a small repository."""

from typing import Any

from pps_wire.release import Overlay, Release
from tests.support.repository import Content, Program, SmallRepository

OVERLAY = Overlay(prepend={"PATH": ("bin",)})
BROKEN_CLIENT = Program(b"#!/bin/sh\necho 'xrdcp: symbol lookup error' >&2\nexit 127\n")
"""As ``bin/xrdcp`` it makes the probe wn.softver CRITICAL."""


def release_id(version: str, component: str = "grid-clients") -> str:
    """Give the id of a release of the default platform."""
    return f"{component}-{version}-x86_64-glibc2.36"


def passing_files(version: str, **more: Content) -> dict[str, Content]:
    """Give the files of a release whose default probes pass; ``bin__x`` in ``more`` is ``bin/x``."""
    files: dict[str, Content] = {
        "VERSION": f"{version}\n".encode(),
        "bin/hello": Program(f"#!/bin/sh\necho hello {version}\n".encode()),
        "share/doc": b"the same in every version\n" * 100,
    }
    return files | {name.replace("__", "/"): content for name, content in more.items()}


def publish_passing(repository: SmallRepository, version: str = "1.0.0", **fields: Any) -> Release:
    """Publish a release whose default probes pass; ``files`` adds to its tree, the rest as in ``publish``."""
    files = passing_files(version) | fields.pop("files", {})
    return repository.publish(files, version=version, **{"environment": OVERLAY, **fields})


def publish_broken(repository: SmallRepository, version: str, **fields: Any) -> Release:
    """Publish a release whose probe wn.softver is CRITICAL."""
    return publish_passing(repository, version, files={"bin/xrdcp": BROKEN_CLIENT}, **fields)

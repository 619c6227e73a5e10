"""A preview with a client of its own, installed and tagged at a small site, and what a user's job does with it."""

import contextlib
import re
import select
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pps_wire.names import ReleaseId
from tests.support.releases import publish_passing, release_id
from tests.support.repository import Program, SmallRepository, serve
from tests.support.site import SmallSite

TAG = "VO-dteam-pps-1.0.0"
SAYS = "v1.0.0 of the preview\n"
"""What the preview's xrdcp prints as its version, by which it is told from production's."""
CLIENT = Program(b"#!/bin/sh\necho v1.0.0 of the preview\n")


@dataclass(frozen=True)
class Preview:
    """A release that a round has installed, probed and tagged."""

    repository: SmallRepository
    site: SmallSite

    @property
    def environment(self) -> str:
        """The line by which a job takes the preview's environment, as docs/howto/use-a-preview.md says."""
        return f". {self.site.store}/releases/{release_id('1.0.0')}/env.sh"

    def requirement(self, form: str) -> str:
        """Give the line by which a job asks for the preview."""
        return self.site.run("tag", "requirement", TAG, "--format", form).stdout.strip()

    def render(self, form: str, *options: str) -> str:
        """Give what the site prints for those that match jobs."""
        answer = self.site.run("tag", "render", "--format", form, *options)
        assert (answer.code, answer.stderr) == (0, ""), answer
        return answer.stdout

    def as_agent(self, script: str) -> str:
        """Give a script of the documentation as it is for this site: its command line, its subcluster."""
        command = shlex.join(self.site.command()).replace("\\", "\\\\")
        return re.sub(r"(?:/usr/bin/)?\bpps-agent\b", command, script)

    def withdraw(self) -> None:
        """Take the release back and let the site see it."""
        self.repository.withdraw(ReleaseId(release_id("1.0.0")))
        assert "removetags" in self.site.once().actions


@contextlib.contextmanager
def install_preview(publisher: Path, site: Path) -> Iterator[Preview]:
    """Publish a preview in one directory and install it in another; users' jobs must see the latter."""
    repository = SmallRepository(publisher)
    publish_passing(repository, files={"bin/xrdcp": CLIENT})
    with serve(repository.served) as server:
        preview = Preview(repository, SmallSite(site, server.url, repository.root_bytes))
        assert "addtags" in preview.site.once().actions
        yield preview


def version_twice(begun: Path, gate: Path) -> str:
    """Give a job that says its client's version, that it has begun, and its client's version again past the gate."""
    return f"xrdcp --version; touch {begun}; until [ -e {gate} ]; do sleep 0.1; done; xrdcp --version"


def await_true(holds: Callable[[], bool], why: Callable[[], str]) -> None:
    """Wait until it holds; for what other programs do in their own time."""
    for _ in range(900):
        if holds():
            return
        select.select([], [], [], 0.1)
    raise AssertionError(why())

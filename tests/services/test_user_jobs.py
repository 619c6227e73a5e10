"""The point of it all: a user's job that asks for a preview gets it, one that does not gets production's."""

import json
import re
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.arex import ENDPOINT, ComputingElement, run_arex
from tests.support.releases import publish_passing, release_id
from tests.support.repository import Program, SmallRepository, serve
from tests.support.site import SmallSite

TAG = "VO-dteam-pps-1.0.0"
RTE = f"APPS/PPS/{TAG}"
INTERFACE = "org.nordugrid.arcrest"
PREVIEW = Program(b"#!/bin/sh\necho v1.0.0 of the preview\n")


@pytest.fixture(scope="module")
def arex() -> Iterator[ComputingElement]:
    with run_arex() as element:
        yield element


def await_true(element: ComputingElement, holds: Callable[[], bool]) -> None:
    for _ in range(180):
        if holds():
            return
        select.select([], [], [], 0.5)
    raise AssertionError(element.logs())


def offered(element: ComputingElement) -> bool:
    return RTE in element.command("arcinfo", "-l", "-c", ENDPOINT, "-I", INTERFACE).split()


def submit(element: ComputingElement, work: Path, name: str, script: str, relations: str = "") -> Path:
    """Send a job as a user does; give its list."""
    listing = work / f"{name}.db"
    quoted = script.replace('"', '""')
    job = f'&(executable="/bin/sh")(arguments="-c" "{quoted}")(stdout="out")(stderr="err")(jobname="{name}"){relations}'
    element.command("arcsub", "-C", ENDPOINT, "-Q", INTERFACE, "-T", INTERFACE, "-j", str(listing), "-e", job)
    return listing


def output_of(element: ComputingElement, listing: Path) -> str:
    """Wait for the end of a job and give what it printed."""

    def is_over() -> bool:
        said = element.command("arcstat", "-j", str(listing), "-a")
        assert "Failed" not in said, said + element.logs()
        return "Finished" in said

    await_true(element, is_over)
    got = listing.with_suffix(".got")
    element.command("arcget", "-j", str(listing), "-a", "-D", str(got))
    return "".join(path.read_text() for path in sorted(got.rglob("*")) if path.name in ("out", "err"))


def test_on_arc_the_tag_sends_a_job_to_the_preview_until_it_is_withdrawn(
    arex: ComputingElement, public_directory: Path
) -> None:
    repository = SmallRepository(public_directory / "publisher")
    publish_passing(repository, files={"bin/xrdcp": PREVIEW})
    with serve(repository.served) as server:
        site = SmallSite(public_directory / "site", server.url, repository.root_bytes)
        arc = ["tag", "arc", "--runtime-dir", str(arex.runtime), "--arcctl", "/usr/sbin/arcctl"]
        arc += ["--arc-config", str(arex.base / "arc.conf")]
        assert "addtags" in site.once().actions
        assert json.loads(site.run(*arc, "--output", "json").stdout)["written"] == [RTE]
        await_true(arex, lambda: offered(arex))
        asked = site.run("tag", "requirement", TAG, "--format", "xrsl").stdout.strip()
        work = public_directory / "jobs"
        work.mkdir()
        with_tag = submit(arex, work, "asks", "xrdcp --version", asked)
        without = submit(arex, work, "asks-nothing", "xrdcp --version")
        running = submit(arex, work, "runs-on", "xrdcp --version; sleep 15; xrdcp --version", asked)
        assert output_of(arex, with_tag) == "v1.0.0 of the preview\n"
        assert re.fullmatch(r"v5\.\S+\n", output_of(arex, without))
        repository.withdraw(release_id("1.0.0"))
        site.once()
        assert json.loads(site.run(*arc, "--output", "json").stdout)["removed"] == [RTE]
        await_true(arex, lambda: not offered(arex))
        with pytest.raises(AssertionError, match="arcsub"):  # no computing element fits
            submit(arex, work, "too-late", "xrdcp --version", asked)
        assert output_of(arex, running) == "v1.0.0 of the preview\n" * 2

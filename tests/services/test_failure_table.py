"""What drops, freezes or halves tags in information systems, and that it does none of that to ours.

Each row was seen with bdii-update 6.0, slapd 2.5 and providers that print lists as they are; here the same daemons run
ours. "Kept" is a tag that was there before; it and a new one must be shown, in both schemas, while the row lasts.

| row | what happens | to providers that print lists as they are |
|---|---|---|
| F1 | two tags differ in letter case only | slapd refuses the change of the entry: nobody's tags change any more |
| F2 | a tag is not ASCII | the same |
| F3 | a tag holds ``dn:`` | bdii-update cuts the list there |
| F4 | the lists' file system does not answer | the time is up, all tags vanish |
| F5 | a list cannot be read | nothing is printed, all tags vanish |
| F6 | it is killed while it prints | half is shown as the whole |
| F7 | the entry has no tag of its own | all tags are dropped in silence |
| F8 | several plugins for one entry | one overwrites the other |
| F9 | an id holds ``,`` or ``+`` | slapd refuses the entry |
| F10 | GLUE 2: two tags differ in letter case only | one of them is shown, which one changes |
"""

import contextlib
import itertools
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.bdii import render_static_glue2, render_static_ldif
from pps_agent import infosys
from pps_agent.infosys import Expectation
from pps_agent.tags.store import TagStore
from pps_wire.names import Subcluster, Tag, Vo
from tests.services.conftest import ROOT, SERVICE, SITE, SUBCLUSTERS, Bdii
from tests.support.services import need

SC1, SC2 = SUBCLUSTERS
DTEAM, OPS = Vo("dteam"), Vo("ops")
KEPT = Tag("VO-dteam-kept-1.0")
ATTRIBUTE = "GlueHostApplicationSoftwareRunTimeEnvironment"
RESOURCE = "mds-vo-name=resource,o=grid"
_numbers = itertools.count()


def await_shown(bdii: Bdii, *tags: str, subcluster: Subcluster = SC1, absent: tuple[str, ...] = ()) -> frozenset[str]:
    """Wait until the server shows these tags of a subcluster and not those; give all that it shows."""
    expected = Expectation(present=frozenset(map(Tag, tags)), absent=frozenset(map(Tag, absent)))
    seen = infosys.wait_published(bdii.url, bdii.base, {subcluster: expected}, timeout_s=10, wait_s=60, poll_s=0.2)
    assert seen.reached, seen
    assert isinstance(seen.observed, dict)
    return frozenset(seen.observed[subcluster])


def glue2_tags(bdii: Bdii, subcluster: str = SC1) -> list[str]:
    """Give the ids of the application environments of a subcluster."""
    command = ["ldapsearch", "-LLL", "-x", "-o", "ldif_wrap=no", "-H", bdii.url, "-b", "o=glue"]
    command += [
        f"(&(objectClass=GLUE2ApplicationEnvironment)(GLUE2ApplicationEnvironmentExecutionEnvironmentForeignKey={subcluster}))",
        "GLUE2ApplicationEnvironmentID",
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.findall(r"^GLUE2ApplicationEnvironmentID: (.*)$", found, re.MULTILINE)


def await_glue2(bdii: Bdii, tag: str, subcluster: str = SC1) -> list[str]:
    """Wait until a tag is shown in GLUE 2; give all that are."""
    for _ in range(300):
        if tag in (found := glue2_tags(bdii, subcluster)):
            return found
        select.select([], [], [], 0.2)
    raise AssertionError(found)


@pytest.fixture
def kept(bdii: Bdii) -> Iterator[Bdii]:
    """The information system while it shows a tag that no row may take away."""
    bdii.store.add(DTEAM, [KEPT], [SC1])
    await_shown(bdii, KEPT)
    await_glue2(bdii, KEPT)
    yield bdii
    bdii.store.remove(DTEAM, [KEPT], [SC1])


@contextlib.contextmanager
def plugin(bdii: Bdii, name: str, text: str, mode: int = 0o755) -> Iterator[Path]:
    """Let bdii-update call one plugin more that prints this text."""
    path = bdii.plugins / name
    path.write_text(f"#!/bin/sh\nprintf %s {shlex.quote(text)}\n")
    path.chmod(mode)
    try:
        yield path
    finally:
        path.unlink()


def addition(tag: str, subcluster: str = SC1) -> str:
    """Give what a plugin prints to add a tag."""
    return f"dn: {usual_dn(subcluster)}\nchangetype: modify\nadd: {ATTRIBUTE}\n{ATTRIBUTE}: {tag}\n\n"


def agent(bdii: Bdii, *words: str) -> list[str]:
    """Give the command line of one of the agent's commands for tags."""
    return [sys.executable, "-m", "pps_agent", "--config", str(bdii.config), "tag", *words]


def usual_dn(subcluster: str) -> str:
    return f"GlueSubClusterUniqueID={subcluster},GlueClusterUniqueID={subcluster},{RESOURCE}"


def let_cycles_pass(bdii: Bdii) -> None:
    """Wait until all providers and plugins were called anew, whatever they printed: another's plugin shows it."""
    for number in range(2):  # what the first shows may have been read before the providers were called
        with plugin(bdii, "another", addition(f"VO-ops-cycle-{number}")):
            await_shown(bdii, f"VO-ops-cycle-{number}")


# --- F1, F2, F3, F5, F10: what stands in the lists

LISTS: dict[str, tuple[bytes, list[str]]] = {
    "F1, F10: letter case": (b"VO-ops-Case\nVO-ops-case VO-ops-CASE\nVO-ops-good\n", ["vo-ops-case", "vo-ops-good"]),
    "F2: not ASCII": ("VO-ops-\N{LATIN SMALL LETTER A WITH DIAERESIS}\nVO-ops-good\n".encode(), ["vo-ops-good"]),
    "F2: not UTF-8": (b"VO-ops-\xe4\xff\nVO-ops-good\n", ["vo-ops-good"]),
    "F2: control characters": (b"VO-ops-a\x00b VO-ops-\x1b[1m\nVO-ops-good\n", ["vo-ops-good"]),
    "F3: dn: in a tag": (b"VO-ops-dn:x\nVO-ops-good\n", ["vo-ops-good"]),
    "F3: an entry in the list": (b"dn: o=grid\nchangetype: delete\n\nVO-ops-good\n", ["vo-ops-good"]),
    "no last newline": (b"# note\n\nVO-ops-first VO-ops-good", ["vo-ops-first", "vo-ops-good"]),
}


@pytest.mark.parametrize(("content", "good"), LISTS.values(), ids=LISTS)
def test_whatever_stands_in_a_list_all_good_tags_are_shown(kept: Bdii, content: bytes, good: list[str]) -> None:
    path = list_of_ops(kept)
    path.write_bytes(content)
    with added(kept) as new:
        shown = await_shown(kept, KEPT, new, "VO-ops-good")
        assert sorted(tag.lower() for tag in shown if tag.startswith("VO-ops")) == good
        in_glue2 = await_glue2(kept, new)
        assert KEPT in in_glue2
        assert sorted(tag.lower() for tag in in_glue2 if tag.startswith("VO-ops")) == good
    path.unlink()
    await_shown(kept, KEPT, absent=("VO-ops-good",))


UNREADABLE: dict[str, Callable[[Path], Any]] = {
    "a directory": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link out of the base": lambda path: path.symlink_to("/etc/shadow"),
    "a link in a circle": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("spoil", UNREADABLE.values(), ids=UNREADABLE)
def test_f5_a_list_that_cannot_be_read_takes_no_tag_of_any_vo_away(kept: Bdii, spoil: Callable[[Path], Any]) -> None:
    path = list_of_ops(kept)
    path.write_bytes(b"VO-ops-good\n")
    await_shown(kept, "VO-ops-good")
    path.unlink()
    spoil(path)
    with added(kept) as new:
        await_shown(kept, KEPT, new, "VO-ops-good")
        assert {KEPT, new, "VO-ops-good"} <= set(await_glue2(kept, new))
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    await_shown(kept, KEPT, absent=("VO-ops-good",))


def list_of_ops(bdii: Bdii) -> Path:
    path = bdii.tag_base / SC1 / OPS / "ops.list"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def added(bdii: Bdii) -> Iterator[Tag]:
    """Give a tag that is set just now and that was never there before."""
    tag = Tag(f"VO-dteam-new-{next(_numbers)}")
    bdii.store.add(DTEAM, [tag], [SC1])
    yield tag
    bdii.store.remove(DTEAM, [tag], [SC1])


# --- F4


@contextlib.contextmanager
def file_system_that_stops(directory: Path) -> Iterator[Callable[[], None]]:
    """Put a file system in user space over a directory; calling what is given stops it, as when a server went away."""
    need("" if shutil.which("bindfs") and Path("/dev/fuse").exists() else "bindfs is missing: apt-get install bindfs")
    with subprocess.Popen(["bindfs", "-f", "-o", "nonempty", str(directory), str(directory)]) as program:
        try:
            while not directory.is_mount():
                assert program.poll() is None
                select.select([], [], [], 0.01)
            yield lambda: program.send_signal(signal.SIGSTOP)
        finally:
            program.send_signal(signal.SIGCONT)
            subprocess.run(["umount", "-l", str(directory)], check=True)
            program.terminate()


def test_f4_a_file_system_that_does_not_answer_leaves_all_tags_and_other_plugins_in_time(kept: Bdii) -> None:
    with file_system_that_stops(kept.tag_base) as stop:
        stop()
        let_cycles_pass(kept)
        assert KEPT in await_shown(kept)
        assert KEPT in glue2_tags(kept)
        said = subprocess.run(agent(kept, "ldif"), capture_output=True, text=True, check=True, cwd=ROOT)
        assert KEPT in said.stdout
        assert "could not be read within 1.5 s" in said.stderr
    assert "Timed out" not in (kept.plugins.parent / "bdii-update.log").read_text()
    with added(kept) as new:
        await_shown(kept, KEPT, new)


# --- F6


@pytest.mark.parametrize("form", [("ldif",), ("render", "--format", "glue2")], ids=["GLUE 1", "GLUE 2"])
def test_f6_a_long_list_leaves_at_once_so_that_a_kill_shows_all_or_nothing(bdii: Bdii, form: tuple[str, ...]) -> None:
    count = 1500 if form == ("ldif",) else 500
    many = [Tag(f"VO-dteam-{'long' * 20}-{number}") for number in range(count)]
    bdii.store.add(DTEAM, many, [SC2])
    with subprocess.Popen(agent(bdii, *form), stdout=subprocess.PIPE, cwd=ROOT) as program:
        program.wait(60)  # though nobody reads: there is no moment at which half of it is in the pipe
        assert program.stdout is not None
        text = program.stdout.read().decode()
    bdii.store.remove(DTEAM, many, [SC2])
    assert len(text) > 2 * 65536
    assert set(many) <= set(re.findall(r"VO-dteam-\S+$", text, re.MULTILINE))
    assert text.endswith("\n\n")


# --- F7, F8, F9: what the entries are, and who else changes them


@contextlib.contextmanager
def another_site(bdii: Bdii, name: str) -> Iterator[None]:
    """Let a second site's static LDIF, plugin and provider be read, whose ids hold what parts DNs; no tag is static."""
    config = bdii.config.with_name("another.toml")
    settings = bdii.config.read_text().replace(str(list(SUBCLUSTERS)), f'["{name}"]')
    config.write_text(settings.replace(f'"{SERVICE}"', '"north,east+west"'))
    static = re.sub(rf"^{ATTRIBUTE}.*\n", "", render_static_ldif(SITE, [name]), flags=re.MULTILINE)
    static = static.replace(f"GlueClusterUniqueID={name}", r"GlueClusterUniqueID=north\, east\+west")
    static = static.replace(f"GlueClusterUniqueID: {name}", "GlueClusterUniqueID: north, east+west")
    glue2 = render_static_glue2(SITE, [name]).replace(f"ServiceID={SERVICE}", r"ServiceID=north\,east\+west")
    dn = rf"GlueSubClusterUniqueID={name},GlueClusterUniqueID=north\, east\+west,{RESOURCE}"
    paths = [bdii.plugins.parent / kind / "another-site" for kind in ("plugin", "provider")]
    forms = (["ldif", "--dn", dn], ["render", "--format", "glue2"])
    for path, form in zip(paths, forms, strict=True):
        command = [sys.executable, "-m", "pps_agent", "--config", str(config), "tag", *form]
        path.write_text(f"#!/bin/sh\nPYTHONPATH={ROOT} exec {shlex.join(command)}\n")
        path.chmod(0o755)
    paths.append(bdii.plugins.parent / "ldif" / "another.ldif")
    paths[-1].write_text(static + glue2.replace(SERVICE, "north,east+west"))
    try:
        yield
    finally:
        for path in paths:
            path.unlink()


def test_f7_f9_an_entry_without_tags_and_ids_with_commas_and_plus_signs_have_their_tags(kept: Bdii) -> None:
    name = Subcluster("ce03.example.org")
    with another_site(kept, name):
        store = TagStore(kept.tag_base, (*SUBCLUSTERS, name))
        store.add(DTEAM, [tag := Tag("VO-dteam-third-3.0")], [name])
        assert await_shown(kept, tag, subcluster=name) == {tag}
        assert await_glue2(kept, tag, name) == [tag]
        assert KEPT in await_shown(kept)
        store.remove(DTEAM, [tag], [name])
        await_shown(kept, subcluster=name, absent=(tag,))


def test_f8_another_tools_plugin_for_the_same_attribute_and_ours_are_both_shown(kept: Bdii) -> None:
    with plugin(kept, "another", addition("VO-ops-x")), added(kept) as new:
        assert await_shown(kept, KEPT, new, "VO-ops-x")
    assert KEPT in await_shown(kept, absent=("VO-ops-x",))


def test_f8_a_plugin_that_replaces_other_attributes_leaves_ours(kept: Bdii) -> None:
    old_style = f"dn: {usual_dn(SC1)}\nGlueSubClusterName: replaced\n\n"
    with plugin(kept, "old-style", old_style), added(kept) as new:
        await_shown(kept, KEPT, new)
        let_cycles_pass(kept)
        argv = ["ldapsearch", "-LLL", "-x", "-H", kept.url, "-b", kept.base, f"(GlueSubClusterUniqueID={SC1})"]
        shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.lower()
        assert "glueSubClusterName: replaced".lower() in shown
        await_shown(kept, KEPT, new)


def test_f8_a_plugin_that_replaces_our_attribute_before_we_are_called_takes_nothing_of_ours(kept: Bdii) -> None:
    """After us it takes all: bdii-update leaves no way to speak last. Its order is that of the directory."""
    text = f"dn: {usual_dn(SC1)}\n{ATTRIBUTE}: VO-ops-old\n\n"
    with contextlib.ExitStack() as stack:
        for number in range(100):  # one that is not executable prints nothing
            path = stack.enter_context(plugin(kept, f"old-style-{number}", text, mode=0o644))
            order = [each.name for each in kept.plugins.iterdir()]
            if order.index(path.name) < order.index("pps-tags"):
                path.chmod(0o755)
                break
        else:
            pytest.skip("this file system lists no new file before an old one")
        await_shown(kept, KEPT, "VO-ops-old")
    await_shown(kept, KEPT, absent=("VO-ops-old",))


# --- without the daemon


def test_bdii_update_takes_both_texts_into_the_static_entries_at_one_call(kept: Bdii) -> None:
    command = ["/usr/sbin/bdii-update", "-c", str(kept.plugins.parent / "bdii.conf")]
    merged = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    entries = {entry.partition("\n")[0]: entry for entry in re.split(r"^(?=dn: )", merged, flags=re.MULTILINE)}
    cluster = entries[f"dn: {usual_dn(SC1)}"].lower()
    for line in ("objectclass: gluesubcluster", f"{ATTRIBUTE}: GLITE-3_2_0", f"{ATTRIBUTE}: {KEPT}"):
        assert f"\n{line.lower()}\n" in cluster
    above = f"GLUE2ResourceID={SC1},GLUE2ServiceID={SERVICE},GLUE2GroupID=resource,o=glue"
    assert f"dn: {above}" in entries
    assert (
        "\nglue2applicationenvironmentappversion: 1.0\n" in entries[f"dn: GLUE2ApplicationEnvironmentID={KEPT},{above}"]
    )

"""What publishers print: whole, in time, and on trouble what was last known, without what is over."""

import json
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.tags import disk, glue1, glue2, plain
from pps_agent.tags.glue2 import Place, escape_rdn, render_glue2, split_version
from pps_agent.tags.ledger import DIRECTORY
from pps_agent.tags.life import Life, TagState
from pps_agent.tags.snapshot import Shown, Snapshot, take_snapshot
from pps_agent.tags.store import TagStore
from pps_wire.errors import WireError
from pps_wire.names import Site, Subcluster, Tag, Vo
from tests.support.services import need
from tests.tags.test_lcg_tags import SC1 as HOST1
from tests.tags.test_lcg_tags import SC2 as HOST2
from tests.tags.test_lcg_tags import Tools
from tests.tags.test_tag_store import list_path, write_list

DTEAM, OPS = Vo("dteam"), Vo("ops")
SC1, SC2 = Subcluster("ce01.example.org"), Subcluster("ce02.example.org")
A, B, OLD = Tag("VO-dteam-a"), Tag("VO-dteam-b"), Tag("VO-ops-old")
NOW = 1_790_000_000.0
AT = datetime.fromtimestamp(NOW, UTC)
PLACE = Place("site-compute")


class World:
    """A tag base with lists of two VOs, and a cache that has seen them."""

    def __init__(self, tmp_path: Path) -> None:
        self.base, self.cache = tmp_path / "info", tmp_path / "cache"
        self.base.mkdir()
        self.cache.mkdir()
        self.now = NOW
        self.store = TagStore(self.base, (SC1, SC2), clock=lambda: self.now)
        self.store.add(DTEAM, [A])
        self.store.add(DTEAM, [B], [SC1], life=Life(TagState.VERIFIED, "r", NOW + 1000))
        write_list(self.base, b"VO-ops-old\n", vo=OPS)
        assert self.look() == {SC1: [A, B, OLD], SC2: [A]}

    def take(self) -> Snapshot:
        return take_snapshot(self.store, self.cache)

    def look(self) -> dict[Subcluster, list[Tag]]:
        return {subcluster: [one.tag for one in tags] for subcluster, tags in self.take().tags.items()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def as_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


SPOILT: dict[str, Callable[[World], object]] = {
    "one list": lambda world: as_directory(list_path(world.base, vo=OPS)),
    "a pipe": lambda world: (list_path(world.base, vo=OPS).unlink(), os.mkfifo(list_path(world.base, vo=OPS))),
    "a directory": lambda world: (shutil.rmtree(world.base / SC1), (world.base / SC1).touch()),
    "what is known": lambda world: (world.base / DIRECTORY / DTEAM / "life.json").write_text("nonsense"),
    "the base": lambda world: world.base.rename(world.base.with_name("away")),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_what_cannot_be_read_is_given_as_it_last_was_and_the_rest_as_it_is(
    world: World, spoil: Callable[[World], object]
) -> None:
    world.store.add(DTEAM, [Tag("VO-dteam-new")], [SC2])
    spoil(world)
    seen = world.take()
    assert {name: [one.tag for one in tags] for name, tags in seen.tags.items()} in (
        {SC1: [A, B, OLD], SC2: [A, "VO-dteam-new"]},
        {SC1: [A, B, OLD], SC2: [A]},
    )
    assert len(seen.problems) >= 1
    world.now += 2000
    assert B not in world.look()[SC1]  # over, though nothing newer can be read


def test_a_file_system_that_does_not_answer_costs_no_more_than_the_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    monkeypatch.setattr(disk, "list_directories", lambda _: stuck.wait(60) and ())
    began = time.monotonic()
    seen = take_snapshot(world.store, world.cache, limit_s=0.3)
    took = time.monotonic() - began
    stuck.set()
    assert "could not be read within 0.3 s" in seen.problems[0]
    assert took < 30


def test_a_vo_whose_files_take_too_long_holds_up_no_other_ones(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its manager may make them as long as is read at all: what another VO removed must go all the same."""
    (world.base / DIRECTORY / DTEAM / "life.json").write_bytes(b" " * 10_000)
    write_list(world.base, b"VO-ops-new\n", vo=OPS)
    stuck, load = threading.Event(), disk.load_list

    def load_slowly(path: Path, *limit: int) -> bytes | None:
        return stuck.wait(60) and None if DTEAM in path.parts else load(path, *limit)

    monkeypatch.setattr(disk, "load_list", load_slowly)
    seen = take_snapshot(world.store, world.cache, limit_s=1)
    stuck.set()
    assert "could not be read within 1 s" in seen.problems[0]
    assert {name: [one.tag for one in tags] for name, tags in seen.tags.items()} == {
        SC1: [A, B, "VO-ops-new"],
        SC2: [A],
    }


def test_a_long_list_does_not_make_what_is_kept_of_the_others_useless(world: World) -> None:
    long = b"".join(b"VO-dteam-%d\n" % number for number in range(200_000))
    for number in range(5):
        write_list(world.base, long, subcluster=Subcluster(f"s{number}"))
    store = TagStore(world.base, (SC1, *(Subcluster(f"s{number}") for number in range(5))))
    assert not take_snapshot(store, world.cache, limit_s=60).problems
    as_directory(list_path(world.base, vo=OPS))
    assert OLD in [one.tag for one in take_snapshot(store, world.cache, limit_s=60).tags[SC1]]


def test_without_a_cache_what_can_be_read_is_still_whole(world: World) -> None:
    as_directory(list_path(world.base, vo=OPS))
    seen = take_snapshot(world.store, None)
    assert [one.tag for one in seen.tags[SC1]] == [A, B]
    assert "ops.list is not a regular file" in seen.problems[0]


def test_a_clock_set_back_brings_back_nothing_that_was_over_when_it_was_last_published(world: World) -> None:
    world.now += 2000
    assert B not in world.look()[SC1]
    world.now = NOW
    assert B not in world.look()[SC1]


def test_a_cache_that_somebody_else_planted_is_not_used(world: World) -> None:
    kept = world.cache / "tags" / str(os.geteuid()) / "all.json"
    for plant in (
        lambda: kept.symlink_to("/etc/passwd"),
        lambda: kept.write_bytes(b"nonsense"),
        lambda: os.mkfifo(kept),
        lambda: (kept.write_bytes(b"{}"), os.chown(kept, 65534, 65534) if os.geteuid() == 0 else None),
    ):
        kept.unlink(missing_ok=True)
        plant()
        as_directory(list_path(world.base, vo=OPS))
        assert OLD not in world.look()[SC1]
        list_path(world.base, vo=OPS).rmdir()
        write_list(world.base, b"VO-ops-old\n", vo=OPS)


def test_what_is_no_tag_in_the_cache_is_not_published(world: World) -> None:
    kept = world.cache / "tags" / str(os.geteuid()) / "all.json"
    kept.write_bytes(kept.read_bytes().replace(b"VO-ops-old", b"VO-ops-old VO-ops-a,b VO-dteam-x"))
    os.utime(kept, (NOW, NOW))
    as_directory(list_path(world.base, vo=OPS))
    assert world.look()[SC1] == [A, B, OLD]


def test_what_is_kept_is_for_the_account_alone(world: World) -> None:
    kept = world.cache / "tags" / str(os.geteuid())
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert stat.S_IMODE((kept / "all.json").stat().st_mode) == 0o600


def test_a_directory_that_is_a_link_or_anothers_is_neither_read_nor_written(world: World) -> None:
    kept, elsewhere = world.cache / "tags" / str(os.geteuid()), world.cache / "elsewhere"
    kept.rename(elsewhere)
    kept.symlink_to(elsewhere)
    seen = world.take()
    assert "cannot keep the tags for when they cannot be read" in seen.not_kept
    assert "have root run pps-agent setup --publisher" in seen.not_kept
    as_directory(list_path(world.base, vo=OPS))
    assert OLD not in world.look()[SC1]


def test_a_release_that_is_not_announced_is_known_and_not_listed(world: World) -> None:
    world.store.set_life(DTEAM, {SC2: {B: Life(TagState.BROKEN, "r")}})
    shown = {one.tag: one for one in world.take().tags[SC2]}
    assert (shown[A].listed, shown[A].life) == (True, None)
    assert (shown[B].listed, shown[B].life) == (False, Life(TagState.BROKEN, "r"))


# --- the texts

tags = st.from_regex(r"VO-dteam-[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
lives = st.none() | st.builds(Life, st.sampled_from(TagState), st.just("r"), st.none() | st.floats(0, 4e9))
shown_tags = st.builds(lambda tag, life, listed: Shown(DTEAM, Tag(tag), life, listed), tags, lives, st.booleans())


def entries(text: str) -> list[dict[str, list[str]]]:
    found = []
    for block in filter(None, text.split("\n\n")):
        entry: dict[str, list[str]] = {}
        for line in block.splitlines():
            name, _, value = line.partition(": ")
            entry.setdefault(name, []).append(value)
        found.append(entry)
    return found


@given(st.lists(shown_tags))
def test_each_tag_is_one_whole_entry_of_glue_2(many: list[Shown]) -> None:
    found = entries(render_glue2(SC1, many, PLACE, "head.example.org", AT))
    assert len(found) == len({one.tag.lower() for one in many})
    for entry in found:
        (tag,) = entry["GLUE2ApplicationEnvironmentID"]
        above = f"GLUE2ResourceID={SC1},GLUE2ServiceID=site-compute,GLUE2GroupID=resource,o=glue"
        assert entry["dn"] == [f"GLUE2ApplicationEnvironmentID={tag},{above}"]
        one = next(one for one in many if one.tag == tag)
        name, version = (
            entry["GLUE2ApplicationEnvironmentAppName"][0],
            entry.get("GLUE2ApplicationEnvironmentAppVersion"),
        )
        assert "-".join([name, *(version or [])]) == tag
        assert entry.get("GLUE2ApplicationEnvironmentState") == ([one.life.state.value] if one.life else None)
        is_ending = one.life is not None and one.life.expires_at is not None
        assert ("GLUE2ApplicationEnvironmentRemovalDate" in entry) is is_ending
        assert entry["GLUE2EntityCreationTime"] == ["2026-09-21T14:13:20Z"]


@pytest.mark.parametrize(
    ("tag", "parts"),
    [
        ("VO-dteam-pps-6.1.0", ("VO-dteam-pps", "6.1.0")),
        ("VO-dteam-pps", ("VO-dteam-pps", "")),
        ("VO-x-3d-4", ("VO-x", "3d-4")),
    ],
)
def test_name_and_version_are_parted_as_arc_parts_them(tag: str, parts: tuple[str, str]) -> None:
    assert split_version(tag) == parts


@pytest.mark.parametrize(
    ("value", "escaped"),
    [("a,b", "a\\,b"), ("a+b", "a\\+b"), (" a ", "\\ a\\ "), ("#a", "\\#a"), ("a-b.c_d", "a-b.c_d")],
)
def test_what_a_dn_parts_by_is_escaped(value: str, escaped: str) -> None:
    assert escape_rdn(value) == escaped


@pytest.mark.parametrize(
    ("place", "host", "words"),
    [
        (Place(""), "h", "set infosys.service"),
        (Place("a b"), "h", "service"),
        (Place("a\nb"), "h", "service"),
        (Place("a", "é"), "h", "manager"),
        (Place("a", suffix="no dn"), "h", "suffix"),
        (Place("a"), "", "host"),
    ],
)
def test_ids_that_would_spoil_the_text_are_refused(place: Place, host: str, words: str) -> None:
    with pytest.raises(WireError, match=words):
        render_glue2(SC1, [], place, host, AT)


@given(st.lists(shown_tags))
def test_the_other_texts_hold_the_listed_tags_once_each(many: list[Shown]) -> None:
    listed = {one.tag.lower() for one in many if one.listed}

    def read(text: str) -> set[str]:
        return {tag for tag in text.lower().split(",") if tag}

    config, cron = plain.render_condor_config(many), plain.render_condor_cron(many)
    assert read(config.splitlines()[1].removeprefix('PPS_TAGS = "').removesuffix('"')) == listed
    assert cron == config.splitlines()[1] + "\n-\n"
    assert read(plain.render_slurm(many).strip().removeprefix("Features=")) == listed
    assert (plain.render_slurm(many) == "") is (not listed)  # slurmctld ends at an empty Features=
    document = json.loads(plain.render_json(Site("S"), Snapshot({SC1: tuple(many)}), AT))
    assert [one["tag"] for one in document["subclusters"][SC1]] == [one.tag for one in many]


@given(content=st.binary(max_size=300))
def test_whatever_bytes_stand_in_a_list_every_valid_tag_is_published_and_the_text_is_sound(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("info")
    write_list(base, content + b"\nVO-dteam-good-1\n")
    shown = take_snapshot(TagStore(base, (SC1,)), None).tags[SC1]
    assert "VO-dteam-good-1" in {one.tag for one in shown}
    text = glue1.render_glue1("cn=x", [one.tag for one in shown])
    assert "VO-dteam-good-1" in glue1.parse_glue1(text)["cn=x"]
    assert text.isascii()
    for entry in entries(render_glue2(SC1, shown, PLACE, "h", AT)):
        assert len(entry["dn"]) == 1


# --- the commands


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    made = Tools(tmp_path)
    with made.config.open("a") as settings:
        settings.write('cache = "cache"\n[infosys]\nservice = "site-compute"\n')
    (tmp_path / "cache").mkdir()
    made.write("VO-dteam-a\nVO-dteam-pps-6.1.0\n")
    return made


def test_every_form_is_printed(tools: Tools) -> None:
    said = {
        form: tools.shell(f"pps-agent tag render --format {form} --sc {HOST1}") for form in ("condor", "slurm", "json")
    }
    assert {form: (one.code, one.err) for form, one in said.items()} == dict.fromkeys(said, (0, ""))
    assert said["condor"].out.splitlines()[1:] == [
        'PPS_TAGS = "VO-dteam-a,VO-dteam-pps-6.1.0"',
        "STARTD_ATTRS = $(STARTD_ATTRS) PPS_TAGS",
    ]
    assert said["slurm"].out == "Features=VO-dteam-a,VO-dteam-pps-6.1.0\n"
    assert [one["tag"] for one in json.loads(said["json"].out)["subclusters"][HOST1]] == [
        "VO-dteam-a",
        "VO-dteam-pps-6.1.0",
    ]
    nodes = tools.shell("pps-agent tag render --format slurm --nodes n1").out
    assert nodes.startswith("scontrol update NodeName=n1 AvailableFeatures=VO-dteam-a,")
    kept = tools.shell("pps-agent tag render --format slurm --nodes n[1-2] --keep avx2,ib").out
    features = "avx2,ib,VO-dteam-a,VO-dteam-pps-6.1.0"
    assert kept == f"scontrol update 'NodeName=n[1-2]' AvailableFeatures={features} ActiveFeatures={features}\n"
    glue = tools.shell("pps-agent tag render --format glue2")
    assert (glue.code, glue.out.count("dn: GLUE2ApplicationEnvironmentID="), glue.err) == (0, 2, "")


def test_on_trouble_a_publisher_warns_and_prints_what_was_last_known(tools: Tools) -> None:
    whole = tools.shell("pps-agent tag ldif")
    assert whole.out.count("VO-dteam") == 2
    path = tools.tags / HOST1 / "dteam" / "dteam.list"
    as_directory(path)
    said = tools.shell("pps-agent tag ldif")
    assert (said.code, said.out) == (0, whole.out)
    assert "dteam.list is not a regular file: move it away; what was last known is printed" in said.err


def test_a_subcluster_that_is_not_ours_is_refused(tools: Tools) -> None:
    for command in ("ldif", "render --format json"):
        said = tools.shell(f"pps-agent tag {command} --sc ce99.example.org")
        assert (said.code, said.out) == (2, "")


def test_slapd_takes_the_texts_as_they_are(tmp_path: Path) -> None:
    """``slapadd`` judges entries by Debian's GLUE schema, whatever the tags' states."""
    need("" if shutil.which("slapadd", path="/usr/sbin") else "apt-get install slapd glue-schema")
    from demo.bdii import GLUE2_BASE, render_static_glue2

    (tmp_path / "db").mkdir()
    includes = "".join(
        f"include {path}\n" for path in ("/etc/ldap/schema/core.schema", "/etc/ldap/schema/GLUE20.schema")
    )
    conf = tmp_path / "slapd.conf"
    conf.write_text(
        f'{includes}modulepath /usr/lib/ldap\nmoduleload back_mdb\ndatabase mdb\nsuffix "{GLUE2_BASE}"\n'
        f"directory {tmp_path}/db\n"
    )
    mine = render_static_glue2("SITE", [SC1])
    many = [
        Shown(DTEAM, Tag(f"VO-dteam-{state.value}-1.{n}"), Life(state, "r", NOW), n == 0)
        for n, state in enumerate(TagState)
    ]
    many += [Shown(DTEAM, Tag("VO-dteam-plain"), None, listed=True)]
    text = mine + render_glue2(SC1, many, Place("SITE-compute"), "h", AT)
    done = subprocess.run(
        ["/usr/sbin/slapadd", "-f", conf, "-u"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_modules_say_which_version_published(world: World) -> None:
    assert "InfoProviderVersion=9.9" in glue2.render_glue2(SC1, world.take().tags[SC1], PLACE, "h", AT, "9.9")


def test_calls_for_one_subcluster_each_have_last_good_lists_of_their_own(tools: Tools) -> None:
    (tools.tags / HOST2 / "dteam").mkdir(parents=True)
    (tools.tags / HOST2 / "dteam" / "dteam.list").write_text("VO-dteam-b\n")
    calls = ["pps-agent tag ldif", *(f"pps-agent tag ldif --sc {name}" for name in (HOST1, HOST2))]
    whole = [tools.shell(call).out for call in calls]
    for name in (HOST1, HOST2):
        as_directory(tools.tags / name / "dteam" / "dteam.list")
    assert [tools.shell(call).out for call in calls] == whole

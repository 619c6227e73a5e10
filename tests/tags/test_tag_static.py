"""The file of tags in GLUE 2 that a BDII reads by itself."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pps_agent.tags.areas import Area
from pps_agent.tags.errors import TagFileError
from pps_agent.tags.glue2 import VALIDITY_S
from pps_agent.tags.life import Life, TagState
from pps_agent.tags.static import keep_ldif
from pps_wire.names import Subcluster, Tag, Vo

SC, DTEAM = Subcluster("ce01.example.org"), Vo("dteam")
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


class World:
    """One subcluster's lists and their file."""

    def __init__(self, base: Path) -> None:
        for name in ("tags", "cache", "ldif"):
            (base / name).mkdir()
        self.cache, self.ldif = base / "cache", base / "ldif" / "pps-tags.ldif"
        self.area = Area(
            name="production",
            subclusters=(SC,),
            hosts=(),
            base=base / "tags",
            global_base=None,
            servers=(),
            search_base="o=grid",
            service="site-compute",
            manager="",
            ldif=self.ldif,
        )
        self.store = self.area.open()

    def keep(self, now: datetime = NOW) -> tuple[str, ...]:
        return keep_ldif(self.area, self.cache, "head.example.org", now)

    def tags(self) -> list[str]:
        found = (line.partition("GLUE2ApplicationEnvironmentID: ")[2] for line in self.ldif.read_text().split("\n"))
        return [tag for tag in found if tag]

    def grow_old(self, age_s: float) -> None:
        then = self.ldif.stat().st_mtime - age_s
        os.utime(self.ldif, (then, then))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_it_holds_the_tags_and_is_left_alone_while_nothing_changes(world: World) -> None:
    world.store.add(DTEAM, [Tag("VO-dteam-a")])
    assert world.keep() == ()
    assert world.tags() == ["VO-dteam-a"]
    assert world.ldif.stat().st_mode & 0o777 == 0o644
    before = (world.ldif.stat().st_ino, world.ldif.read_bytes())
    assert world.keep(NOW + timedelta(minutes=5)) == ()
    assert (world.ldif.stat().st_ino, world.ldif.read_bytes()) == before
    world.store.add(DTEAM, [Tag("VO-dteam-b")])
    world.keep()
    assert world.tags() == ["VO-dteam-a", "VO-dteam-b"]
    assert world.ldif.stat().st_ino != before[0]
    assert [path.name for path in world.ldif.parent.iterdir()] == ["pps-tags.ldif"]


def test_it_is_made_anew_before_its_validity_is_over(world: World) -> None:
    world.store.add(DTEAM, [Tag("VO-dteam-a")])
    world.keep()
    world.grow_old(VALIDITY_S / 2 + 1)
    world.keep(NOW + timedelta(seconds=VALIDITY_S / 2 + 1))
    assert "CreationTime: 2026-11-27T12:30:01Z" in world.ldif.read_text()
    world.grow_old(-VALIDITY_S)  # a clock that was set back
    world.keep(NOW + timedelta(hours=2))
    assert "CreationTime: 2026-11-27T14:00:00Z" in world.ldif.read_text()


def test_a_tag_whose_time_is_over_leaves_it_and_the_last_one_leaves_it_empty(world: World) -> None:
    world.store.add(DTEAM, [Tag("VO-dteam-a")], life=Life(TagState.VERIFIED, expires_at=4_000_000_000.0))
    world.keep()
    assert world.tags() == ["VO-dteam-a"]
    world.store.set_life(DTEAM, {SC: {Tag("VO-dteam-a"): Life(TagState.VERIFIED, expires_at=1.0)}})
    world.keep()
    assert world.ldif.read_bytes() == b""


def test_on_trouble_it_keeps_what_was_last_known_and_says_so(world: World) -> None:
    world.store.add(DTEAM, [Tag("VO-dteam-a")])
    world.keep()
    world.area.base.rename(world.area.base.with_name("away"))
    (problem,) = world.keep()
    assert "does not exist" in problem
    assert world.tags() == ["VO-dteam-a"]


def test_a_place_that_cannot_be_written_is_told_with_what_to_do(world: World) -> None:
    area = world.area._replace(ldif=world.ldif.parent / "none" / "x.ldif")
    with pytest.raises(TagFileError, match="give this account write access to its directory"):
        keep_ldif(area, world.cache, "head", NOW)
    assert keep_ldif(area._replace(ldif=None), world.cache, "head", NOW) == ()


@pytest.mark.parametrize(
    "plant",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path.parent / "pipe"),
        lambda path: (path.touch(), os.truncate(path, 2**42)),
    ],
)
def test_what_the_bdiis_account_plants_there_is_replaced_and_not_read(
    world: World, plant: Callable[[Path], object]
) -> None:
    os.mkfifo(world.ldif.parent / "pipe")
    world.store.add(DTEAM, [Tag("VO-dteam-a")])
    plant(world.ldif)
    assert world.keep() == ()
    assert world.ldif.is_file()
    assert not world.ldif.is_symlink()
    assert world.tags() == ["VO-dteam-a"]

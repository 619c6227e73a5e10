"""kill -9 as each durable system call is entered, and each one refused: before or after, and the next try finishes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_agent.inspection import inspect
from pps_agent.store import Store
from pps_wire.names import Vo
from tests.distribution.site import Site
from tests.distribution.strikes import CLIENTS, CRASHED, OPERATIONS, SUBCLUSTER, Nursery, World, open_nursery
from tests.distribution.test_repair import flip
from tests.support.repository import FaultyServer, SmallRepository
from tests.support.traces import Call, find_unsafe

FILES = {"bin/a": b"a" * 3000, "b": b"b" * 2000}
CHANGED = FILES | {"b": b"c" * 2500}
HARMLESS = ("unlink", "unlinkat", "rmdir", "chmod", "fchmod", "fchmodat")
"""Calls that no full disk refuses."""


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with open_nursery(tmp_path) as opened:
        yield opened


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path, repository: SmallRepository, server: FaultyServer) -> World:
    """A site before the operation, with something to lose: an installed, current, pinned, tagged release."""
    root = tmp_path / "root.json"
    root.write_bytes(repository.root_bytes)
    operation = request.param
    other = repository.publish({"o": b"other"}, component="xroot")
    old = repository.publish(FILES)
    new = repository.publish(CHANGED, version="1.0.1")
    made = World(tmp_path / "before" / "site", root, server.url, operation, old.id, new.id)
    with made.site() as site, made.history() as history:
        (made.base / "tags").mkdir()
        site.refresh()
        history.set_leaving(leaving=False)
        site.install(other)
        site.store.switch(other.component, other.id)
        site.store.pin(other.id, "to lose", "root", history_time())
        for release in {"install": [], "update": [old]}.get(operation, [old, new]):
            site.install(release)
            site.store.switch(CLIENTS, release.id)
            made.lists().add(Vo("dteam"), [*release.tags().values()])
        if operation == "repair":
            flip(site.store.tree(new.id) / "bin" / "a")
            (site.store.tree(new.id) / "foreign").touch()
            (site.store.tree(new.id) / "b").unlink()
        if operation == "remove":
            site.store.switch(CLIENTS, old.id)
        if operation == "gc":
            history.start_drain(old.id, history_time())
            (site.store.staging / "removed@dead@1" / "tree").mkdir(parents=True)
    return made


def history_time():
    from datetime import UTC, datetime

    return datetime(2026, 11, 22, tzinfo=UTC)


def damage(site: Site, release: str) -> set[str]:
    return {finding.path for finding in inspect(site.store, release, site.load(), lambda _: None).findings}


def check_between(world: World) -> None:
    """What must hold at any moment."""
    with world.site() as site, world.history() as history:
        allowed = {"bin/a", "b", "foreign"} if world.operation == "repair" else set()
        for release in site.store.ids():
            assert damage(site, release) <= allowed
        current = site.store.current()
        assert set(current.values()) <= set(site.store.ids())
        assert "xroot" in current
        assert world.operation == "install" or CLIENTS in current
        assert [pin.reason for pin in site.store.pins().values()] == ["to lose"]
        history.resolve()
        if world.operation == "repair":
            assert (site.store.tree(world.new) / "bin" / "a").exists()
            assert (site.store.tree(world.old) / "bin" / "a").exists()


def check_after(world: World) -> None:
    """What must hold once the operation was given again."""
    with world.site() as site:
        there, current = set(site.store.ids()), site.store.current()
        assert [path.name for path in site.store.staging.iterdir()] == []
        assert list(site.base.glob("store/**/*.tmp")) == []
        for release in there:
            assert damage(site, release) == set()
        expected = {"install": world.old, "rollback": world.old}.get(world.operation, world.new)
        assert current[CLIENTS] == expected
        assert (world.old in there) is (world.operation not in ("remove", "gc"))
        if world.operation == "rollback":
            assert world.lists().tags(SUBCLUSTER) == {"VO-dteam-pps-1.0.0"}


SHIFTS = (0, 0, 0, -1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6)


def durable_calls(calls: list[Call], base: Path) -> list[Call]:
    """Give the calls that matter; strace counts in each thread, and strikes whichever comes to the number first.

    The main thread opens many files to read them, so a file that a helper opens anew cannot be told
    from these: it is struck at its next call, the first write.
    """
    main = calls[0].thread
    durable = (call for call in calls if call.changes(str(base)) and (call.name != "openat" or call.thread == main))
    return list({(call.name, call.number): call for call in durable}.values())


@pytest.mark.parametrize("world", OPERATIONS, indirect=True)
def test_killed_at_any_durable_call_the_store_is_before_or_after_and_is_finished_by_the_next_try(
    world: World, nursery: Nursery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = tmp_path / "trial" / "site"
    trial.parent.mkdir()
    every = durable_calls(nursery.record(world.copy(trial)), trial)
    for call in every:
        tries = (nursery.kill(world.copy(trial), call, shift) for shift in SHIFTS)
        assert any(tries), f"never came to {call}"
        victim = World(trial, world.root, world.url, world.operation, world.old, world.new)
        check_between(victim)
        victim.act()
        check_after(victim)
    with capsys.disabled():
        print(f"\n{world.operation}: killed at {len(every)} durable calls")


@pytest.mark.parametrize("world", OPERATIONS, indirect=True)
def test_a_disk_or_quota_that_is_full_at_any_call_is_a_site_error_and_leaks_nothing(
    world: World, nursery: Nursery, tmp_path: Path
) -> None:
    trial = tmp_path / "trial" / "site"
    trial.parent.mkdir()
    calls = [c for c in durable_calls(nursery.record(world.copy(trial)), trial) if c.name not in HARMLESS]
    for number, call in enumerate(calls):
        error = ("EDQUOT", "ENOSPC")[number % 2]
        victim = world.copy(trial)
        outcome = nursery.refuse(victim, call, error)
        while call.name == "openat" and outcome.startswith(
            CRASHED
        ):  # this run opened one of Python's own modules by that number
            victim = world.copy(trial)
            outcome = nursery.refuse(victim, call, error)
        assert outcome == "done" or outcome.startswith("SiteError: "), (call, outcome)
        check_between(victim)
        left = [path for path in Store(trial / "store").staging.iterdir() if not path.name.startswith("removed@")]
        assert left == [], (call, outcome)


@pytest.mark.parametrize("world", OPERATIONS, indirect=True)
def test_nothing_is_committed_before_its_contents_are_durable(world: World, nursery: Nursery, tmp_path: Path) -> None:
    trial = world.copy(tmp_path / "site")
    assert find_unsafe(nursery.record(trial), str(trial.base)) == []

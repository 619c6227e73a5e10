"""kill -9 between any two steps: the store is as before or as after, and the next try finishes the work."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distribution.site import Site, picture
from tests.support.repository import FaultyServer, SmallRepository

NURSERY = """
import json, os, signal, sys
from pathlib import Path
from tests.distribution.site import Site

EVENTS = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.chmod", "ctypes.call_function"}

def work(base, root, url, release, step, what):
    site = Site(Path(base), Path(root).read_bytes(), url)
    left = step

    def count(event, args):
        nonlocal left
        creates = event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT
        if event in EVENTS or creates:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    offer = next(o for o in site.load().offers if o.release.id == release)
    sys.addaudithook(count)
    if what == "refresh":
        site.refresh()
    else:
        site.install(offer.release)
        site.store.switch(offer.release.component, offer.release.id)
    if what == "remove":
        site.store.switch(offer.release.component, None)
        site.store.remove(offer.release.id)
    return step - left

for line in sys.stdin:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, str(work(**json.loads(line))).encode())
        os._exit(0)
    os.close(writing)
    steps = os.read(reading, 20).decode()
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, steps]), flush=True)
"""
"""Starts once and forks a child for every piece of work; the child counts its steps and may kill itself."""

FILES = {f"lib/{number}": bytes([number]) * 5000 + b"old" for number in range(6)}
CHANGED = FILES | {"lib/1": b"changed" * 800, "lib/7": b"added" * 900}


class Nursery:
    """Runs work of a site in a child that is killed at a given step."""

    def __init__(self, process: subprocess.Popen[str], base: Path) -> None:
        self.process = process
        self.base = base

    def run(self, site: Site, release: str, step: int, what: str) -> tuple[int, str]:
        root = self.base / "root.json"
        root.write_bytes(site.root)
        order = {"base": str(site.base), "root": str(root), "url": site.url, "release": release}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order | {"step": step, "what": what}) + "\n")
        self.process.stdin.flush()
        status, steps = json.loads(self.process.stdout.readline())
        return status, steps

    def killed_at(self, site: Site, release: str, step: int, what: str) -> bool:
        status, _ = self.run(site, release, step, what)
        assert status in (0, -signal.SIGKILL)
        return status != 0

    def count_steps(self, site: Site, release: str, what: str) -> int:
        """Run the whole work once on a copy of the site."""
        copy = Site(self.base / "rehearsal" / "site", site.root, site.url)
        copy.close()
        shutil.rmtree(copy.base)
        shutil.copytree(site.base, copy.base, symlinks=True)
        status, steps = self.run(copy, release, 10**9, what)
        assert status == 0
        return int(steps)


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    command = [sys.executable, "-c", NURSERY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Nursery(process, tmp_path)


def spread(steps: int, times: int) -> list[int]:
    return sorted({max(1, round(steps * (number + 0.5) / times)) for number in range(times)})


@pytest.mark.parametrize("what", ["install", "update", "remove"])
def test_a_killed_agent_leaves_the_store_before_or_after_and_is_resumed(
    tmp_path: Path, repository: SmallRepository, server: FaultyServer, nursery: Nursery, what: str
) -> None:
    first = repository.publish(FILES)
    second = repository.publish(CHANGED, version="1.0.1")
    site = Site(tmp_path / "site", repository.root_bytes, server.url)
    site.refresh()
    target = first
    if what != "install":
        site.install(first)
        site.store.switch(first.component, first.id)
        target = second
    before = picture(site.store.tree(first.id)) if what != "install" else {}
    kills = 0
    for step in spread(nursery.count_steps(site, target.id, what), 10):
        kills += nursery.killed_at(site, target.id, step, what)
        installed = site.store.installed()
        assert all(seen.fault == "" for seen in installed.values())
        assert set(installed) <= {first.id, second.id}
        assert set(site.store.current().values()) <= set(installed)
        if what != "install":
            assert before == picture(site.store.tree(first.id))
    assert kills >= 2
    site.store.sweep(keep={target.id})
    assert all(path.name.startswith(f"{target.id}@") for path in site.store.staging.iterdir())
    site.install(target)
    site.store.switch(target.component, target.id)
    site.store.sweep()
    assert list(site.store.staging.iterdir()) == []
    assert site.store.installed()[target.id].fault == ""
    wanted = FILES if target == first else CHANGED
    assert wanted == {name: (site.store.tree(target.id) / name).read_bytes() for name in wanted}
    site.close()


def test_files_written_before_the_kill_are_not_fetched_again(
    tmp_path: Path, repository: SmallRepository, server: FaultyServer, nursery: Nursery
) -> None:
    release = repository.publish(FILES)
    site = Site(tmp_path / "site", repository.root_bytes, server.url)
    site.refresh()
    for step in range(nursery.count_steps(site, release.id, "install"), 0, -3):
        nursery.killed_at(site, release.id, step, "install")
        if not site.store.installed():
            break
        site.store.switch(release.component, None)
        site.store.remove(release.id)
    facts = site.install(release)
    assert facts.files_resumed >= 1
    assert facts.files_resumed + facts.files_fetched == len(FILES)
    site.close()


def test_a_killed_refresh_leaves_metadata_that_loads_and_is_rolled_forward(
    tmp_path: Path, repository: SmallRepository, server: FaultyServer, nursery: Nursery
) -> None:
    first = repository.publish(FILES)
    site = Site(tmp_path / "site", repository.root_bytes, server.url)
    before = site.refresh()
    repository.publish(CHANGED, version="1.0.1")
    for step in spread(nursery.count_steps(site, first.id, "refresh"), 8):
        nursery.killed_at(site, first.id, step, "refresh")
        assert before.offers == site.load().offers[:1]
    after = site.refresh()
    assert len(after.offers) == 2
    assert after == site.load()
    assert not list((site.base / "state" / "tuf").glob("work.*"))
    site.close()

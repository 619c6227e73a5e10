"""What a repository that attacks meets on the agent's own path: the real program over real HTTP."""

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import termios
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, MetaFile

from pps_agent.fetch import Fetcher
from pps_agent.mirrors import Mirrors
from pps_agent.store import Store
from pps_agent.trust import Trust
from tests.distribution.site import picture
from tests.distribution.test_trust import newest, rotate_online_key, vouch
from tests.support.repository import FaultyServer, SmallRepository, serve
from tests.support.site import SmallSite
from tests.support.tuf_repository import new_signer

NOW = datetime.now(UTC)
Attack = Callable[[SmallRepository, Path], None]


def roll_back(repository: SmallRepository, old: Path) -> None:
    shutil.copytree(old, repository.served, dirs_exist_ok=True)


def roll_back_clients(repository: SmallRepository, old: Path) -> None:
    """The online key vouches for an older list of releases: the withdrawn one is back."""
    metadata = repository.served / "metadata"
    version = int(newest(repository, "clients").name.split(".")[0])
    repository.publish(version="1.0.2")
    snapshot = Metadata.from_file(str(newest(repository, "snapshot")))
    snapshot.signed.version += 1
    snapshot.signed.meta["clients.json"] = MetaFile(version - 1)
    snapshot.sign(repository.signers["online"])
    raw = snapshot.to_bytes()
    (metadata / f"{snapshot.signed.version}.snapshot.json").write_bytes(raw)
    timestamp = Metadata.from_file(str(metadata / "timestamp.json"))
    timestamp.signed.version += 1
    timestamp.signed.snapshot_meta = MetaFile.from_data(snapshot.signed.version, raw, ["sha256"])
    timestamp.sign(repository.signers["online"])
    (metadata / "timestamp.json").write_bytes(timestamp.to_bytes())


def freeze(repository: SmallRepository, old: Path) -> None:
    repository.refresh(now=NOW - timedelta(days=30))


def mix(repository: SmallRepository, old: Path) -> None:
    """New timestamp and snapshot, but an old list of releases under the new name."""
    before = newest(repository, "clients").read_bytes()
    repository.publish(version="1.0.2")
    newest(repository, "clients").write_bytes(before)


def endless(repository: SmallRepository, old: Path) -> None:
    (repository.served / "metadata" / "timestamp.json").write_bytes(b" " * 20_000_000)


def endless_root(repository: SmallRepository, old: Path) -> None:
    (repository.served / "metadata" / "2.root.json").write_bytes(b" " * 20_000_000)


def strange_timestamp(repository: SmallRepository, old: Path) -> None:
    metadata = Metadata.from_file(str(repository.served / "metadata" / "timestamp.json"))
    metadata.signed.version += 1
    metadata.sign(new_signer())
    (repository.served / "metadata" / "timestamp.json").write_bytes(metadata.to_bytes())


def strange_releases(repository: SmallRepository, old: Path) -> None:
    """The online key vouches for a list of releases that strangers signed."""
    path = newest(repository, "clients")
    metadata = Metadata.from_file(str(path))
    metadata.signed.version += 1
    metadata.sign(new_signer())
    (path.parent / f"{metadata.signed.version}.clients.json").write_bytes(metadata.to_bytes())
    vouch(repository)


def log_in_page(repository: SmallRepository, old: Path) -> None:
    (repository.served / "metadata" / "timestamp.json").write_bytes(b"<html>log in first</html>")


ATTACKS: dict[str, tuple[Attack, str, str]] = {
    "rollback": (roll_back, "TrustError", "timestamp version"),
    "rollback of the releases": (roll_back_clients, "TrustError", "version"),
    "freeze": (freeze, "TrustError", "is expired; the last good state stays; check this machine's clock"),
    "mix and match": (mix, "TrustError", "the last good state stays"),
    "endless timestamp": (endless, "FetchError", "longer than the 16384 bytes allowed"),
    "endless root": (endless_root, "FetchError", "longer than the 512000 bytes allowed"),
    "wrong online key": (strange_timestamp, "TrustError", "timestamp was signed by 0/1 keys"),
    "wrong release keys": (strange_releases, "TrustError", "clients was signed by 0/2 keys"),
    "a portal's page": (log_in_page, "TrustError", "check for a proxy or portal"),
}


def refresh(site: SmallSite) -> tuple[list[str], dict[str, str] | None]:
    """Run the job of each round; give the releases on offer and the failure."""
    answer = site.run("job", "refresh")
    assert (answer.code, answer.stderr) == (0, "")
    reply = answer.json()
    offers = (reply.get("offered") or {}).get("offers", [])
    return [offer["release"]["version"] for offer in offers], reply["failure"]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_named_and_changes_nothing(
    repository: SmallRepository, site: SmallSite, tmp_path: Path, name: str
) -> None:
    attack, kind, words = ATTACKS[name]
    repository.publish()
    shutil.copytree(repository.served, tmp_path / "old")
    repository.publish(version="1.0.1")
    assert refresh(site) == (["1.0.0", "1.0.1"], None)
    last_good = (site.state / "tuf" / "last-good.json").read_bytes()
    attack(repository, tmp_path / "old")
    offers, failure = refresh(site)
    assert offers == ["1.0.0", "1.0.1"]
    assert failure is not None
    assert kind == failure["kind"]
    assert words in failure["message"]
    assert last_good == (site.state / "tuf" / "last-good.json").read_bytes()
    assert {"lock", "metadata", "last-good.json"} == {path.name for path in (site.state / "tuf").iterdir()}


def test_a_fast_forward_is_recovered_from_by_a_new_online_key(repository: SmallRepository, site: SmallSite) -> None:
    repository.publish()
    assert refresh(site) == (["1.0.0"], None)
    path = repository.served / "metadata" / "timestamp.json"
    honest = path.read_bytes()
    forward = Metadata.from_bytes(honest)
    forward.signed.version = 2**31
    forward.sign(repository.signers["online"])
    path.write_bytes(forward.to_bytes())
    assert refresh(site) == (["1.0.0"], None)
    path.write_bytes(honest)
    offers, failure = refresh(site)
    assert (offers, failure is not None and failure["kind"]) == (["1.0.0"], "TrustError")

    rotate_online_key(repository)
    assert refresh(site) == (["1.0.0"], None)


def test_metadata_signed_by_a_clock_far_ahead_is_taken_and_the_next_by_a_right_one_too(
    tmp_path: Path,
) -> None:
    repository = SmallRepository(tmp_path / "publisher", now=NOW + timedelta(days=3000))
    repository.publish(now=NOW + timedelta(days=3000))
    with serve(repository.served) as server:
        site = SmallSite(tmp_path / "site", server.url, repository.root_bytes)
        assert refresh(site) == (["1.0.0"], None)
        repository.refresh(now=NOW)
        assert refresh(site) == (["1.0.0"], None)


def test_refused_refreshes_leak_neither_descriptors_nor_threads_nor_directories(
    repository: SmallRepository, server: FaultyServer, tmp_path: Path
) -> None:
    def attempt() -> None:
        with Fetcher(5) as fetcher:
            trust = Trust(tmp_path / "tuf", repository.root_bytes, Mirrors(fetcher, [server.url, f"{server.url}/no"]))
            with pytest.raises(Exception, match="none of 2 mirrors"):
                trust.refresh(NOW)

    (repository.served / "metadata" / "timestamp.json").write_bytes(b"{")
    attempt()
    descriptors, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    for _ in range(20):
        attempt()
    # a few are the server's own, which end when it notices
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 4
    assert threading.active_count() <= threads + 4
    assert {"lock", "metadata"} == {path.name for path in (tmp_path / "tuf").iterdir()}


def test_a_round_goes_on_with_a_second_mirror_and_says_so(
    repository: SmallRepository, server: FaultyServer, site: SmallSite
) -> None:
    with serve(repository.served) as second:
        site.configure(repository={"mirrors": [second.url]})
        release = repository.publish()
        server.plant("metadata/timestamp.json", status=500)
        server.plant(release.artifact.path, truncate_to=100, times=1)
        seen = site.once()
        events = [json.loads(line) for line in seen.stderr.splitlines()]
        failed = [event for event in events if event["event"] == "mirror.failed"]
        assert {server.url} == {event["mirror"] for event in failed}
        served = {event["mirror"]: event["size_bytes"] for event in events if event["event"] == "mirror.served"}
        assert served[second.url] > 0
        assert "install" in seen.actions
        kept = json.loads((site.base / "cache" / "mirrors.json").read_bytes())
        assert list(kept) == [server.url]


def run_on_terminal(command: list[str], stdin: bytes) -> tuple[int, str]:
    """Run a command whose stderr is a terminal of 100 columns; give exit code and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen = bytearray()

    def read() -> None:
        try:
            while piece := os.read(ours, 65536):
                seen.extend(piece)
        except OSError:
            return  # a terminal whose other side is closed

    reader = threading.Thread(target=read)
    reader.start()
    process.communicate(stdin)
    reader.join()
    os.close(ours)
    return process.returncode, seen.decode()


def percents(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"(\d+)%", text)]


@pytest.fixture
def offered(repository: SmallRepository, site: SmallSite) -> bytes:
    """The verified offer of a release of eight files."""
    repository.publish({f"lib/{number}": os.urandom(40_000) for number in range(8)})
    reply = site.run("job", "refresh").json()
    Store(site.store).ensure()
    return json.dumps(reply["offered"]["offers"][0]).encode()


def test_a_terminal_shows_the_progress_of_an_install_and_of_its_resumption(
    repository: SmallRepository, server: FaultyServer, site: SmallSite, offered: bytes
) -> None:
    path = str(next((repository.served / "artifacts").iterdir()).relative_to(repository.served))
    length = (repository.served / path).stat().st_size
    server.plant(path, truncate_to=length // 2, times=1)
    server.plant(path, status=404)
    code, seen = run_on_terminal(site.command("job", "install"), offered)
    assert code == 0
    assert "installing grid-clients-1.0.0" in seen
    assert 25 <= max(percents(seen)) <= 50
    server.heal()
    code, seen = run_on_terminal(site.command("job", "install"), offered)
    assert sorted(percents(seen)) == percents(seen)
    assert percents(seen)[-1] == 100
    assert site.installed() == ["grid-clients-1.0.0-x86_64-glibc2.36"]


def test_a_terminal_shows_a_body_that_broke_off_as_one_progress(
    repository: SmallRepository, server: FaultyServer, site: SmallSite, offered: bytes
) -> None:
    path = str(next((repository.served / "artifacts").iterdir()).relative_to(repository.served))
    length = (repository.served / path).stat().st_size
    server.plant(path, truncate_to=length // 2, times=1)
    _, seen = run_on_terminal(site.command("job", "install"), offered)
    assert sorted(percents(seen)) == percents(seen)
    assert percents(seen)[-1] == 100
    ranges = [request.range for request in server.requests if request.path == path]
    assert ranges == [None, f"bytes={length // 2}-{length - 1}"]


def test_a_log_of_a_job_that_is_no_terminal_shows_no_progress(site: SmallSite, offered: bytes) -> None:
    answer = site.run("job", "install", stdin=offered.decode())
    assert (answer.code, answer.stderr) == (0, "")
    assert picture(site.store / "releases")

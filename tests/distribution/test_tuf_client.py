"""The agent as a client of any TUF repository, by the command line of the public conformance suite.

Subjects are the suite's. Each run is one command against a real server; those that start many run ``main`` in
this process, the first ones the real program.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, TargetFile

from pps_agent.tuf_client import locate_target, main
from pps_agent.updater import LIMITS
from tests.support.repository import FaultyServer, serve
from tests.support.tuf_repository import TufRepository, in_days, new_signer


class Client:
    """One client's directories, and its commands."""

    def __init__(self, base: Path, url: str) -> None:
        self.metadata = base / "metadata"
        self.targets = base / "targets"
        self.pinned = base / "initial_root.json"
        self.url = url
        base.mkdir()

    def arguments(self, *command: str) -> list[str]:
        return ["--metadata-dir", str(self.metadata), "--metadata-url", f"{self.url}/metadata/", *command]

    def init(self, root: bytes) -> int:
        self.pinned.write_bytes(root)
        return main(["--metadata-dir", str(self.metadata), "init", str(self.pinned)])

    def refresh(self) -> int:
        return main(self.arguments("--timeout-s", "2", "refresh"))

    def download(self, name: str) -> int:
        place = ["--target-name", name, "--target-base-url", f"{self.url}/targets/", "--target-dir", str(self.targets)]
        return main(self.arguments("--timeout-s", "2", *place, "download"))

    def versions(self) -> dict[str, int]:
        found = {}
        for path in self.metadata.glob("*.json"):
            found[path.stem] = Metadata.from_bytes(path.read_bytes()).signed.version
        return found

    def downloaded(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.targets.rglob("*")) if path.is_file()]


@pytest.fixture
def repository(tmp_path: Path) -> TufRepository:
    return TufRepository(tmp_path / "repository")


@pytest.fixture
def server(repository: TufRepository) -> Iterator[FaultyServer]:
    with serve(repository.base) as running:
        yield running


@pytest.fixture
def client(tmp_path: Path, repository: TufRepository, server: FaultyServer) -> Client:
    made = Client(tmp_path / "client", server.url)
    assert made.init(repository.root_bytes) == 0
    return made


def asked(server: FaultyServer) -> list[str]:
    return [path.removeprefix("metadata/").removesuffix(".json") for path in server.paths()]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pps_agent.tuf_client", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program_initialises_refreshes_and_downloads(tmp_path, repository, server):
    repository.add_target("targets", "path/to/file.txt", b"content")
    repository.publish("targets")
    client = Client(tmp_path / "client", server.url)
    client.pinned.write_bytes(repository.root_bytes)
    done = run("--metadata-dir", str(client.metadata), "init", str(client.pinned))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server.requests == []
    assert run(*client.arguments("refresh")).returncode == 0
    assert asked(server) == ["2.root", "timestamp", "2.snapshot", "2.targets"]
    assert client.versions() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}
    place = ["--target-base-url", f"{server.url}/targets", "--target-dir", str(client.targets)]
    assert run(*client.arguments("--target-name", "path/to/file.txt", *place, "download")).returncode == 0
    assert client.downloaded() == [b"content"]
    missing = run(*client.arguments("--target-name", "missing", *place, "download"))
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "tuf_client: missing: nobody signs for it; check the name\n"


def test_a_refresh_that_finds_nothing_new_asks_twice_and_writes_nothing(client, repository, server):
    assert client.refresh() == 0
    server.requests.clear()
    before = {path: path.stat().st_mtime_ns for path in client.metadata.rglob("*") if path.is_file()}
    assert client.refresh() == 0
    assert asked(server) == ["2.root", "timestamp"]
    assert before == {path: path.stat().st_mtime_ns for path in client.metadata.rglob("*") if path.is_file()}


def test_a_download_refreshes_first(client, repository, server):
    assert client.download("nonexistent") == 1
    assert client.versions() == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}


@pytest.mark.parametrize("spoil", [lambda root: root["signed"].pop("version"), lambda root: root["signatures"].clear()])
def test_an_initial_root_that_is_none_is_refused_before_any_request(client, repository, server, spoil, capsys):
    root = json.loads(repository.root_bytes)
    spoil(root)
    assert client.init(json.dumps(root).encode()) == 0
    assert client.refresh() == 1
    assert server.requests == []
    assert "tuf_client: " in capsys.readouterr().err


def test_unknown_fields_are_kept_under_the_signatures(client, repository):
    repository.root.unrecognized_fields["custom-field"] = "value"
    repository.root.roles["root"].unrecognized_fields["another"] = {"a": [1, 2]}
    repository.write("root", bump=True)
    assert client.refresh() == 0
    assert client.versions()["root"] == 2


@pytest.mark.parametrize("hashes", [False, True])
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_role_that_is_rolled_back_is_refused(client, repository, role, hashes):
    repository.hashes = hashes
    repository.publish("targets")
    repository.publish("targets")
    assert client.refresh() == 0
    before = client.versions()
    repository.mds[role].signed.version = 1
    repository.write(role)
    if role == "targets":
        repository.publish()
    elif role == "snapshot":
        repository.publish_timestamp()
    assert client.refresh() == 1
    after = client.versions()
    assert before[role] == after[role]
    assert before["targets"] == after["targets"]


def test_a_timestamp_of_the_same_version_changes_nothing(client, repository):
    assert client.refresh() == 0
    repository.timestamp.snapshot_meta.version = 100
    repository.write("timestamp")
    assert client.refresh() == 0
    kept = Metadata.from_bytes((client.metadata / "timestamp.json").read_bytes())
    assert kept.signed.snapshot_meta.version == 1


@pytest.mark.parametrize(
    ("role", "kept"),
    [
        ("root", {"root": 2, "timestamp": 1, "snapshot": 1, "targets": 1}),
        ("timestamp", {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}),
        ("snapshot", {"root": 1, "timestamp": 2, "snapshot": 1, "targets": 1}),
        ("targets", {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 1}),
    ],
)
def test_an_expired_role_is_refused_and_what_is_above_it_is_kept(client, repository, role, kept):
    assert client.refresh() == 0
    repository.mds[role].signed.expires = in_days(-1)
    if role == "root":
        repository.write("root", bump=True)
    elif role == "timestamp":
        repository.publish_timestamp()
    elif role == "snapshot":
        repository.publish()
    else:
        repository.publish("targets")
    assert client.refresh() == 1
    assert kept == client.versions()
    repository.mds[role].signed.expires = in_days(30)
    repository.publish("targets", *(["root"] if role == "root" else []))
    assert client.refresh() == 0


@pytest.mark.parametrize("rotated", [("timestamp",), ("snapshot", "timestamp"), ("snapshot",)])
def test_a_fast_forward_is_recovered_from_by_new_keys(client, repository, rotated):
    role = {("timestamp",): "timestamp", ("snapshot", "timestamp"): "snapshot", ("snapshot",): "targets"}[rotated]
    repository.mds[role].signed.version = 99_998
    repository.publish("targets")
    assert client.refresh() == 0
    assert client.versions()[role] >= 99_999
    repository.mds[role].signed.version = 1
    repository.rotate(*rotated)
    if role == "targets":
        repository.publish("targets")
    elif role == "snapshot":
        repository.publish()
    else:
        repository.write("timestamp")
    assert client.refresh() == 0
    assert client.versions()[role] <= 3


def test_files_of_two_snapshots_are_not_mixed(client, repository):
    repository.hashes = True
    repository.publish("targets")
    first = repository.path("targets").read_bytes()
    assert client.refresh() == 0
    repository.add_target("targets", "new", b"new")
    repository.publish("targets")
    repository.path("targets").write_bytes(first)
    assert client.refresh() == 1
    assert client.versions() == {"root": 1, "timestamp": 3, "snapshot": 3, "targets": 2}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_role_signed_by_a_stranger_is_refused(client, repository, role):
    assert client.refresh() == 0
    repository.signers[role] = [new_signer()]
    repository.publish("targets")
    assert client.refresh() == 1
    assert client.versions()[role] == 1


def test_the_same_signature_twice_is_refused(client, repository):
    document = json.loads(repository.path("timestamp").read_bytes())
    document["signatures"] *= 2
    repository.path("timestamp").write_text(json.dumps(document))
    assert client.refresh() == 1
    assert "timestamp" not in client.versions()


def test_a_threshold_is_met_by_different_keys_only(client, repository):
    repository.signers["snapshot"].append(new_signer())
    repository.root.add_key(repository.signers["snapshot"][1].public_key, "snapshot")
    repository.root.roles["snapshot"].threshold = 2
    repository.write("root", bump=True)
    both = repository.signers["snapshot"]
    repository.signers["snapshot"] = both[:1]
    repository.publish()
    assert client.refresh() == 1
    repository.signers["snapshot"] = both
    repository.publish()
    assert client.refresh() == 0


ROTATIONS = {
    # versions in order: (keys, threshold, signatures), and whether the last one is accepted
    "one key": ([([1], 1, [1]), ([2], 1, [2, 1]), ([2], 1, [2])], True),
    "more signatures than keys": ([([1], 1, [3, 1, 4]), ([2], 1, [3, 2, 1, 4]), ([2], 1, [3, 2, 4])], True),
    "three of five": ([([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 3, 4, 5], 3, [0, 4, 1])], True),
    "threshold raised": ([([1, 2, 3], 1, [1]), ([1, 2, 3], 2, [1, 2])], True),
    "threshold lowered": ([([1, 2, 3], 2, [1, 2]), ([1, 2, 3], 1, [1, 2]), ([1, 2, 3], 1, [1])], True),
    "without the old key": ([([1], 1, [1]), ([2], 1, [2, 3, 4])], False),
    "without the new key": ([([1], 1, [1]), ([2], 1, [1, 3, 4])], False),
    "too few of the new": ([([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 3, 4, 5], 3, [0, 2, 4])], False),
    "new threshold not reached": ([([1, 2, 3], 1, [1]), ([1, 2, 3], 2, [2])], False),
    "old threshold not reached": ([([1, 2, 3], 2, [1, 2]), ([1, 2, 3], 1, [1])], False),
}


@pytest.mark.parametrize("name", ROTATIONS)
def test_a_chain_of_roots_is_followed_while_each_is_signed_by_old_and_new(client, repository, name):
    versions, accepted = ROTATIONS[name]
    signers = [new_signer() for _ in range(6)]
    repository.root.version = 0
    for keys, threshold, signatures in versions:
        repository.root.roles["root"].keyids.clear()
        for number in keys:
            repository.root.add_key(signers[number].public_key, "root")
        repository.root.roles["root"].threshold = threshold
        repository.signers["root"] = [signers[number] for number in signatures]
        repository.write("root", bump=True)
    client.init(repository.root_bytes)
    assert client.refresh() == (0 if accepted else 1)
    last = len(versions) if accepted else len(versions) - 1
    served = (repository.base / "metadata" / f"{last}.root.json").read_bytes()
    assert served == (client.metadata / "root.json").read_bytes()


def test_more_new_roots_than_the_limit_are_followed_over_several_refreshes(client, repository, monkeypatch):
    monkeypatch.setattr(LIMITS, "max_root_rotations", 3)
    for _ in range(4):
        repository.write("root", bump=True)
    assert client.refresh() == 0
    assert client.versions()["root"] == 4
    assert client.refresh() == 0
    assert client.versions()["root"] == 5


@pytest.mark.parametrize("consistent", [True, False])
def test_consistent_snapshots_are_optional(tmp_path, consistent):
    repository = TufRepository(tmp_path / "repository", consistent=consistent)
    repository.add_target("targets", "a/b.txt", b"content")
    repository.publish("targets")
    with serve(repository.base) as server:
        client = Client(tmp_path / "client", server.url)
        client.init(repository.root_bytes)
        assert client.download("a/b.txt") == 0
        assert ("2.targets" in asked(server)) == consistent
    assert client.downloaded() == [b"content"]


GRAPHS = {
    # delegations (parent, role, paths, terminating) and the roles visited, in order
    "one": ([("targets", "A", ["*"], False)], ["A"]),
    "siblings": ([("targets", "A", ["*"], False), ("targets", "B", ["*"], False)], ["A", "B"]),
    "depth first": (
        [("targets", "A", ["*"], False), ("targets", "B", ["*"], False), ("A", "C", ["*"], False)],
        ["A", "C", "B"],
    ),
    "terminating": (
        [("targets", "A", ["*"], False), ("targets", "B", ["*"], False), ("A", "C", ["*"], True), ("A", "D", ["*"], 0)],
        ["A", "C"],
    ),
    "other paths": ([("targets", "A", ["*.py"], False), ("targets", "B", ["*"], False)], ["B"]),
    "a star crosses no slash": ([("targets", "A", ["*/*"], True), ("targets", "B", ["missing*"], False)], ["B"]),
    "cycle": (
        [("targets", "A", ["*"], False), ("A", "B", ["*"], False), ("B", "A", ["*"], False)],
        ["A", "B"],
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_delegations_are_visited_in_order(client, repository, server, name):
    delegations, visited = GRAPHS[name]
    for parent, role, paths, terminating in delegations:
        repository.delegate(parent, role, paths, terminating=bool(terminating))
    repository.publish(*(role for role in repository.mds if role not in ("root", "timestamp", "snapshot")))
    assert client.download("missingpath") == 1
    assert asked(server)[4:] == [f"1.{role}" for role in visited]


def test_a_target_is_found_only_through_roles_that_may_sign_for_it(client, repository):
    repository.delegate("targets", "A", ["releases/x/*"])
    repository.delegate("targets", "B", ["releases/*/*.zip"])
    repository.add_target("A", "releases/x/one", b"one")
    repository.add_target("A", "releases/y/two.zip", b"not A's to sign")
    repository.publish("targets", "A", "B")
    assert client.download("releases/x/one") == 0
    assert client.download("releases/y/two.zip") == 1
    assert client.downloaded() == [b"one"]


@pytest.mark.parametrize("role", ["?", "#", "/delegated", "../delegated", "%2e%2e", "ä b", "a%2Fb"])
def test_a_role_of_an_odd_name_stays_in_its_place(client, repository, server, role, tmp_path):
    repository.delegate("targets", role)
    repository.publish("targets", role)
    outside = {path for path in tmp_path.rglob("*") if not path.is_relative_to(client.metadata)}
    assert client.download("nonexistent") == 1
    assert len(client.versions()) == 5
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(client.metadata)} == outside


def test_hash_bins_lead_to_the_target(client, repository, server):
    bins = repository.delegate_bins(3, "bin")
    path = "some/file"
    (name,) = (role for role, _ in repository.targets.delegations.get_roles_for_target(path))
    assert name in bins
    repository.publish("targets", *bins)
    repository.add_target(name, path, b"content")
    repository.publish(name)
    assert client.download(path) == 0
    assert asked(server)[4:5] == [f"2.{name}"]


@pytest.mark.parametrize("served", [b"cOntent", b"conten", b"content and more", b""])
def test_a_target_that_is_not_the_signed_one_is_refused(client, repository, served):
    repository.add_target("targets", "file", b"content", served=served)
    repository.publish("targets")
    assert client.download("file") == 1
    assert client.downloaded() == []


def test_a_changed_target_replaces_its_file_and_one_that_is_here_is_not_fetched_again(client, repository, server):
    repository.add_target("targets", "file", b"first")
    repository.publish("targets")
    assert client.download("file") == 0
    repository.add_target("targets", "file", b"second")
    repository.publish("targets")
    assert client.download("file") == 0
    assert client.downloaded() == [b"second"]
    server.requests.clear()
    assert client.download("file") == 0
    assert [path for path in server.paths() if path.startswith("targets/")] == []


@pytest.mark.parametrize("path", ["a b", "ä", "a'b;c=1,2+3", "a%20b", "..hidden", "a/../b", ".", ".."])
def test_a_target_of_an_odd_name_stays_in_its_directory(client, repository, tmp_path, path):
    if path not in (".", "..", "a/../b"):
        repository.add_target("targets", path, b"content")
    repository.targets.targets[path] = TargetFile.from_data(path, b"content", ["sha256"])
    repository.publish("targets")
    outside = {found for found in tmp_path.rglob("*") if not found.is_relative_to(client.targets)}
    client.download(path)
    after = {found for found in tmp_path.rglob("*") if not found.is_relative_to(client.targets)}
    assert {found for found in after - outside if not found.is_relative_to(client.metadata)} == set()
    if path in ("a b", "ä", "a'b;c=1,2+3", "..hidden"):
        assert client.downloaded() == [b"content"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_no_target_path_leaves_the_targets_address(path):
    url = locate_target(TargetFile.from_data(path, b"", ["sha256"]), "http://h/targets/", consistent=True)
    assert url.startswith("http://h/targets/")
    assert not set(url) & set('?# \\\n"<>')


@pytest.mark.parametrize("role", ["2.root", "timestamp", "2.snapshot", "2.targets"])
def test_endless_metadata_is_cut_off(client, repository, server, role):
    repository.publish("targets")
    (repository.base / "metadata" / f"{role}.json").write_bytes(b" " * 6_000_000)
    assert client.refresh() == 1
    assert max(request.bytes_sent for request in server.requests) == 6_000_000
    assert "targets" not in client.versions()


def test_slow_metadata_is_given_up(client, repository, server):
    import threading

    never = threading.Event()
    server.plant("metadata/timestamp.json", wait_for=never)
    try:
        assert client.refresh() == 1
    finally:
        never.set()


def test_nothing_is_left_behind_by_a_refused_refresh(client, repository):
    assert client.refresh() == 0
    repository.path("timestamp").write_bytes(b"{")
    assert client.refresh() == 1
    assert sorted(path.name for path in client.metadata.iterdir()) == [
        "lock",
        "root.json",
        "root_history",
        "snapshot.json",
        "targets.json",
        "timestamp.json",
    ]

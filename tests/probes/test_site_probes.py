"""The probes of clocks, disks, tags, mounts and the agent itself, against real servers and file systems."""

import contextlib
import email.utils
import http.server
import json
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.bdii import BASE, BdiiServer, missing_packages, start_bdii
from pps_agent.probes.publish import AgentState, Publisher, Tagging
from pps_wire.names import Subcluster, Tag
from pps_wire.report import Status
from tests.probes.conftest import needs_root
from tests.support.probe_runs import Said, run_probe, shipped
from tests.support.services import need

NTP_EPOCH_S = 2208988800
SUBCLUSTER = "ce01.example.org"
CHRONY = Path(sys.prefix) / "share" / "chrony"


# --- sys.clock -------------------------------------------------------------------------------------


@contextlib.contextmanager
def http_server(offset_s: float = 0, headers: Mapping[str, str] = {}, *, has_date: bool = True) -> Iterator[str]:
    """Serve answers whose Date is wrong by so much; give the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(403)  # any answer has a Date
            if has_date:
                self.send_header("Date", email.utils.formatdate(time.time() + offset_s, usegmt=True))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextlib.contextmanager
def ntp_server(
    offset_s: float = 0, *, stratum: int = 2, leap: int = 0, mode: int = 4, forge: bool = False
) -> Iterator[str]:
    """Answer SNTP queries with a clock that is off by so much; give the address.

    ``forge`` sends an answer with another's stamp, and a short one, before the right one.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.bind(("127.0.0.1", 0))
        channel.settimeout(0.2)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    query, address = channel.recvfrom(1024)
                except TimeoutError:
                    continue
                now = ntp_stamp(time.time() + offset_s)
                head = struct.pack("!BBbbII4s", leap << 6 | 4 << 3 | mode, stratum, 6, -20, 100, 200, b"RATE")
                if forge:
                    channel.sendto(head + bytes(8) + os.urandom(8) + bytes(16), address)
                    channel.sendto(b"\x24", address)
                channel.sendto(head + bytes(8) + query[40:48] + now + now, address)

        worker = threading.Thread(target=work)
        worker.start()
        yield f"ntp://127.0.0.1:{channel.getsockname()[1]}"
        stop.set()
        worker.join()


def ntp_stamp(at: float) -> bytes:
    whole = int(at)
    return struct.pack("!II", (whole + NTP_EPOCH_S) % 2**32, int((at - whole) * 2**32))


def clock(*sources: str, **more: str) -> Said:
    return run_probe("sys.clock", {"PPS_SYS_CLOCK_SOURCES": " ".join(sources), **more})


def test_clock_agrees_with_servers_of_both_kinds() -> None:
    with http_server() as web, ntp_server() as ntp:
        said = clock(web, ntp)
    assert (said.status, said.text.endswith("2 of 2 sources")) == (Status.OK, True), said.text
    assert (said.perfdata["sources"], abs(said.perfdata["offset"] or 9) < 0.5) == (2, True)
    assert [line.split(": ")[0] for line in said.lines] == [web, ntp]


@pytest.mark.parametrize(
    ("offset_s", "status", "way"),
    [(30, Status.WARNING, "behind"), (-30, Status.WARNING, "ahead of"), (4000, Status.CRITICAL, "behind")],
)
def test_clock_that_is_off_is_told_with_its_direction(offset_s: float, status: Status, way: str) -> None:
    for server in (http_server, ntp_server):
        with server(offset_s) as source:
            said = clock(source)
        assert (said.status, f"{way} 1 of 1 sources: does chronyd or ntpd run?" in said.text) == (status, True)
        assert abs((said.perfdata["offset"] or 0) - offset_s) < 2


def test_clock_believes_most_of_the_sources() -> None:
    with http_server() as right, ntp_server() as precise, http_server(4000) as wrong:
        said = clock(wrong, right, precise)
        assert (said.status, said.text.endswith("2 of 3 sources")) == (Status.OK, True), said.text
        assert (said.perfdata["spread"] or 0) > 3990
        split = clock(wrong, right)
    assert (split.status, "the sources do not agree" in split.text) == (Status.UNKNOWN, True)


def test_clock_does_not_lose_a_wrong_clock_behind_a_dead_source() -> None:
    with http_server(4000) as wrong, http_server(4000) as too, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        said = clock(f"http://127.0.0.1:{unused.getsockname()[1]}/", wrong, too)
    assert (said.status, "2 of 2 sources" in said.text, said.lines[0].endswith("Connection refused")) == (
        Status.CRITICAL,
        True,
        True,
    )


def test_clock_adds_the_age_of_a_cached_answer() -> None:
    with http_server(-600, {"Age": "600"}) as source:
        assert clock(source).status is Status.OK


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stratum": 0}, "it sends us away: RATE"),
        ({"stratum": 16}, "its own clock is not set"),
        ({"leap": 3}, "its own clock is not set"),
        ({"mode": 5}, "not as a server (mode 5)"),
    ],
)
def test_clock_takes_no_time_from_a_server_that_has_none(options: dict[str, Any], words: str) -> None:
    with ntp_server(4000, **options) as source:
        said = clock(source)
    assert (said.status, words in said.text) == (Status.UNKNOWN, True), said.text


def test_clock_ignores_packets_that_answer_nobody_s_question() -> None:
    with ntp_server(forge=True) as source:
        assert clock(source).status is Status.OK


def test_clock_reads_times_after_the_era_ends_in_2036() -> None:
    offset_s = 2**32 - NTP_EPOCH_S - time.time() + 86_400
    with ntp_server(offset_s) as source:
        said = clock(source)
    assert (said.status, abs((said.perfdata["offset"] or 0) - offset_s) < 2) == (Status.CRITICAL, True)


def test_clock_of_a_server_without_date_is_not_known() -> None:
    with http_server(has_date=False) as source:
        said = clock(source)
    assert (said.status, said.text.endswith("its answer has no Date")) == (Status.UNKNOWN, True)


def test_clock_does_not_wait_for_a_source_that_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, http_server() as right:
        said = clock(f"http://127.0.0.1:{silent.getsockname()[1]}/", right)
    assert (said.status, said.lines[0].endswith("timed out")) == (Status.OK, True), said.lines


@needs_root
@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ("local stratum 5", Status.OK, "2 of 2 sources"),
        ("", Status.UNKNOWN, "chronyd follows no clock"),
    ],
)
def test_clock_asks_a_real_chronyd_both_as_a_server_and_as_this_machine_s_own(
    tmp_path: Path, settings: str, status: Status, words: str
) -> None:
    need("" if (CHRONY / "sbin" / "chronyd").exists() else "chrony is not unpacked: ./run test does so")
    files = f"pidfile {tmp_path}/pid\ndriftfile {tmp_path}/drift\n"
    configuration = tmp_path / "chrony.conf"
    configuration.write_text(f"{settings}\nallow 127.0.0.1\nbindcmdaddress 127.0.0.1\n{files}")
    # -x: it does not touch the clock. All it starts ends with the process namespace.
    script = (
        f"PATH={CHRONY}/bin:{CHRONY}/sbin:$PATH:/usr/sbin:/sbin; ip link set lo up; "
        f"chronyd -x -d -u root -f {configuration} 2>{tmp_path}/log & "
        "until chronyc -n -c tracking >/dev/null; do sleep 0.1; done; "
    )
    before = ["unshare", "-n", "-m", "-p", "--fork", "--kill-child", "timeout", "30", "sh", "-c", f'{script}"$0"']
    said = run_probe("sys.clock", {"PPS_SYS_CLOCK_SOURCES": "chrony ntp://127.0.0.1"}, before=before)
    assert (said.status, words in said.text) == (status, True), said.output
    assert settings or said.lines[1].endswith("its own clock is not set")


# --- sys.disk --------------------------------------------------------------------------------------


def in_mounts(script: str, area: Path, **env: str) -> Said:
    """Run sys.disk in a mount namespace of its own, after a script that mounts below ``area``."""
    need("" if shutil.which("unshare") else "unshare is missing: apt-get install util-linux")
    before = ["unshare", "-m", "sh", "-ec", f'cd {area}; {script}\nexec "$0"']
    return run_probe("sys.disk", {"PPS_SYS_DISK_AREAS": f"{area}/a", **env}, before=before)


@needs_root
@pytest.mark.parametrize(
    ("fill", "status", "words"),
    [
        ("", Status.OK, "1 areas have space"),
        ("head -c 3800000 /dev/zero >a/f", Status.WARNING, "KiB (9."),
        ("head -c 4100000 /dev/zero >a/f", Status.CRITICAL, "KiB ("),
        ("for i in $(seq 92); do : >a/$i; done", Status.WARNING, "7 inodes (7.0 %) free"),
        ("for i in $(seq 97); do : >a/$i; done", Status.CRITICAL, "2 inodes (2.0 %) free"),
        ("mount -o remount,ro a", Status.CRITICAL, "a is mounted read-only"),
        ("umount a; rmdir a", Status.CRITICAL, "a: no such file or directory"),
    ],
)
def test_disk_judges_bytes_and_inodes_of_a_real_file_system(
    tmp_path: Path, fill: str, status: Status, words: str
) -> None:
    said = in_mounts(f"mkdir a; mount -t tmpfs -o size=4m,nr_inodes=100 none a\n{fill}", tmp_path)
    assert (said.status, words in said.text) == (status, True), said.text


@needs_root
def test_disk_takes_limits_in_bytes_and_areas_that_may_be_read_only(tmp_path: Path) -> None:
    mount = "mkdir -p a; mount -t tmpfs -o size=4m none a"
    said = in_mounts(mount, tmp_path, PPS_SYS_DISK_WARN="1G", PPS_SYS_DISK_CRIT="1M")
    assert said.status is Status.WARNING
    assert (said.perfdata[f"bytes_free {tmp_path}/a"], "MiB (100.0 %) free" in said.text) == (4194304, True)
    said = in_mounts(f"{mount}; mount -o remount,ro a", tmp_path, PPS_SYS_DISK_AREAS=f"{tmp_path}/a:ro")
    assert (said.status, "read-only" in said.lines[0]) == (Status.OK, True)


def test_disk_tells_of_each_file_system_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    none = dict.fromkeys(
        ("PPS_SYS_DISK_WARN", "PPS_SYS_DISK_CRIT", "PPS_SYS_DISK_INODES_WARN", "PPS_SYS_DISK_INODES_CRIT"), "0"
    )
    said = run_probe("sys.disk", {"PPS_SYS_DISK_AREAS": f"{tmp_path}/a {tmp_path}/b", **none})
    assert (said.status, said.lines[1]) == (Status.OK, f"{tmp_path}/b: on the same file system as one before")
    assert len([label for label in said.perfdata if label.startswith("bytes_free")]) == 1


def test_disk_without_settings_looks_at_what_every_node_has() -> None:
    said = run_probe("sys.disk", {})
    assert said.status in (Status.OK, Status.WARNING, Status.CRITICAL)  # as full as this machine is
    assert "bytes_free /tmp" in said.perfdata


def test_disk_that_hangs_holds_only_a_child_and_hides_no_other(tmp_path: Path) -> None:
    bindfs, fusermount = shutil.which("bindfs"), shutil.which("fusermount3") or shutil.which("fusermount")
    need("" if bindfs and fusermount and Path("/dev/fuse").exists() else "bindfs or /dev/fuse is missing")
    for name in ("below", "above", "other"):
        (tmp_path / name).mkdir()
    subprocess.run([bindfs or "", tmp_path / "below", tmp_path / "above"], check=True)
    pid = int(subprocess.run(["pgrep", "-f", f"bindfs {tmp_path}/below"], capture_output=True, check=True).stdout)
    try:
        os.kill(pid, signal.SIGSTOP)
        said = run_probe("sys.disk", {"PPS_SYS_DISK_AREAS": f"{tmp_path}/above {tmp_path}/other"})
    finally:
        os.kill(pid, signal.SIGCONT)
        subprocess.run([fusermount or "", "-u", tmp_path / "above"], check=True)
    assert (said.status, f"{tmp_path}/above does not answer within 10 s" in said.text) == (Status.CRITICAL, True)
    assert f"bytes_free {tmp_path}/other" in said.perfdata


# --- agent.self ------------------------------------------------------------------------------------


def snapshot(path: Path, **changes: object) -> Path:
    """Write what the daemon publishes; spans of time are counted from now."""
    facts: dict[str, object] = {
        "written_at": timedelta(0),
        "round_ended_at": timedelta(seconds=-30),
        "round_interval_s": 300,
        "outbox_waiting": 3,
        "outbox_oldest_at": timedelta(seconds=-60),
        "metadata_expires_at": timedelta(days=2),
        "misfires": 0,
        "due_lag_s": 0.2,
        "running": 1,
        "site": "EXAMPLE-SITE",
    }
    now = datetime.now(UTC)
    facts = {
        name: (now + value).isoformat() if isinstance(value, timedelta) else value
        for name, value in (facts | changes).items()
    }
    path.write_text(json.dumps(facts))
    return path


def agent(path: Path, **more: str) -> Said:
    return run_probe("agent.self", {"PPS_AGENT_SNAPSHOT": str(path), **more})


def test_agent_that_works_is_ok(tmp_path: Path) -> None:
    said = agent(snapshot(tmp_path / "agent.json"))
    assert (said.status, said.text) == (Status.OK, "the agent of EXAMPLE-SITE works, a round every 5 min")
    expected = [
        "snapshot_age", "round_age", "due_lag", "misfires", "running", "outbox", "outbox_age", "metadata_left",
    ]  # fmt: skip
    assert list(said.perfdata) == expected


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"written_at": timedelta(seconds=-1000)}, Status.CRITICAL, "has written nothing for 16 min: has it hung"),
        ({"written_at": timedelta(seconds=-800)}, Status.OK, "works"),
        ({"round_ended_at": timedelta(hours=-3)}, Status.CRITICAL, "no round has ended for 3 h"),
        ({"round_ended_at": None}, Status.OK, "works"),  # the first is under way
        ({"outbox_oldest_at": timedelta(hours=-3)}, Status.WARNING, "reports have waited for 3 h"),
        ({"outbox_oldest_at": timedelta(days=-3)}, Status.CRITICAL, "reports have waited for 3 days"),
        ({"outbox_waiting": 0, "outbox_oldest_at": None}, Status.OK, "works"),
        ({"metadata_expires_at": timedelta(hours=10)}, Status.WARNING, "metadata expires in"),
        ({"metadata_expires_at": timedelta(hours=-3)}, Status.CRITICAL, "the signed metadata expired 3 h ago"),
        ({"metadata_expires_at": None}, Status.OK, "works"),
        ({"written_at": timedelta(hours=3)}, Status.UNKNOWN, "is the clock right?"),
        ({"written_at": "yesterday"}, Status.UNKNOWN, "the snapshot's written_at is no time in UTC"),
        ({"written_at": "2026-01-01T00:00:00"}, Status.UNKNOWN, "no time in UTC"),
        ({"round_interval_s": "5 min"}, Status.UNKNOWN, "round_interval_s is no number"),
        ({"due_lag_s": -1}, Status.UNKNOWN, "due_lag_s is no number"),
        ({"running": True}, Status.UNKNOWN, "running is no number"),
    ],
)
def test_agent_that_is_in_trouble_is_told(
    tmp_path: Path, changes: dict[str, object], status: Status, words: str
) -> None:
    said = agent(snapshot(tmp_path / "agent.json", **changes))
    assert (said.status, words in said.text) == (status, True), said.text


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '"x"', "\udcff"])
def test_agent_whose_snapshot_is_none_is_not_known(tmp_path: Path, content: str) -> None:
    (tmp_path / "agent.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert agent(tmp_path / "agent.json").status is Status.UNKNOWN


def test_the_snapshot_that_the_daemon_publishes_is_understood_by_both_its_readers(lists: Path) -> None:
    now = datetime.now(UTC)
    tagging = Tagging(
        base=str(lists),
        subclusters=(SUBCLUSTER,),
        url=None,
        ldap_base=BASE,
        tags={Subcluster(SUBCLUSTER): (Tag("VO-dteam-a"),)},
    )
    state = AgentState(
        written_at=now, site="EXAMPLE-SITE", running=1, misfires=0, due_lag_s=0.25, round_interval_s=300,
        round_ended_at=now, metadata_expires_at=now + timedelta(days=2), outbox_waiting=2, outbox_oldest_at=now,
        tagging=tagging,
    )  # fmt: skip
    Publisher(lists.parent).write(state)
    said = agent(lists.parent / "agent.json")
    assert (said.status, said.perfdata["due_lag"], said.perfdata["outbox"]) == (Status.OK, 0, 2), said.text
    seen = run_probe("wn.tags", {"PPS_AGENT_SNAPSHOT": str(lists.parent / "agent.json")})
    assert (seen.status, seen.text) == (Status.OK, "3 tags on disk, 0 published, 1 of the agent: they agree")


# --- wn.tags ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BdiiServer, Path]]:
    """Give a real information system that publishes what a plugin prints, and the plugin's file."""
    missing = missing_packages()
    need(f"apt-get install {' '.join(missing)}" if missing else "")
    directory = tmp_path_factory.mktemp("bdii")
    plugin = directory / "plugin.ldif"
    plugin.write_text("")
    with start_bdii(directory / "server", "EXAMPLE-SITE", [SUBCLUSTER], ["cat", str(plugin)], breathe_s=0.2) as server:
        yield server, plugin


@pytest.fixture
def publish(published: tuple[BdiiServer, Path]) -> Callable[..., str]:
    """Give a function that publishes these tags and no others, waits until they are seen, and gives the address."""
    server, plugin = published

    def put(*tags: str) -> str:
        lines = [f"{TAG_ATTRIBUTE}: {tag}\n" for tag in tags]
        parent = f"GlueClusterUniqueID={SUBCLUSTER},mds-vo-name=resource,{BASE}"
        head = f"dn: GlueSubClusterUniqueID={SUBCLUSTER},{parent}\n"
        partial = plugin.with_suffix(".new")
        partial.write_text("".join([head, *lines, "\n"]) if lines else "")
        partial.replace(plugin)
        deadline = time.monotonic() + 30
        while seen(server.url) - {"GLITE-3_2_0"} != set(tags):
            assert time.monotonic() < deadline, seen(server.url)
            threading.Event().wait(0.1)
        return server.url

    return put


TAG_ATTRIBUTE = "GlueHostApplicationSoftwareRunTimeEnvironment"


def seen(url: str) -> set[str]:
    words = ["-x", "-LLL", "-o", "ldif-wrap=no", "-H", url, "-b", BASE, "(objectClass=GlueSubCluster)", TAG_ATTRIBUTE]
    done = subprocess.run(["ldapsearch", *words], capture_output=True, text=True, check=False, timeout=10)
    return {line.partition(": ")[2] for line in done.stdout.split("\n") if line.startswith(TAG_ATTRIBUTE)}


def tags(base: Path, url: str, *, ours: list[str] | None = None, age_s: float = 3600, **more: str) -> Said:
    """Run wn.tags as the agent's snapshot tells it; the lists were changed so long ago."""
    then = time.time() - age_s
    for path in base.glob("*/*/*.list"):
        os.utime(path, (then, then))
    tagging = {"base": str(base), "subclusters": [SUBCLUSTER], "url": url, "ldap_base": BASE}
    if ours is not None:
        tagging["tags"] = {SUBCLUSTER: ours}
    path = snapshot(base.parent / "agent.json", tagging=tagging)
    return run_probe("wn.tags", {"PPS_AGENT_SNAPSHOT": str(path), **more})


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Give a base of tag lists with two VOs."""
    base = tmp_path / "info"
    for vo, text in (("dteam", "# by hand\nVO-dteam-a VO-dteam-pps-6.1.0\n"), ("ops", "VO-ops-x\njunk VO-atlas-y\n")):
        path = base / SUBCLUSTER / vo
        path.mkdir(parents=True)
        (path / f"{vo}.list").write_text(text)
    return base


ALL = ("VO-dteam-a", "VO-dteam-pps-6.1.0", "VO-ops-x")


def test_tags_that_agree_are_ok(lists: Path, publish: Callable[..., str]) -> None:
    said = tags(lists, publish(*ALL), ours=["VO-dteam-pps-6.1.0"])
    assert (said.status, said.text) == (Status.OK, "3 tags on disk, 3 published, 1 of the agent: they agree")


def test_tags_that_are_not_published_are_critical_when_they_should_be(lists: Path, publish: Callable[..., str]) -> None:
    url = publish("VO-dteam-a", "VO-ops-x")
    said = tags(lists, url, ours=[])
    assert (said.status, f"{SUBCLUSTER}: VO-dteam-pps-6.1.0 is on disk but not published" in said.text) == (
        Status.CRITICAL,
        True,
    )
    young = tags(lists, url, ours=[], age_s=60)
    assert (young.status, "VO-dteam-pps-6.1.0 is on its way" in young.lines[-1]) == (Status.OK, True)


def test_tags_that_no_list_has_are_critical_where_the_vo_is_ours(lists: Path, publish: Callable[..., str]) -> None:
    said = tags(lists, publish(*ALL, "VO-dteam-ghost", "VO-cms-z"), ours=[])
    assert (said.status, "VO-dteam-ghost is published but on no list" in said.text) == (Status.CRITICAL, True)
    assert f"{SUBCLUSTER}: VO-cms-z belongs to a VO without a list here" in said.lines
    assert said.perfdata["differences"] == 1


def test_tags_that_the_agent_published_and_somebody_removed_are_critical(
    lists: Path, publish: Callable[..., str]
) -> None:
    said = tags(lists, publish(*ALL), ours=["VO-dteam-pps-7.0.0"])
    assert (said.status, "the agent published VO-dteam-pps-7.0.0, but no list has it" in said.text) == (
        Status.CRITICAL,
        True,
    )


def test_tags_are_compared_as_the_information_system_does_without_letter_case(
    lists: Path, publish: Callable[..., str]
) -> None:
    assert tags(lists, publish("VO-DTEAM-a", *ALL[1:]), ours=[]).status is Status.OK


def test_tags_of_a_subcluster_that_is_not_published_are_a_warning(lists: Path, publish: Callable[..., str]) -> None:
    url = publish(*ALL)
    (lists / SUBCLUSTER).rename(lists / "ce02.example.org")
    said = tags(lists, url, PPS_WN_TAGS_SUBCLUSTERS="ce02.example.org")
    assert (said.status, "ce02.example.org is not in the information system at all" in said.text) == (
        Status.WARNING,
        True,
    )


def test_tags_that_cannot_be_looked_at_are_never_taken_for_none(lists: Path, publish: Callable[..., str]) -> None:
    url = publish(*ALL)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        down = tags(lists, f"ldap://127.0.0.1:{unused.getsockname()[1]}")
    assert (down.status, "cannot be asked: Connection refused" in down.text) == (Status.UNKNOWN, True)
    said = tags(lists, url, PPS_WN_TAGS_LDAP_BASE="o=nothing")
    assert (said.status, "LDAP result 32" in said.text) == (Status.UNKNOWN, True), said.text
    path = lists / SUBCLUSTER / "dteam" / "dteam.list"
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert tags(lists, url).status is Status.UNKNOWN


def test_tags_of_a_site_without_information_system_are_compared_with_the_agent_s(lists: Path) -> None:
    path = snapshot(lists.parent / "agent.json", tagging={
        "base": str(lists), "subclusters": [SUBCLUSTER], "url": None, "tags": {SUBCLUSTER: ["VO-dteam-gone"]},
    })  # fmt: skip
    said = run_probe("wn.tags", {"PPS_AGENT_SNAPSHOT": str(path)})
    assert said.status is Status.OK  # the lists are younger than what the agent said
    for found in lists.glob("*/*/*.list"):
        os.utime(found, (0, 0))
    said = run_probe("wn.tags", {"PPS_AGENT_SNAPSHOT": str(path)})
    assert (said.status, "VO-dteam-gone, but no list has it" in said.text) == (Status.CRITICAL, True)
    assert said.lines[-1] == "this site has no information system: nothing published is compared"


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x30\x84\xff\xff\xff\xff", b"\x30\x05" * 9]
)
def test_tags_from_a_server_that_speaks_something_else_are_not_known(lists: Path, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            channel, _ = server.accept()
            with channel:
                channel.recv(1024)
                channel.sendall(answer)

        worker = threading.Thread(target=serve)
        worker.start()
        said = tags(lists, f"ldap://127.0.0.1:{server.getsockname()[1]}")
        worker.join()
    assert (said.status, "cannot be asked" in said.text) == (Status.UNKNOWN, True), said.text


# --- cvmfs.mount -----------------------------------------------------------------------------------

# As a client 2.11 tells them (getfattr -d -m user /cvmfs/REPOSITORY), and a server's manifest.
ATTRIBUTES = {
    "fqrn": "atlas.cern.ch",
    "revision": "123456",
    "nioerr": "0",
    "usedfd": "40",
    "maxfd": "65024",
    "host": "",
    "proxy": "DIRECT",
    "version": "2.11.2.0",
    "expires": "3",
}
MANIFEST = (
    "C600230b0ba7620426f2e898f1e1f43c5466efe59\nB1024\nRd41d8cd98f00b204e9800998ecf8427e\nD240\nS{revision}\nGno\nAno\n"
    "Natlas.cern.ch\nX731cca9476eb882f5a3f24aaa38001105a0e35eb\nT{published_at}\n--\n600230b0\n"
).format


@contextlib.contextmanager
def stratum_one(revision: int, age_s: float, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Serve a repository's manifest; give the server's address and the paths that were asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = MANIFEST(revision=revision, published_at=int(time.time() - age_s)).encode() + b"\0\xff signature"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/cvmfs/atlas.cern.ch", asked
        server.shutdown()


def cvmfs(tmp_path: Path, script: str = "", attributes: Mapping[str, str] = {}, **more: str) -> Said:
    """Run cvmfs.mount over a double: a small file system with the attributes of a client."""
    base = tmp_path / "cvmfs"
    base.mkdir(exist_ok=True)
    lines = [f'a[b"user.{name}"] = {value.encode()!r}' for name, value in {**ATTRIBUTES, **attributes}.items() if value]
    code = "import os; a = {}; " + "; ".join(lines) + '; [os.setxattr("atlas.cern.ch", k, v) for k, v in a.items()]'
    mount = "mkdir -p atlas.cern.ch; mount -t tmpfs -o size=4m none atlas.cern.ch; : >atlas.cern.ch/f"
    before = f'cd {base}; {mount}; /usr/bin/python3 -c {shlex.quote(code)}; {script or ":"}\nexec "$0"'
    env = {"PPS_CVMFS_MOUNT_REPOSITORIES": "atlas.cern.ch", "PPS_CVMFS_MOUNT_BASE": str(base), **more}
    return run_probe("cvmfs.mount", env, before=["unshare", "-m", "sh", "-ec", before])


@pytest.fixture(scope="module")
def attributes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Need a tmpfs that takes user attributes (Linux 6.6), and root to mount it."""
    path = tmp_path_factory.mktemp("attributes")
    script = f'mount -t tmpfs none {path} && python3 -c \'import os; os.setxattr("{path}", "user.a", b"1")\''
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, check=False)
    need("" if done.returncode == 0 else "tmpfs with user attributes (Linux 6.6) and root are needed")


@pytest.mark.usefixtures("attributes")
def test_cvmfs_that_is_mounted_and_current_is_ok(tmp_path: Path) -> None:
    with stratum_one(123456, 60) as (host, asked):
        said = cvmfs(tmp_path, "head -c 409600 /dev/zero >atlas.cern.ch/f", {"host": host})
    assert (said.status, said.text) == (Status.OK, "atlas.cern.ch: mounted and current")
    measures = {label.partition(" ")[0]: value for label, value in said.perfdata.items()}
    assert [measures[name] for name in ("cache", "io_errors", "revision", "behind")] == [9.8, 0, 123456, 0]
    assert asked == ["/cvmfs/atlas.cern.ch/.cvmfspublished"]


@pytest.mark.usefixtures("attributes")
def test_cvmfs_asks_through_the_client_s_proxy(tmp_path: Path) -> None:
    with stratum_one(123456, 60) as (proxy, asked):
        host = "http://s1.example.org/cvmfs/atlas.cern.ch"
        said = cvmfs(tmp_path, attributes={"host": host, "proxy": proxy.rpartition("/cvmfs")[0]})
    assert (said.status, asked) == (Status.OK, [f"{host}/.cvmfspublished"])


@pytest.mark.usefixtures("attributes")
@pytest.mark.parametrize(
    ("revision", "age_s", "status"),
    [(123460, 9 * 3600, Status.WARNING), (123460, 60, Status.OK), (123400, 9 * 3600, Status.OK)],
)
def test_cvmfs_that_is_behind_for_hours_is_a_warning(
    tmp_path: Path, revision: int, age_s: float, status: Status
) -> None:
    with stratum_one(revision, age_s) as (host, _):
        said = cvmfs(tmp_path, attributes={"host": host})
    assert said.status is status
    assert ("is 4 revisions behind; the newest was published 540 min ago" in said.text) is (status is Status.WARNING)


@pytest.mark.usefixtures("attributes")
@pytest.mark.parametrize("status", [404, 503])
def test_cvmfs_whose_server_has_no_manifest_is_only_remarked(tmp_path: Path, status: int) -> None:
    with stratum_one(1, 0, status) as (host, _):
        said = cvmfs(tmp_path, attributes={"host": host})
    assert (said.status, said.lines[0]) == (Status.OK, f"{host}: no manifest (HTTP {status})")


@pytest.mark.usefixtures("attributes")
@pytest.mark.parametrize(
    ("script", "changes", "status", "words"),
    [
        ("head -c 4100000 /dev/zero >atlas.cern.ch/f", {}, Status.WARNING, "its cache is full to 9"),
        ("", {"nioerr": "7"}, Status.WARNING, "7 I/O errors since it was mounted"),
        ("", {"usedfd": "60000"}, Status.WARNING, "60000 of 65024 file descriptors are used"),
        ("", {"revision": ""}, Status.WARNING, "does not tell its revision"),
        ("", {"fqrn": "cms.cern.ch"}, Status.CRITICAL, "atlas.cern.ch is the repository cms.cern.ch"),
        ("", {"fqrn": ""}, Status.CRITICAL, "is there but is no CernVM-FS"),
        ("rm atlas.cern.ch/f", {}, Status.CRITICAL, "atlas.cern.ch is empty"),
    ],
)
def test_cvmfs_that_is_in_trouble_is_told(
    tmp_path: Path, script: str, changes: dict[str, str], status: Status, words: str
) -> None:
    said = cvmfs(tmp_path, script, changes)
    assert (said.status, words in said.text) == (status, True), said.text


def test_cvmfs_says_that_it_was_not_tried_with_a_real_client() -> None:
    assert "no CernVM-FS client was at hand" in (shipped("cvmfs.mount").run.parent / "README.md").read_text()

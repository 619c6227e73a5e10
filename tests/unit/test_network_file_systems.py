"""What network file systems do differently: no locks, no shared memory, files that outlive their deletion."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.database import NETWORK_FILE_SYSTEMS, choose_journal, open_database
from pps_agent.disk import file_system_type, remove_tree
from pps_agent.errors import BusyError, SiteError
from pps_agent.files import hold_lock
from tests.support.services import need

FUSE = 0x65735546
HOLD = """
import sys
from pathlib import Path
from pps_agent.errors import AgentError
from pps_agent.files import hold_lock
try:
    with hold_lock(Path(sys.argv[1]), "is at work"):
        print("held", flush=True)
        sys.stdin.read()
except AgentError as exc:
    sys.exit(f"{exc.exit_code} {exc}")
"""


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[Path]:
    """A real FUSE file system: a directory seen through bindfs."""
    bindfs, fusermount = shutil.which("bindfs"), shutil.which("fusermount3") or shutil.which("fusermount")
    need("" if bindfs and Path("/dev/fuse").exists() else "bindfs (Debian package bindfs) or /dev/fuse is missing")
    (tmp_path / "below").mkdir()
    seen = tmp_path / "fuse"
    seen.mkdir()
    done = subprocess.run([bindfs or "", tmp_path / "below", seen], capture_output=True, text=True, check=False)
    need("" if done.returncode == 0 else f"bindfs cannot mount: {done.stderr}")
    yield seen
    subprocess.run([fusermount, "-u", seen] if fusermount else ["umount", seen], check=True)


def inject(fault: str, *command: str, only: str = "") -> "subprocess.CompletedProcess[str]":
    strace = shutil.which("strace")
    need("" if strace else "strace is missing")
    return subprocess.run(
        [
            strace or "",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            f"inject={fault}",
            *(("-P", only) if only else ()),
            sys.executable,
            *command,
        ],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.mark.parametrize("error", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_without_locks_is_named_and_nothing_is_done(tmp_path: Path, error: str) -> None:
    done = inject(f"flock:error={error}", "-c", HOLD, str(tmp_path / "lock"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"6 {tmp_path}/lock: this file system gives no locks")
    assert "NFS: version 4" in done.stderr


def test_a_stale_handle_says_to_mount_again(tmp_path: Path) -> None:
    done = inject("flock:error=ESTALE", "-c", HOLD, str(tmp_path / "lock"))
    assert "mount the file system again" in done.stderr


def test_a_lock_names_its_holders_host_when_it_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for note, said in (
            (f"{holder.pid} wn042.example.org\n", f"process {holder.pid} on wn042.example.org is at work"),
            ("\x1b[31m no number", "process unknown is at work"),
        ):
            path.write_text(note)
            with pytest.raises(BusyError, match=said) as caught, hold_lock(path, "is at work"):
                pass
            assert caught.value.exit_code == 75
        holder.send_signal(signal.SIGKILL)
    with hold_lock(path, "is at work"):
        assert path.read_text() == f"{os.getpid()} {os.uname().nodename}\n"


def test_a_network_file_system_gets_the_journal_that_needs_no_shared_memory(tmp_path: Path, fuse: Path) -> None:
    assert (file_system_type(fuse), file_system_type(tmp_path) in NETWORK_FILE_SYSTEMS) == (FUSE, False)
    for directory, asked, journal in (
        (fuse, "auto", "delete"),
        (fuse, "wal", "wal"),
        (fuse, "auto", "delete"),
        (tmp_path, "auto", "wal"),
        (tmp_path, "delete", "delete"),
    ):
        with closing(open_database(directory / "state.db", asked)) as database:
            assert database.execute("PRAGMA journal_mode").fetchone()[0] == journal, (directory, asked)
            database.execute("INSERT OR IGNORE INTO setting VALUES ('kept', '1')")
    with closing(sqlite3.connect(fuse / "state.db")) as database:
        assert database.execute("SELECT count(*) FROM setting").fetchone() == (1,)


@given(wanted=st.sampled_from(["auto", "wal", "delete"]), file_system=st.integers(0, 2**32 - 1))
def test_a_journal_that_was_asked_for_is_obeyed_and_unknown_file_systems_are_local(
    wanted: str, file_system: int
) -> None:
    expected = "delete" if file_system in NETWORK_FILE_SYSTEMS else "wal"
    assert choose_journal(wanted, file_system) == (expected if wanted == "auto" else wanted)


def test_state_that_cannot_be_made_durable_is_refused_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(open_database(path, "delete")) as database:
        database.execute("INSERT INTO setting VALUES ('kept', '1')")
    write = """
import sys
from pathlib import Path
from pps_agent.database import open_database
from pps_agent.errors import SiteError
database = open_database(Path(sys.argv[1]), "delete")
try:
    database.execute("INSERT INTO setting VALUES ('lost', '1')")
except SiteError as exc:
    sys.exit(str(exc))
"""
    done = inject("fsync,fdatasync:error=EIO", "-c", write, str(path))
    assert (done.returncode, "disk I/O error; move it away if it is damaged" in done.stderr) == (1, True), done
    with closing(open_database(path, "delete")) as database:
        names = [name for (name,) in database.execute("SELECT name FROM setting")]
    assert names == ["kept"]


def test_a_file_still_open_elsewhere_does_not_stop_a_removal_and_goes_with_a_later_one(fuse: Path) -> None:
    doomed = fuse / "doomed" / "inner"
    doomed.mkdir(parents=True)
    (doomed / "gone").write_text("x")
    with (doomed / "open").open("w"):
        assert not remove_tree(fuse / "doomed")  # FUSE and NFS keep it under another name
        assert {path.name[:12] for path in doomed.iterdir()} == {".fuse_hidden"}
    assert remove_tree(fuse / "doomed")
    assert not (fuse / "doomed").exists()


def test_a_busy_name_of_nfs_is_left_and_any_other_busy_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(name: str, *, dir_fd: int) -> None:
        raise OSError(16, os.strerror(16), name)

    for name in (".nfs0000000000c0ffee", "ours"):
        (tmp_path / name.strip(".") / "inner").mkdir(parents=True)
        (tmp_path / name.strip(".") / "inner" / name).touch()
    monkeypatch.setattr(os, "unlink", busy)  # no NFS server can be had without root's kernel modules
    assert not remove_tree(tmp_path / "nfs0000000000c0ffee")
    with pytest.raises(OSError, match="Device or resource busy"):
        remove_tree(tmp_path / "ours")
    monkeypatch.undo()
    assert remove_tree(tmp_path / "nfs0000000000c0ffee")


def test_without_locks_the_database_is_refused_with_advice(tmp_path: Path) -> None:
    opens = "from pathlib import Path; from pps_agent.database import open_database; import sys\n"
    opens += "open_database(Path(sys.argv[1]), 'delete')"
    path = str(tmp_path / "state.db")
    done = inject("fcntl:error=ENOLCK", "-c", opens, path, only=path)
    assert done.returncode == 1
    assert SiteError.__name__ in done.stderr
    assert "that it is a local file system" in done.stderr

"""Sourcing a site's profile files in a real bash: what is seen, and that nothing they do gets out."""

import os
import time
from pathlib import Path

import pytest

from pps_agent.environment.capture import MAX_SKIPPED, capture, fingerprint
from pps_agent.environment.values import Captured
from pps_agent.state import Unknown


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.d"
    path.mkdir()
    return path


def captured_of(profile: Path, timeout_s: float = 20.0) -> Captured:
    found = capture([f"{profile}/*.sh"], timeout_s)
    assert isinstance(found, Captured), found
    return found


def test_files_are_sourced_together_in_order_and_only_what_they_change_is_given(profile: Path) -> None:
    (profile / "b.sh").write_text('export SECOND="$FIRST and more"; PATH=$PATH:/opt/late\n')
    (profile / "a.sh").write_text("export FIRST=one\nNOT_EXPORTED=x\nexport PATH=/opt/site/bin:$PATH\n")
    (profile / "ignored.csh").write_text("setenv CSH yes\n")
    found = captured_of(profile)
    assert found.variables == {
        "FIRST": "one",
        "SECOND": "one and more",
        "PATH": "/opt/site/bin:/usr/local/bin:/usr/bin:/bin:/opt/late",
    }
    assert found.files == (profile / "a.sh", profile / "b.sh")
    assert found.problems == ()


def test_patterns_keep_their_order_and_a_file_counts_once(profile: Path) -> None:
    for name in ("a", "z"):
        (profile / f"{name}.sh").write_text(f"export ORDER=${{ORDER-}}{name}\n")
    found = capture([str(profile / "z.sh"), f"{profile}/*.sh"], 20)
    assert isinstance(found, Captured)
    assert found.variables == {"ORDER": "za"}


HOSTILE = 'it\'s "q"\n $HOME `id` !x \\ é☃😀 \n\n'


def test_values_come_through_byte_for_byte(profile: Path) -> None:
    (profile / "a.sh").write_text("export HOSTILE=" + "'" + HOSTILE.replace("'", "'\\''") + "'\nexport EMPTY=\n")
    assert captured_of(profile).variables == {"HOSTILE": HOSTILE, "EMPTY": ""}


def test_a_value_that_is_not_utf8_is_left_out_and_named(profile: Path) -> None:
    (profile / "a.sh").write_bytes(b"export BAD=$'\\xff'\nexport GOOD=1\n")
    found = captured_of(profile)
    assert found.variables == {"GOOD": "1"}
    assert found.problems == ("BAD: the value is not UTF-8; left out",)


def test_noise_directory_umask_aliases_functions_and_shell_variables_stay_inside(profile: Path) -> None:
    before = (Path.cwd(), os.umask(0o022))
    os.umask(before[1])
    (profile / "a.sh").write_text(
        "echo noise; echo noise >&2; read answer; cd /tmp; umask 077; alias ls='rm -rf'; f=changed; set -- x y; i=9\n"
        "env() { echo FAKE=1; }; echo() { :; }; exec 1>/dev/null 2>/dev/null; trap 'kill $$' USR1; ulimit -n 50\n"
        "printf() { :; }; set -u; export GOOD=1\n"
    )
    (profile / "b.sh").write_text("export ALSO=1\n")
    found = captured_of(profile)
    assert found.variables == {"GOOD": "1", "ALSO": "1"}
    assert found.problems == ()
    assert (Path.cwd(), os.umask(before[1])) == before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("exit 3", "ended the shell that sourced it (exit 3)"),
        ("exit 0", "ended the shell that sourced it"),
        ("exec true", "ended the shell that sourced it"),
        ("kill -9 $$", "ended the shell that sourced it (exit -9)"),
        ("set -e; false", "ended the shell that sourced it (exit 1)"),
    ],
)
def test_a_file_that_ends_its_shell_is_named_and_the_others_count(profile: Path, text: str, reason: str) -> None:
    (profile / "a.sh").write_text("export A=1\n")
    (profile / "b.sh").write_text(f"export B=1\n{text}\n")
    (profile / "c.sh").write_text('export C="$A"\n')
    found = captured_of(profile)
    assert found.variables == {"A": "1", "C": "1"}
    assert found.files == (profile / "a.sh", profile / "c.sh")
    assert found.problems == (f"{profile}/b.sh: {reason}; skipped",)


def test_a_file_that_hangs_is_named_after_the_time_limit_and_what_it_started_is_dead(profile: Path) -> None:
    (profile / "a.sh").write_text(f"sleep 60 & echo $! $$ > {profile}/pids; trap '' TERM INT; sleep 60\n")
    (profile / "b.sh").write_text("export B=1\n")
    found = captured_of(profile, timeout_s=1.0)
    assert found.variables == {"B": "1"}
    assert found.problems == (f"{profile}/a.sh: not done after 1 s; skipped",)
    assert all(is_dead(int(pid)) for pid in (profile / "pids").read_text().split())


def test_a_background_process_delays_nothing_and_is_dead_afterwards(profile: Path) -> None:
    (profile / "a.sh").write_text(f"sleep 60 &\necho $! > {profile}/pids\nexport A=1\n")
    start = time.monotonic()
    found = captured_of(profile, timeout_s=50)
    assert time.monotonic() - start < 50
    assert (found.variables, found.problems) == ({"A": "1"}, ())
    assert is_dead(int((profile / "pids").read_text()))


def is_dead(pid: int) -> bool:
    """Wait for the kill to be carried out; a zombie (nobody may be there to reap it) is dead."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        os.sched_yield()
    return False


def test_the_agents_own_environment_is_not_seen(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_SECRET", "hunter2")
    (profile / "a.sh").write_text('export SEEN="$AGENT_SECRET" H="$HOME"\n')
    assert captured_of(profile).variables == {"SEEN": "", "H": "/nonexistent"}


def test_missing_and_unreadable_files_are_named_and_an_empty_pattern_is_not(profile: Path) -> None:
    (profile / "a.sh").symlink_to(profile / "a.sh")
    found = capture([f"{profile}/none*.sh", f"{profile}/gone.sh", f"{profile}/a.*"], 20)
    assert isinstance(found, Captured)
    assert found.problems == (
        f"{profile}/gone.sh: there is no such file; skipped",
        f"{profile}/a.sh: Too many levels of symbolic links; skipped",
    )


def test_when_too_many_files_fail_the_environment_is_unknown(profile: Path) -> None:
    for number in range(MAX_SKIPPED + 1):
        (profile / f"{number}.sh").write_text("exit 1\n")
    assert isinstance(capture([f"{profile}/*.sh"], 20), Unknown)


def test_without_any_file_nothing_is_inherited(profile: Path) -> None:
    assert captured_of(profile).variables == {}


def test_the_fingerprint_follows_names_and_contents_and_needs_no_sourcing(profile: Path) -> None:
    patterns = [f"{profile}/*.sh"]
    seen = [fingerprint(patterns)]
    (profile / "a.sh").write_text("exit 3\n")
    seen.append(fingerprint(patterns))
    (profile / "a.sh").write_text("exit 4\n")
    seen.append(fingerprint(patterns))
    (profile / "a.sh").rename(profile / "b.sh")
    seen.append(fingerprint(patterns))
    assert len(set(seen)) == 4
    assert captured_of(profile).fingerprint == seen[-1]

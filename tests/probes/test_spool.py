"""The passive spool: what other programs leave is taken once, and only from those who may speak."""

import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.probes.definition import Format
from pps_agent.probes.spool import MAX_ENTRIES, Spool
from pps_agent.probes.spool_file import MAX_SPOOL_BYTES, SpoolName, parse_spool_name, read_spooled
from pps_agent.probes.wlcg import REQUIRED
from pps_wire.errors import WireError
from pps_wire.names import ProbeName
from pps_wire.report import Cause, Status

NOW = datetime(2026, 11, 27, 10, 0, tzinfo=UTC)
TAPE = "3600_org.example.tape.nagios"
METRIC = ProbeName("org.example.tape")
STRANGER = 65534
Leave = Callable[..., Path]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make files of another user")


@pytest.fixture
def leave(tmp_path: Path) -> Leave:
    """Give a function that leaves a file in the spool, so many seconds ago, as a writer who renames does."""

    def write(text: str | bytes = "OK - 3 drives\n", name: str = TAPE, age_s: float = 10) -> Path:
        temporary, file = tmp_path / f".{name}.tmp", tmp_path / name
        temporary.write_bytes(text if isinstance(text, bytes) else text.encode())
        os.utime(temporary, ns=(0, int((NOW.timestamp() - age_s) * 1e9)))
        return temporary.rename(file)

    return write


def spool_at(directory: Path, **taken: datetime) -> Spool:
    """Give a spool as after a start of the agent; ``taken`` holds the newest results it knows, by last word."""
    return Spool(directory, lambda metric: taken.get(metric.rpartition(".")[2]))


def told(look) -> list[tuple[str, str, str]]:
    return [(item.result.probe, item.result.status.name, item.result.summary) for item in look.news]


def test_a_file_gives_its_result_once_and_each_renewal_one_more(tmp_path, leave):
    spool = spool_at(tmp_path)
    leave("WARNING - 1 of 3 drives|drives=1\nthe library says so\n")
    look = spool.look(NOW, ())
    result = look.news[0].result
    assert (result.probe, result.status, result.perfdata) == (METRIC, Status.WARNING, "drives=1")
    assert (result.details, result.cause, result.started_at) == (
        "the library says so",
        Cause.VERDICT,
        NOW - timedelta(seconds=10),
    )
    assert look.news[0].fresh_until == NOW + timedelta(seconds=3590)
    assert spool.look(NOW, ()).news == ()
    leave(age_s=5)
    assert [status for _, status, _ in told(spool.look(NOW, ()))] == ["OK"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a file system that keeps any time")
@pytest.mark.parametrize("mtime_s", [10**14, -(10**12)])
def test_a_file_that_was_written_beyond_the_calendar_speaks_not_and_stops_no_other(mtime_s):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        directory = Path(name)
        for text in (TAPE, "3600_org.example.odd.nagios"):
            (directory / text).write_text("OK - 3 drives\n")
        os.utime(directory / "3600_org.example.odd.nagios", (mtime_s, mtime_s))
        look = spool_at(directory).look(datetime.now(UTC), ())
    assert [(metric, status) for metric, status, _ in told(look)] == [(METRIC, "OK")]
    assert "write it again" in look.problems[0]


def test_a_metric_that_nobody_renews_is_stale_once(tmp_path, leave):
    spool = spool_at(tmp_path)
    leave()
    assert told(spool.look(NOW, ()))[0][1] == "OK"
    late = NOW + timedelta(seconds=3700)
    stale = spool.look(late, ()).news[0].result
    assert (stale.status, stale.cause, stale.started_at) == (Status.UNKNOWN, Cause.STALE, late)
    assert "its file is 3710 s old" in stale.summary
    assert spool.look(late + timedelta(seconds=60), ()).news == ()
    leave(age_s=-3800)
    assert told(spool.look(late + timedelta(seconds=120), ()))[0][1] == "OK"


def test_a_file_that_was_old_when_first_seen_is_stale_at_once(tmp_path, leave):
    leave(age_s=4000)
    assert [item.result.cause for item in spool_at(tmp_path).look(NOW, ()).news] == [Cause.STALE]


def test_a_file_that_went_away_is_stale_when_its_time_is_over_and_not_before(tmp_path, leave):
    spool = spool_at(tmp_path)
    file = leave()
    spool.look(NOW, ())
    file.unlink()
    assert spool.look(NOW + timedelta(seconds=3000), ()).news == ()
    gone = spool.look(NOW + timedelta(seconds=3600), ()).news
    assert ["its file is gone" in item.result.summary for item in gone] == [True]


def test_a_new_start_takes_nothing_twice(tmp_path, leave):
    leave()
    taken = {"tape": NOW - timedelta(seconds=10)}
    assert [item.is_known for item in spool_at(tmp_path, **taken).look(NOW, ()).news] == [True]
    leave(age_s=5)
    assert [item.is_known for item in spool_at(tmp_path, **taken).look(NOW, ()).news] == [False]


def test_a_new_start_does_not_tell_again_that_a_metric_is_stale(tmp_path, leave):
    leave(age_s=4000)
    spool = spool_at(tmp_path, tape=NOW - timedelta(seconds=300))
    assert [(item.is_known, item.result.cause) for item in spool.look(NOW, ()).news] == [(True, Cause.STALE)]
    assert spool.look(NOW, ()).news == ()


def test_what_went_stale_while_the_agent_was_down_is_told_at_its_start(tmp_path, leave):
    leave(age_s=4000)
    spool = spool_at(tmp_path, tape=NOW - timedelta(seconds=4000))
    assert [(item.is_known, item.result.cause) for item in spool.look(NOW, ()).news] == [(False, Cause.STALE)]


def test_the_metrics_below_go_stale_with_their_file(tmp_path, leave):
    leave(
        '[{"status": "OK", "summary": "s"}, {"metric": "org.example.tape.read", "status": "OK", "summary": "s"}]',
        "60_org.example.tape.json",
    )
    spool = spool_at(tmp_path)
    assert len(spool.look(NOW, ()).news) == 2
    stale = spool.look(NOW + timedelta(seconds=61), ()).news
    assert [(item.result.probe, item.result.parent, item.result.cause) for item in stale] == [
        (METRIC, None, Cause.STALE),
        (f"{METRIC}.read", METRIC, Cause.STALE),
    ]


@pytest.mark.parametrize(
    ("name", "half", "whole"),
    [
        (TAPE, "OK - 3 dri", "OK - 3 drives\n"),
        ("60_org.example.tape.json", '{"v": 1, "status": "OK", "su', '{"v": 1, "status": "OK", "summary": "3 drives"}'),
    ],
)
def test_half_a_file_that_is_being_written_is_left_for_the_next_look(tmp_path, leave, name, half, whole):
    spool = spool_at(tmp_path)
    leave(half, name, age_s=0.4)
    assert spool.look(NOW, ()).news == ()
    leave(whole, name, age_s=0.2)
    assert told(spool.look(NOW, ())) == [(METRIC, "OK", "3 drives" if "json" in name else "OK - 3 drives")]


def test_half_a_file_that_stays_is_told(tmp_path, leave):
    leave('{"v": 1, "stat', "60_org.example.tape.json", age_s=2)
    result = spool_at(tmp_path).look(NOW, ()).news[0].result
    assert (result.status, result.cause) == (Status.UNKNOWN, Cause.FAULT)
    assert "the file in the spool cannot be read" in result.summary


def test_a_writer_who_renames_is_never_seen_half(tmp_path):
    (tmp_path / f".{TAPE}.tmp").write_text("OK - hal")
    assert spool_at(tmp_path).look(NOW, ()) == spool_at(tmp_path / ".").look(NOW, ())
    assert spool_at(tmp_path).look(NOW, ()).problems == ()


def test_text_without_a_status_is_unknown_and_says_how_to_begin(tmp_path, leave):
    leave("3 drives\n")
    result = spool_at(tmp_path).look(NOW, ()).news[0].result
    assert (result.status, result.cause, "begin with OK" in result.summary) == (Status.UNKNOWN, Cause.FAULT, True)


def test_a_file_speaks_for_its_name_and_the_metrics_below_it_only(tmp_path, leave):
    parts = ["org.example.tape", "org.example.tape.read", "org.pps.sys.disk", "org.example.tapes"]
    results = ", ".join(f'{{"metric": "{metric}", "status": "OK", "summary": "{metric}"}}' for metric in parts)
    leave(f"[{results}]", "60_org.example.tape.json")
    look = spool_at(tmp_path).look(NOW, ())
    assert told(look) == [(METRIC, "OK", "org.example.tape"), ("org.example.tape.read", "OK", "org.example.tape.read")]
    assert [item.result.parent for item in look.news] == [None, METRIC]
    assert "2 result(s) dropped" in look.news[0].result.details


def test_the_worst_metric_below_speaks_where_the_file_says_nothing_of_its_own(tmp_path, leave):
    parts = (("read", "OK"), ("write", "CRITICAL"))
    results = ", ".join(
        f'{{"metric": "{METRIC}.{word}", "status": "{status}", "summary": "s"}}' for word, status in parts
    )
    leave(f"[{results}]", "60_org.example.tape.json")
    assert told(spool_at(tmp_path).look(NOW, ()))[0] == (METRIC, "CRITICAL", f"{METRIC}.write: s (worst of 2 metrics)")


def test_wlcg_tuples_are_read(tmp_path, leave):
    keys = [*REQUIRED]
    values = ["x", "x", "SE", "SITE", "CRITICAL", METRIC, "no drive", "x", "2026-11-27T10:00:00Z"]
    leave("".join(f"{key}: {value}\n" for key, value in zip(keys, values, strict=True)) + "EOT\n", f"60_{METRIC}.wlcg")
    assert told(spool_at(tmp_path).look(NOW, ())) == [(METRIC, "CRITICAL", "no drive")]


def test_nobody_outside_speaks_for_an_installed_probe(tmp_path, leave):
    leave(name="60_org.pps.sys.disk.nagios")
    look = spool_at(tmp_path).look(NOW, {"org.pps.sys.disk"})
    assert (look.news, "org.pps.sys.disk is an installed probe" in look.problems[0]) == ((), True)


def test_nor_does_a_file_of_another_name_speak_for_one_below_it(tmp_path, leave):
    leave(
        '[{"status": "OK", "summary": "s"}, {"metric": "org.example.tape.read", "status": "OK", "summary": "s"}]',
        "60_org.example.tape.json",
    )
    look = spool_at(tmp_path).look(NOW, {"org.example.tape.read"})
    assert [item.result.probe for item in look.news] == [METRIC]
    assert "org.example.tape.read is an installed probe" in look.problems[0]


@pytest.mark.parametrize(
    "name",
    ["tape.nagios", "0_org.a.b.nagios", "60_tape.nagios", "60_org.a.b.txt", "60_ORG a.nagios", "60_org.a.b.nagios~"],
)
def test_a_name_that_says_too_little_is_a_problem_that_says_how_to_name_it(tmp_path, leave, name):
    leave(name=name)
    look = spool_at(tmp_path).look(NOW, ())
    assert (look.news, len(look.problems)) == ((), 1)


def test_of_two_files_for_one_metric_the_newer_counts_and_the_older_is_named(tmp_path, leave):
    leave("OK - old\n", "60_org.example.tape.nagios", age_s=30)
    leave("CRITICAL - new\n", TAPE, age_s=5)
    look = spool_at(tmp_path).look(NOW, ())
    assert told(look) == [(METRIC, "CRITICAL", "CRITICAL - new")]
    assert look.problems == (f"{tmp_path}/60_org.example.tape.nagios: a newer file speaks for it too: remove this one",)


def test_a_link_a_pipe_and_a_second_name_are_refused(tmp_path, leave):
    secret = tmp_path / "secret"
    secret.write_text("OK - secret\n")
    (tmp_path / "60_org.a.link.nagios").symlink_to(secret)
    os.mkfifo(tmp_path / "60_org.a.pipe.nagios")
    (tmp_path / "60_org.a.dir.nagios").mkdir()
    os.link(secret, tmp_path / "60_org.a.second.nagios")
    look = spool_at(tmp_path).look(NOW, ())
    assert (look.news, len(look.problems)) == ((), 5)


@needs_root
def test_what_a_stranger_wrote_is_refused_and_what_the_directorys_owner_wrote_is_not(tmp_path, leave):
    file = leave()
    os.chown(file, STRANGER, STRANGER)
    assert f"belongs to user {STRANGER}" in spool_at(tmp_path).look(NOW, ()).problems[0]
    os.chown(tmp_path, STRANGER, -1)
    assert told(spool_at(tmp_path).look(NOW, ()))[0][1] == "OK"


def test_a_file_that_others_can_write_is_refused(tmp_path, leave):
    leave().chmod(0o666)
    assert "others can write it" in spool_at(tmp_path).look(NOW, ()).problems[0]


def test_a_directory_in_which_anybody_can_rename_is_refused_unless_sticky(tmp_path, leave):
    leave()
    tmp_path.chmod(0o777)
    assert "chmod o-w it, or chmod +t it" in spool_at(tmp_path).look(NOW, ()).problems[0]
    tmp_path.chmod(0o1777)
    assert told(spool_at(tmp_path).look(NOW, ()))[0][1] == "OK"


def test_a_missing_directory_is_a_problem_and_no_error(tmp_path):
    assert "correct probes.spool" in spool_at(tmp_path / "none").look(NOW, ()).problems[0]


def test_a_file_that_is_too_large_is_unknown_and_costs_no_memory(tmp_path, leave):
    leave(b"OK - " + b"x" * (2 * MAX_SPOOL_BYTES))
    look = spool_at(tmp_path).look(NOW, ())
    assert ([item.result.status for item in look.news], "write less" in look.problems[0]) == ([Status.UNKNOWN], True)


def test_too_many_files_are_told_and_the_first_are_read(tmp_path):
    for number in range(MAX_ENTRIES + 5):
        (tmp_path / f"junk{number}").touch()
    look = spool_at(tmp_path).look(NOW, ())
    assert look.problems[0] == f"{tmp_path}: more than {MAX_ENTRIES} files: remove what no program renews"


def test_a_file_dated_ahead_does_not_stay_good_for_ever(tmp_path, leave):
    leave(age_s=-86_400)
    assert spool_at(tmp_path).look(NOW, ()).news[0].fresh_until == NOW + timedelta(seconds=3600)


@given(st.text())
def test_any_name_is_a_metric_or_a_wire_error(text):
    try:
        name = parse_spool_name(text)
    except WireError:
        return
    assert text == f"{name.max_age_s}_{name.metric}.{name.form.value}"


@given(
    st.binary(max_size=300)
    | st.sampled_from([b"OK", b"OK - x|a=1", b"{}", b'{"v":1,"status":"OK","summary":""}', b"[]"]),
    st.sampled_from([Format.NAGIOS, Format.WLCG, Format.JSON]),
)
def test_any_content_gives_results_of_its_own_metric_first(raw, form):
    results = read_spooled(SpoolName(60, METRIC, form), raw, NOW, NOW)
    assert results[0].result.probe == METRIC
    assert all(item.result.probe.startswith(f"{METRIC}.") for item in results[1:])
    assert all("\n" not in item.result.summary and len(item.result.summary) <= 512 for item in results)

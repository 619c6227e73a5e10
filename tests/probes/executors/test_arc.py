"""What can go wrong with ARC, with a real A-REX. Its jobs take long, so they go side by side."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pps_agent.probes.executors.arc import Arc, parse_listing, read_job
from pps_agent.probes.executors.command import Commands
from pps_agent.probes.executors.values import JobState
from pps_wire.report import Status
from tests.probes.executors.conftest import over
from tests.probes.executors.test_faults import judge
from tests.support.arex import ENDPOINT, ComputingElement
from tests.support.nodes import make_task


def test_what_arc_refuses_kills_or_does_not_end_in_time_is_unknown(
    arex: ComputingElement, public_directory: Path, tmp_path: Path
) -> None:
    commands = Commands(arex.env)
    strangers = Commands({**arex.env, "X509_USER_PROXY": "/no/such/proxy"})
    work = arex.work / tmp_path.name
    quick, slow = make_task(public_directory, {"ok": "echo fine"}), make_task(public_directory, {"ok": "sleep 200"})
    with ThreadPoolExecutor(8) as pool:
        late = pool.submit(over(Arc(commands, ENDPOINT), work, timeout_s=12).run, slow)
        refused = pool.submit(over(Arc(commands, ENDPOINT, "no-such-queue"), work).run, quick)
        unserved = pool.submit(over(Arc(commands, ENDPOINT.replace("21940", "21941")), work).run, quick)
        foreign = pool.submit(over(Arc(strangers, ENDPOINT), work).run, quick)
        killed = pool.submit(over(Arc(commands, ENDPOINT), work).run, slow)
        seen = {name: judge(future.result(200)) for name, future in
                {"refused": refused, "unserved": unserved, "foreign": foreign, "late": late}.items()}  # fmt: skip
        for listing in work.glob("*/*/jobs.db"):
            arex.command("arckill", "-j", str(listing), "-a", "--keep")
        seen["killed"] = judge(killed.result(200))
    assert {status for status, _ in seen.values()} == {Status.UNKNOWN}
    for name in ("refused", "unserved", "foreign"):
        assert "not submitted: arcsub: " in seen[name][1], seen
    assert "after 12 s" in seen["late"][1]
    assert "ARC says Killed" in seen["killed"][1]
    assert list(work.iterdir()) == []


def test_what_arc_says_of_jobs_is_read() -> None:
    listing = '"jobs": [\n{\n "id": "https://ce/1",\n "state": "Finished",\n "exitCode": 0\n}\n]\n'
    for text in (listing, "{" + listing + "}", "warning: odd\n" + listing):
        assert parse_listing(text) == [{"id": "https://ce/1", "state": "Finished", "exitCode": 0}]
    assert parse_listing("") == parse_listing('"jobs": [') == parse_listing('"jobs": 7') == []
    cases = [
        ({"state": "Accepted"}, JobState.WAITING, "ARC says Accepted"),
        ({"state": "Running"}, JobState.RUNNING, "ARC says Running"),
        ({"state": "Finishing"}, JobState.RUNNING, "ARC says Finishing"),
        ({"state": "Finished", "exitCode": 0}, JobState.ENDED, ""),
        ({"state": "Finished", "exitCode": 3}, JobState.FAILED, "ARC says Finished, exit code 3"),
        ({"state": "Failed", "exitCode": 5}, JobState.FAILED, "ARC says Failed, exit code 5"),
        ({"state": "Hold"}, JobState.FAILED, "ARC says Hold"),
        ({}, JobState.WAITING, "ARC says Undefined"),
    ]
    for record, state, reason in cases:
        seen = read_job(record)
        assert (seen.state, seen.reason) == (state, reason)

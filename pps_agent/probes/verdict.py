"""From what a run did to what it means. Pure.

An exit code of 0 to 3 is a verdict; everything else, a time-out and a signal above all, is UNKNOWN and
says why: a probe that was cut short has not tested anything.
"""

import signal
from dataclasses import dataclass
from typing import Final

from pps_agent.probes import protocol
from pps_agent.probes.parse import clean_line, cut_text, decode_output, parse_plugin_output
from pps_agent.probes.protocol import RunResponse
from pps_wire.report import Status

_EXIT_REASONS: Final = {
    126: "the probe or a command in it cannot be executed: check its permissions and its first line (#!)",
    127: "a command was not found: check the PATH of the probe's environment and the probe's requirements",
}
_SIGNAL_REASONS: Final = {
    "SIGXCPU": "it used up its CPU time (limits.cpu_s)",
    "SIGXFSZ": "it wrote a file larger than allowed (limits.file_bytes)",
    "SIGKILL": "by the kernel (out of memory?), by hand, or at its hard CPU limit",
    "SIGSEGV": "the probe or its interpreter crashed",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status, one line for people, and the rest of what was printed."""

    status: Status
    summary: str
    details: str


def judge(response: RunResponse, timeout_s: float) -> Verdict:
    """Give the verdict on one finished run. The probe's own words follow the reason where there is one."""
    output = parse_plugin_output(_marked_output(response))
    complaint = decode_output(_marked_error(response)).strip("\n")
    said = output.summary or clean_line(complaint.partition("\n")[0])
    missing = response.stdout_bytes - len(response.stdout)
    details = [f"(output cut: {missing} of {response.stdout_bytes} bytes left out)" if missing > 0 else ""]
    details += [output.details, f"|{output.perftext}" if output.perftext else ""]
    details.append(f"stderr:\n{complaint}" if complaint else "")
    if response.leftovers_killed:
        details.append(f"{response.leftovers_killed} process(es) left behind by the probe were killed")
    reason = _reason(response, timeout_s)
    if reason:
        status, summary = Status.UNKNOWN, f"{reason} (it had said: {said})" if said else reason
    elif response.exit == 0 and not output.summary:
        status, summary = Status.UNKNOWN, "exit 0 but nothing on stdout" + (f" (stderr: {said})" if said else "")
    else:
        status, summary = Status(response.exit or 0), said or f"exit {response.exit} and no output"
    return Verdict(status, cut_text(summary, 512).replace("\n", " "), cut_text("\n".join(filter(None, details))))


def _reason(response: RunResponse, timeout_s: float) -> str:
    """Say why a run gives no verdict of its own; empty when it does."""
    if response.timed_out:
        stuck = f", and {response.failure}" if response.failure else ""
        return f"timed out after {timeout_s:g} s{stuck}: see what it waits for, or raise timeout_s in its probe.toml"
    if response.failure:
        return f"{response.failure}: check the probe's file and its first line (#!)"
    if response.signal is not None:
        name = signal_name(response.signal)
        return f"ended by {name}: {_SIGNAL_REASONS.get(name, 'run it by hand to see why')}"
    if response.exit is None or response.exit > Status.UNKNOWN:
        why = _EXIT_REASONS.get(response.exit or 0, "not one of 0 to 3: the probe itself is at fault")
        return f"exit {response.exit}: {why}"
    return ""


def signal_name(number: int) -> str:
    """Give a signal's name, e.g. SIGSEGV; its number where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _marked_output(response: RunResponse) -> bytes:
    """Give the kept stdout with a line where its middle was dropped."""
    if response.stdout_bytes <= len(response.stdout):
        return response.stdout
    head, tail = response.stdout[: protocol.STDOUT_HEAD_BYTES], response.stdout[protocol.STDOUT_HEAD_BYTES :]
    return head + "\n[…]\n".encode() + tail


def _marked_error(response: RunResponse) -> bytes:
    missing = response.stderr_bytes - len(response.stderr)
    return response.stderr + (f"\n[… {missing} bytes left out …]".encode() if missing > 0 else b"")

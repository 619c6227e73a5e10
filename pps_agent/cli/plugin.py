"""A command that a scheduler runs as a monitoring plugin: it exits with 0 to 3, whatever happens.

Source: Monitoring Plugins Development Guidelines; help and version exit 3 as those of Debian's plugins do.
"""

import os
import signal
import sys
import time
import traceback
from types import FrameType, TracebackType
from typing import Any, NoReturn

import click

from pps_wire.report import Status

UNKNOWN = int(Status.UNKNOWN)


class PluginUsageError(click.UsageError):
    """A usage error that a scheduler reads as UNKNOWN."""

    exit_code = UNKNOWN

    def show(self, file: Any = None) -> None:
        """Say on stdout what is wrong, where a scheduler looks, and then how to call it."""
        say(f"UNKNOWN - {self.format_message()}\n")
        super().show(file)


class PluginCommand(click.Command):
    """A command whose usage errors, interruptions and faults are 3, UNKNOWN: 1 and 2 would be verdicts."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options; from here on nothing ends with another code."""
        sys.excepthook = _tell_fault
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as exc:
            raise PluginUsageError(exc.format_message(), ctx) from exc

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whoever interrupts it gets UNKNOWN."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            return say("UNKNOWN - interrupted\n")


def say(text: str, code: int = UNKNOWN) -> int:
    """Write text to standard output and give the code to exit with: 3 when it cannot be written to its end.

    It is the last word: the time is no longer limited, or the alarm would end an interpreter that is ending.
    """
    signal.setitimer(signal.ITIMER_REAL, 0)
    raw = text.encode("utf-8", "replace")
    if sys.__stdout__ is None:  # closed by whoever started us
        return UNKNOWN
    try:
        sys.stdout.flush()
        while raw:
            raw = raw[os.write(sys.stdout.fileno(), raw) :]
    except OSError:
        return UNKNOWN
    return code


def limit_time(seconds: int) -> None:
    """Say UNKNOWN and end the process before the caller's limit is over, which began when the process did.

    The runner ends what it runs when this process is gone.
    """

    def give_up(_number: int, _frame: FrameType | None) -> NoReturn:
        os._exit(say(f"UNKNOWN - no result within {seconds} s: give it more time (-t), or see what it waits for\n"))

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, seconds - 0.5 - process_age_s()))


def process_age_s() -> float:
    """Give how long ago this process began, its interpreter's start included. Source: proc_pid_stat(5), starttime."""
    with open("/proc/self/stat", "rb") as stream:  # noqa: PTH123 - pathlib gives no binary line shorter
        fields = stream.read().rpartition(b")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _tell_fault(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> NoReturn:
    """Tell a bug, and end with UNKNOWN: Python's own code for it is 1, which is WARNING."""
    traceback.print_exception(kind, fault, trace)
    os._exit(say(f"UNKNOWN - a fault of pps-agent: {kind.__name__}; its traceback is on stderr\n"))

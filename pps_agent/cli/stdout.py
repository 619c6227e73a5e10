"""Standard output that may be a closed pipe or a full disk: an error to report, not a traceback."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXIT_FAILED = 1


class _StdoutError(Exception):
    """Writing to standard output failed."""


class _Stdout(io.FileIO):
    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as exc:
            raise _StdoutError(exc.errno, exc.strerror) from exc


@contextmanager
def checked_stdout() -> Iterator[None]:
    """Write stdout to its end inside the context, or end the program with EXIT_FAILED.

    A reader that went away (``| head``) is told nothing; any other failure goes to stderr. Text the
    terminal cannot show is escaped. Where there is no standard output at all (``>&-``) nobody wants to know.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end of the program
    if sys.stdout is None:
        with Path(os.devnull).open("w", encoding="utf-8") as sys.stdout:
            yield
        return
    if not isinstance(sys.stdout, io.TextIOWrapper):
        yield  # somebody reads it in this very process
        return
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Stdout(sys.stdout.fileno(), "wb", closefd=False)),
        encoding=sys.stdout.encoding,
        errors="backslashreplace",
        line_buffering=sys.stdout.line_buffering,
    )
    try:
        yield
        sys.stdout.flush()
    except _StdoutError as exc:
        # What is left in the buffer goes nowhere, so that the interpreter's last flush has nothing to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        number, reason = exc.args
        if number != errno.EPIPE:
            sys.stderr.write(f"pps-agent: error: standard output: {reason}; the answer is not complete\n")
        sys.exit(EXIT_FAILED)

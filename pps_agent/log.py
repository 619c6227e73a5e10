"""structlog, set up once in ``main``: one line an event on stderr, JSON unless a person watches."""

import logging
import os
import sys
from typing import Any

import structlog

Log = structlog.typing.FilteringBoundLogger


def start_logging(*, verbose: bool = False) -> Log:
    """Configure structlog and give the program's logger. Events and keys: docs/reference/log-events.md."""
    person = sys.stderr.isatty()
    renderer: Any = (
        # Plain tracebacks: prettier ones print local variables, a token among them one day.
        structlog.dev.ConsoleRenderer(
            colors="NO_COLOR" not in os.environ, exception_formatter=structlog.dev.plain_traceback
        )
        if person
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # The console renders a traceback itself, JSON would say "exc_info": true.
            *([] if person else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    log: Log = structlog.get_logger()
    return log

"""Configures logging: one line for each change, to stderr, as JSON or for people."""

import logging
import sys
from collections.abc import Callable
from typing import Literal

import structlog

LIBRARIES = (
    "aiokafka",
    "qemu",
    "opentelemetry",
    "asyncio",
    "urllib3",
    "h2",
    "hpack",
    "hyperframe",
    "uvicorn",
)
"""Their warnings repeat at every attempt; the agent logs the resulting change itself. At the level debug,
hpack writes headers in a form in which secrets are not recognized."""


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Renders a line, and then removes secrets from all of it: the event, the fields and the traceback."""

    redact: Callable[[str], str] = staticmethod(str)

    def format(self, record: logging.LogRecord) -> str:
        return self.redact(super().format(record))


def configure(level: str, form: Literal["console", "json"], redact: Callable[[str], str] = str) -> None:
    """Send everything to stderr, including the libraries' messages in the same format. Call it once.

    A traceback has no values of local variables, which may be secrets.

    Args:
        level: "debug", "info", "warning" or "error".
        form: "console" for people, "json" for one JSON object per line.
        redact: returns a line without secrets.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), pad_event_to=24, exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    formatter = _Formatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    formatter.redact = redact
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    quiet = logging.CRITICAL if level != "debug" else logging.WARNING
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(quiet)

"""How the agent logs: one line per change, to stderr, as JSON or for people. Configured once, by the app."""

import logging
import sys
from typing import Literal

import structlog

LIBRARIES = ("aiokafka", "qemu", "opentelemetry", "watchfiles", "asyncio", "urllib3", "grpc", "uvicorn")
"""Their warnings repeat at every try; what matters in them reaches the log as a state of ours."""


def configure(level: str, form: Literal["console", "json"]) -> None:
    """Send everything to stderr, the libraries' own words through the same formatter.

    Args:
        level: "debug", "info", "warning" or "error".
        form: for people, or one JSON object per line.
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
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    quiet = logging.CRITICAL if level != "debug" else logging.WARNING
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(quiet)

"""Keeps the newest warning of a library's logger, for the error that the sink reports itself.

aiokafka logs why it cannot connect, and raises only that it could not; and it logs this at each attempt.
So its warnings are taken out of the log, and the sink reports each failure once, with the newest warning.

Several collectors may share one logger. Each gets only the warnings caused by its own calls, including those
of tasks that the library started for them (a task inherits the context in which it was created).
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_collecting: ContextVar["LibraryWarnings | None"] = ContextVar("collecting", default=None)


class LibraryWarnings(logging.Handler):
    """Keeps the newest message of WARNING or above from one logger."""

    def __init__(self, logger: str) -> None:
        super().__init__(logging.WARNING)
        self._logger = logging.getLogger(logger)
        self._before: tuple[int, bool] | None = None
        self._newest = ""

    def start(self) -> None:
        """Take the logger's messages out of the log. Safe to call twice."""
        if self._before is not None:
            return
        others = self._others()
        self._before = others[0] if others else (self._logger.level, self._logger.propagate)
        self._logger.addHandler(self)
        if self._logger.getEffectiveLevel() >= logging.WARNING:  # else the library's details are wanted
            self._logger.setLevel(logging.WARNING)
            self._logger.propagate = False

    def stop(self) -> None:
        """Restore the logger, unless another collector still needs it as it is."""
        if self._before is None:
            return
        self._logger.removeHandler(self)
        if not self._others():
            level, self._logger.propagate = self._before
            self._logger.setLevel(level)
        self._before = None

    @contextmanager
    def collect(self) -> Generator[None]:
        """Collect the warnings that are caused by this block."""
        token = _collecting.set(self)
        try:
            yield
        finally:
            _collecting.reset(token)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep `record`, if it belongs to this collector. Called by `logging`."""
        if _collecting.get() is self:
            self._newest = record.getMessage()

    @property
    def newest(self) -> str:
        """The newest warning; empty: there is none."""
        return self._newest

    def take(self) -> str:
        """Return the newest warning, once; empty: there is none."""
        newest, self._newest = self._newest, ""
        return newest

    def _others(self) -> list[tuple[int, bool]]:
        """Return the original level and propagation of the logger, as the other collectors found it."""
        return [
            each._before
            for each in self._logger.handlers
            if isinstance(each, LibraryWarnings) and each is not self and each._before is not None
        ]

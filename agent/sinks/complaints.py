"""The newest complaint of a library's logger, so that our one line can say what the library knows.

aiokafka logs why it cannot connect and raises only that it could not, and it says so at every attempt:
542 lines in 30 s of one outage were counted. So its lines are taken here instead of into the log, and
the sink reports each failure once, with the newest of them.

Several may listen to one logger: each hears only what its own calls brought about, also in the tasks
that the library started for them (a task inherits its maker's context).
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_hearing: ContextVar["Complaints | None"] = ContextVar("hearing", default=None)


class Complaints(logging.Handler):
    """Keeps the newest message of WARNING or above from one logger. Costs one string."""

    def __init__(self, logger: str) -> None:
        super().__init__(logging.WARNING)
        self._logger = logging.getLogger(logger)
        self._before: tuple[int, bool] | None = None
        self._newest = ""

    def start(self) -> None:
        """Take the logger's lines. Doing so twice is doing so once."""
        if self._before is not None:
            return
        others = self._others()
        self._before = others[0] if others else (self._logger.level, self._logger.propagate)
        self._logger.addHandler(self)
        if self._logger.getEffectiveLevel() >= logging.WARNING:  # nobody asked for the library's details
            self._logger.setLevel(logging.WARNING)
            self._logger.propagate = False

    def stop(self) -> None:
        """Leave the logger as it was, or as those need it who listen still."""
        if self._before is None:
            return
        self._logger.removeHandler(self)
        if not self._others():
            level, self._logger.propagate = self._before
            self._logger.setLevel(level)
        self._before = None

    @contextmanager
    def heard(self) -> Generator[None]:
        """What the library says for the sake of this block is said to us."""
        token = _hearing.set(self)
        try:
            yield
        finally:
            _hearing.reset(token)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`."""
        if _hearing.get() is self:
            self._newest = record.getMessage()

    def take(self) -> str:
        """Return the newest complaint, once; empty where there is none."""
        newest, self._newest = self._newest, ""
        return newest

    def _others(self) -> list[tuple[int, bool]]:
        """Return how others who listen found the logger."""
        return [
            each._before
            for each in self._logger.handlers
            if isinstance(each, Complaints) and each is not self and each._before is not None
        ]

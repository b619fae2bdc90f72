"""The newest complaint of a library's logger, so that our one line can say what the library knows.

aiokafka logs why it cannot connect and raises only that it could not, and it says so at every attempt:
542 lines in 30 s of one outage were counted. So its lines are taken here instead of into the log, and
the sink reports each failure once, with the newest of them.
"""

import logging


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
        self._before = self._logger.level, self._logger.propagate
        self._logger.addHandler(self)
        if self._logger.getEffectiveLevel() >= logging.WARNING:  # nobody asked for the library's details
            self._logger.setLevel(logging.WARNING)
            self._logger.propagate = False

    def stop(self) -> None:
        """Leave the logger as it was."""
        if self._before is None:
            return
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)
        self._before = None

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`."""
        self._newest = record.getMessage()

    def take(self) -> str:
        """Return the newest complaint, once; empty where there is none."""
        newest, self._newest = self._newest, ""
        return newest

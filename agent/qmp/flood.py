"""Counts the messages of a monitor in windows of a second, and reports a flood. Pure: time is an argument."""

from collections import Counter

from agent.core.wording import printable

_WEIGHT_BYTES = 1024
"""A message counts once more for each of these: events take 100 to 500 bytes, a reading 900."""

UNUSED_FACTOR = 10
"""Events that the agent does not use, for each message allowed: a disk that fails under `werror=report` makes
an event for each request."""

_NAMES_MAX = 16
"""Names of events that are counted: a VM floods with one or two."""

_EVENT_SHOWN_MAX = 64

_CAUSES = {"BLOCK_IO_ERROR": "a disk of the VM fails; check its storage"}
_UNKNOWN_CAUSE = "find out which program created the socket"


class FloodingError(Exception):
    """More messages than the bound. The message names the bound and the most frequent event."""


class FloodWindow:
    """The messages of the present second."""

    def __init__(self, messages_per_s_max: int) -> None:
        """Count nothing yet; of events that are not used, `UNUSED_FACTOR` times as many are allowed."""
        self._messages_per_s_max = messages_per_s_max
        self._start_s = 0.0
        self._used = 0
        self._unused = 0
        self._names: Counter[str] = Counter()

    def add(self, event: object, size_bytes: int, now_s: float) -> None:
        """Count a message that is used. Answers count too: they lead to further commands.

        Args:
            event: the name of the event; anything else for an answer.
            size_bytes: of the message.
            now_s: the monotonic clock.

        Raises:
            FloodingError: the messages of this second are more than the bound.
        """
        self._begin(now_s)
        self._used += _weight(size_bytes)
        if isinstance(event, str):
            self._count_name(event)
        self._check(self._used, self._messages_per_s_max)

    def add_unused(self, event: str, size_bytes: int, now_s: float) -> None:
        """Count an event that the agent does not use; arguments and errors are those of `add`."""
        self._begin(now_s)
        self._unused += _weight(size_bytes)
        self._count_name(event)
        self._check(self._unused, self._messages_per_s_max * UNUSED_FACTOR)

    def _begin(self, now_s: float) -> None:
        if now_s - self._start_s >= 1.0:
            self._start_s, self._used, self._unused = now_s, 0, 0
            self._names.clear()

    def _count_name(self, event: str) -> None:
        if event in self._names or len(self._names) < _NAMES_MAX:
            self._names[event] += 1

    def _check(self, count: int, limit: int) -> None:
        if count <= limit:
            return
        flood = f"more than {limit} messages in one second (each KiB counts as one)"
        if self._names:
            [(event, _)] = self._names.most_common(1)
            name = printable(event, _EVENT_SHOWN_MAX)
            flood += f", most of the events {name}; {_CAUSES.get(event, _UNKNOWN_CAUSE)}"
        raise FloodingError(flood)


def _weight(size_bytes: int) -> int:
    return 1 + size_bytes // _WEIGHT_BYTES

"""When the run ends: at which signals, by when, and after which time the process ends whatever hangs."""

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

import anyio
import structlog

from agent.errors import ConfigError
from agent.threads import in_thread

log = structlog.get_logger("barograph")

CLOSE_WITHIN_S = 1.8
"""After the deadline: for the last commit (0.75 s), the web server and the spool (0.4 s each) and the ledger
(0.2 s). Then the process ends in any case, before two seconds are over."""

EXIT_ABANDONED = 1
_LOG_WITHIN_S = 0.1


class Stopping:
    """The end of a run. Owned by the event loop's thread."""

    def __init__(self, deadline_s: float, reload_config: Callable[[], object], on_reload: Callable[[], None]):
        """Create it; `obey_signals` makes it take effect.

        Args:
            deadline_s: how long stopping may take, apart from closing.
            reload_config: reads the configuration again; called in a thread at SIGHUP.
            on_reload: called when the process is about to be restarted.
        """
        self.deadline_s = deadline_s
        self.restart = False
        """Whether SIGHUP ended the run."""
        self.by_s: float | None = None
        """On the clock of the event loop; `None`: the run goes on."""
        self._reload_config = reload_config
        self._on_reload = on_reload

    def begin(self) -> float:
        """Let the deadline begin, unless it has, and return it. The process ends soon after it."""
        if self.by_s is None:
            self.by_s = anyio.current_time() + self.deadline_s
            end_after(self.deadline_s + CLOSE_WITHIN_S)
        return self.by_s

    async def obey_signals(
        self, collecting: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        """Cancel `collecting` at SIGTERM, SIGINT, or SIGHUP with a valid configuration."""
        at_a_terminal = os.isatty(0)  # SIGHUP then means that the terminal was closed
        try:
            async with anyio.create_task_group() as group:
                with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                    _arm(partial(end_after, self.deadline_s + CLOSE_WITHIN_S))
                    task_status.started()
                    async for number in signals:
                        log.info("signal received", signal=number.name)
                        if number is signal.SIGHUP and not at_a_terminal:
                            group.start_soon(self._reload, collecting)  # it may hang, and SIGTERM may follow
                        elif collecting.cancel_called and not self.restart:
                            log.warning("second signal, exiting at once")
                            os._exit(128 + signal.SIGINT)  # nothing can delay this
                        else:
                            self.restart = False
                            self.begin()
                            collecting.cancel()
        finally:
            if self.restart:  # a further SIGHUP during the restart must not end the process
                signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def _reload(self, collecting: anyio.CancelScope) -> None:
        if collecting.cancel_called:
            return
        try:
            await in_thread(self._reload_config)
        except ConfigError as error:
            for problem in error.problems:
                log.error("configuration rejected, the previous one stays in effect", problem=str(problem))
            return
        if not collecting.cancel_called:
            self.restart = True
            self._on_reload()
            self.begin()
            collecting.cancel()


def _arm(end: Callable[[], None]) -> None:
    """Have `end` called at the first SIGTERM or SIGINT, although the event loop may be blocked.

    The loop takes signals from a descriptor, so its handler of a signal can be wrapped. `signal.signal` lets
    the signal interrupt a call that blocks (signal.siginterrupt).
    """
    armed = False

    def handle(loops: object, number: int, frame: FrameType | None) -> None:
        nonlocal armed
        if not armed:
            armed = True
            end()
        if callable(loops):
            loops(number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, partial(handle, signal.getsignal(number)))


def end_after(within_s: float, leave: Callable[[int], object] = os._exit) -> None:
    """End the process after so many seconds, from a thread that needs neither the event loop nor the log."""
    timer = threading.Timer(within_s, partial(_end, within_s, leave))
    timer.daemon = True
    timer.start()


def _end(within_s: float, leave: Callable[[int], object]) -> None:
    detail = "the shutdown did not end in time; the state directory is kept for the next start"
    write = partial(log.error, "stop abandoned", after_s=within_s, detail=detail)
    last_line = threading.Thread(target=write, name="last log line", daemon=True)  # the log may hang, too
    last_line.start()
    last_line.join(_LOG_WITHIN_S)
    leave(EXIT_ABANDONED)

"""Exports the newest values of each VM to an OTLP backend, in cycles, from a thread of its own.

Rules, each with a test in tests/integration/test_sinks_otlp.py:

- the event loop never waits for the backend: a daemon thread gets one cycle at a time; if it is still busy,
  or the backend asked for a pause, the cycle is skipped and counted;
- nothing is queued: after an outage the next cycle exports the newest values;
- a failed export counts as not sent: the next cycle tries the values that are the newest by then. A backend
  whose answer was lost may get a point twice, as with the exporter's own retries;
- an outage is logged at its beginning and at its end, and shown as soon as the first attempt has failed or
  takes long: the exporter itself retries until its timeout;
- at shutdown the thread has a deadline, after which it is abandoned.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import anyio
import structlog

from agent.contract.payloads import Agent
from agent.contract.targets import targets
from agent.core.health import Health, Status
from agent.core.reading import VmView
from agent.core.wording import counted
from agent.redaction import Redactor
from agent.sinks import otlp_failures, otlp_points
from agent.sinks.http_connection import Stage
from agent.sinks.otlp_cycle import Cycle, CycleEnd, Exporter, Outcome, SliceReport, run_cycle
from agent.sinks.otlp_exporter import Watch, open_exporter
from agent.sinks.otlp_points import SentVm
from agent.sinks.otlp_settings import Identity, Settings
from agent.telemetry import Count, Counters
from agent.threads import Call, WorkerThread

log = structlog.get_logger("barograph.otlp")

# Between two slices, so that other threads get the interpreter's lock.
_PAUSE_S = 0.02
# A backend that trickles its answer can hold the HTTP exporter forever, since the timeout of requests is for
# each byte. After this many timeouts the thread is abandoned, and a new one continues.
_STUCK_TIMEOUTS = 3
_STUCK_THREADS_MAX = 3
# How long an attempt may take before it is reported, unless the backend has answered before and is only slow.
_SLOW_S = 1.5
_LOOK_EVERY_S = 0.25
_RETRY_AFTER_MAX_S = 300.0  # the longest pause that a backend can ask for
_FORGET_AFTER_NS = 3600 * 1_000_000_000


class OtlpSink:
    """Exports the board to one backend."""

    def __init__(
        self, settings: Settings, agent: Agent, counters: Counters, redact: Redactor | None = None
    ) -> None:
        """Open nothing yet; `redact` gets the secrets that are read from files."""
        self._settings = settings
        self._redact = redact or Redactor()
        self._agent = agent
        self._counters = counters
        self._views: Callable[[], Sequence[VmView]] | None = None  # `None`: never run
        self._sent: Mapping[str, SentVm] = {}
        self._thread: _ExporterThread | None = None
        self._left: list[_ExporterThread] = []
        self._idle = anyio.Event()
        self._idle.set()
        self._heard_s = 0.0  # when the thread last reported anything, on the loop's clock
        self._retry_at_s = 0.0
        self._failures = 0  # cycles in a row
        self._problem = ""  # why the last attempt failed; "": it has not
        self._exports = False  # at least one export has succeeded

    @property
    def status(self) -> Status:
        """The status of the backend, as of the last cycle."""
        if self._problem:
            failed = f"{counted(self._failures, 'cycle')} failed" if self._failures else "retrying"
            return Status(Health.DEGRADED, self._problem, failed)
        if self._exports:
            return Status(Health.OK, "exporting")
        return Status(Health.STARTING, "nothing exported yet")

    async def run(self, views: Callable[[], Sequence[VmView]]) -> None:
        """Start a cycle every interval, on a fixed grid, until cancelled.

        Args:
            views: returns the newest of every VM; called on the event loop.
        """
        self._views = views
        began_s = anyio.current_time()
        while True:
            self._tick()
            slots = int((anyio.current_time() - began_s) / self._settings.interval_s) + 1
            next_s = began_s + slots * self._settings.interval_s
            while not self._idle.is_set() and anyio.current_time() + _LOOK_EVERY_S < next_s:
                await anyio.sleep(_LOOK_EVERY_S)
                self._look()
            await anyio.sleep_until(next_s)

    async def finish(self, deadline_s: float) -> None:
        """Run a last cycle after the current one, up to the deadline. Call it after `run`."""
        with anyio.move_on_after(deadline_s) as scope:
            try:
                await self._idle.wait()
                if self._thread is not None and anyio.current_time() >= self._retry_at_s:
                    self._start_cycle()
                    await self._idle.wait()
            finally:
                thread, self._thread = self._thread, None
                ended = None if thread is None else thread.end()
            if ended is not None:
                await ended.done.wait()
        if scope.cancelled_caught:
            detail = "the backend did not answer in time; check it, or raise shutdown.deadline"
            log.warning("otlp export abandoned", after_s=deadline_s, detail=detail)

    def _look(self) -> None:
        """Report an attempt that takes long."""
        watch = None if self._thread is None or self._idle.is_set() else self._thread.watch
        if watch is None or watch.stage is None or time.monotonic() - watch.began_s < _SLOW_S:
            return
        has_answered = self._exports and not self._problem
        if watch.stage is not Stage.ANSWER or not has_answered:
            self._begin_outage(otlp_failures.unfinished(watch.stage, self._settings))

    def _begin_outage(self, problem: str) -> None:
        if not self._problem:
            log.warning("otlp backend unavailable", problem=problem)
        self._problem = problem

    def _tick(self) -> None:
        now_s = anyio.current_time()
        ready = self._idle.is_set() or self._replace_stuck(now_s)
        if not ready or now_s < self._retry_at_s:
            self._counters.add(Count.CYCLES_SKIPPED)
        else:
            self._start_cycle()

    def _start_cycle(self) -> None:
        views = () if self._views is None else tuple(self._views())
        now_ns = time.time_ns()
        keys = frozenset(target.key for target in targets(views, self._agent))
        self._sent = otlp_points.forget_old(self._sent, keys, now_ns, _FORGET_AFTER_NS)
        if self._thread is None:
            self._thread = _ExporterThread(
                lambda watch: open_exporter(self._settings, watch, self._redact.add, self._redact),
                self._agent,
                self._settings,
                self._hear,
            )
        self._idle = anyio.Event()
        self._heard_s = anyio.current_time()
        self._thread.give(Cycle(views, self._sent, now_ns))

    def _replace_stuck(self, now_s: float) -> bool:
        """Abandon a thread that has reported nothing for too long; return whether a new one may start."""
        self._left = [thread for thread in self._left if thread.is_alive]
        stuck_after_s = _STUCK_TIMEOUTS * self._settings.timeout_s
        if now_s - self._heard_s < stuck_after_s or len(self._left) >= _STUCK_THREADS_MAX:
            return False
        stage = None
        if self._thread is not None:
            stage = self._thread.watch.stage
            self._thread.end()
            self._thread.is_left = True
            self._left.append(self._thread)
        self._thread = None
        detail = otlp_failures.unfinished(stage, self._settings)
        self._end_cycle(CycleEnd(Outcome(accepted=False, detail=detail)))
        return True

    def _hear(self, thread: "_ExporterThread", said: "_Said") -> None:
        """Take a report of the thread, on the event loop."""
        if thread.is_left:
            return  # another thread exports the same VMs by now
        self._heard_s = anyio.current_time()
        if isinstance(said, Outcome):
            self._begin_outage(said.detail)
            return
        if isinstance(said, CycleEnd):
            self._end_cycle(said)
            return
        self._sent = {**self._sent, **said.settled}
        if said.points_sent:
            self._counters.add(Count.POINTS_SENT, said.points_sent)
        if said.passed_over:
            self._counters.add(Count.POINTS_PASSED_OVER, said.passed_over)
        for reason, points in said.points_refused.items():
            self._counters.add(Count.POINTS_REFUSED, points, reason=reason.value)

    def _end_cycle(self, end: CycleEnd) -> None:
        self._idle.set()
        if end.failure is not None:
            self._counters.add(Count.CYCLES_SKIPPED)
            pause_s = min(end.failure.retry_after_s or 0.0, _RETRY_AFTER_MAX_S)
            self._retry_at_s = anyio.current_time() + pause_s
            self._begin_outage(end.failure.detail or "unknown")
            self._failures += 1
        elif end.exports:
            if self._problem:
                log.info("otlp backend recovered", cycles_failed=self._failures)
            self._failures = 0
            self._problem = ""
            self._exports = True


_Said: TypeAlias = SliceReport | CycleEnd | Outcome
"""What the thread reports; an `Outcome` is that of one attempt that failed."""


class _ReportedWatch(Watch):
    """Reports each attempt that fails to the event loop."""

    def __init__(self, report: Callable[[Outcome], None]) -> None:
        self._report = report

    def failed(self, outcome: Outcome) -> None:
        self._report(outcome)


class _ExporterThread:
    """Runs cycles in a thread, one after the other, and reports to the event loop, where it is made."""

    def __init__(
        self,
        open_exporter: Callable[[Watch], Exporter],
        agent: Agent,
        settings: Settings,
        hear: Callable[["_ExporterThread", _Said], None],
    ) -> None:
        self.watch = _ReportedWatch(self._say)
        self.is_left = False  # to a backend that holds it; its reports are ignored
        self._open_exporter = open_exporter
        self._agent = agent
        self._identity: Identity = settings.identity
        self._hear = hear
        self._ending = threading.Event()
        self._exporter: Exporter | None = None  # used by the thread alone
        self._thread = WorkerThread("otlp")

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive

    def give(self, cycle: Cycle) -> None:
        """Start `cycle`. The one before must have ended."""
        self._thread.submit(partial(self._run, cycle))

    def end(self) -> Call[None]:
        """End the cycle after the slice in flight, then the thread. The call is done when all is."""
        self._ending.set()
        shut_down = self._thread.submit(self._shut_down)
        self._thread.end()
        return shut_down

    def _run(self, cycle: Cycle) -> None:
        try:
            exporter = self._exporter = self._exporter or self._open_exporter(self.watch)
        except Exception as error:  # noqa: BLE001 - the boundary, as below
            known = isinstance(error, OSError | ValueError)  # a file that is missing or cannot be used
            detail = f"the exporter cannot start: {error if known else type(error).__name__}"
            self._say(CycleEnd(Outcome(accepted=False, detail=detail)))
            return
        try:
            for said in run_cycle(cycle, exporter, self._agent, self._identity, self._pause):
                self._say(said)
        except Exception:  # the boundary: a bug met in one cycle must not stop the next ones
            log.exception("otlp cycle crashed")
            self._say(CycleEnd(Outcome(accepted=False, detail="internal error; see the agent's log")))

    def _shut_down(self) -> None:
        if self._exporter is not None:
            self._exporter.shutdown()

    def _pause(self) -> bool:
        return self._ending.wait(_PAUSE_S)

    def _say(self, said: _Said) -> None:
        if not self._thread.report(partial(self._hear, self, said)):
            self._ending.set()  # the event loop has ended

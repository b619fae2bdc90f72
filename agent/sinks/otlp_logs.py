"""Sends changes of state to an OTLP backend as log records, each at least once and in order.

Rules, each with a test in tests/integration/test_sinks_otlp_logs.py:

- a batch is settled when the backend has accepted it; until then the sink raises SinkUnavailable, and the
  same records are sent again before any later one;
- metrics have another connection and another thread: neither delays the other;
- a refused batch is sent again record by record, to find the refused records;
- a backend that accepts no logs is reported in one line. Records are dropped and counted until it accepts
  some; it is tried again every five minutes. Where logs are required, records are kept instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Protocol

import anyio
import structlog
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from agent.contract.payloads import Agent
from agent.core.reading import Record
from agent.errors import SinkUnavailable
from agent.redaction import Redactor
from agent.sinks import otlp_events, otlp_failures
from agent.sinks.otlp_cycle import Outcome
from agent.sinks.otlp_exporter import Watch, open_logs_exporter
from agent.sinks.otlp_settings import Settings
from agent.sinks.record_sink import Receipt, RefusedRecord
from agent.threads import Call, WorkerThread

log = structlog.get_logger("barograph.otlp")

RETRY_UNSUPPORTED_S = 300.0
"""How long nothing is sent to a backend that accepts no logs."""

_REQUIRED_RETRY_S = 30.0


class LogsExporter(Protocol):
    """Sends log records and waits for the answer, with its own deadline."""

    def export(self, request: ExportLogsServiceRequest) -> Outcome:
        """Send `request`. Errors of the backend or the network are outcomes, not exceptions."""
        ...

    def shutdown(self) -> None:
        """Close the connections."""
        ...


class _Unsupported(Exception):
    """The backend accepts no logs. The message contains its answer."""


@dataclass(frozen=True, slots=True)
class _Settled:
    """How a record ended: accepted, or refused for a reason."""

    refused: str = ""
    is_rejected: bool = False  # by a partial success


class OtlpLogsSink:
    """Sends records of changes to one backend."""

    name = "otlp.logs"
    # A Collector accepts 4 MiB over gRPC; a record is about 1 KiB.
    batch_bytes_max = 1024 * 1024
    batch_records_max = 512

    def __init__(self, settings: Settings, agent: Agent, redact: Redactor | None = None) -> None:
        """Open nothing yet; `redact` gets the secrets that are read from files."""
        self._settings = settings
        self._agent = agent
        self._redact = redact or Redactor()
        self._watch = Watch()
        self._thread: WorkerThread | None = None
        self._call: Call[Sequence[_Settled]] | None = None  # the newest
        self._call_ids: Sequence[str] = ()
        self._off_until_s: float | None = None  # on the loop's clock; `None`: the backend may accept logs
        # Used by the thread alone:
        self._exporter: LogsExporter | None = None
        self._has_accepted = False
        self._settled: dict[str, _Settled] = {}  # by record id: of the present batch

    @property
    def problem(self) -> str | None:
        """What keeps the present batch from being accepted; `None`: nothing known."""
        stage = self._watch.stage
        if stage is None or monotonic() - self._watch.began_s < 1.0:
            return None
        return otlp_failures.unfinished(stage, self._settings)

    async def send(self, records: Sequence[Record]) -> Receipt:
        """Send `records` in one request.

        Raises:
            SinkUnavailable: not every record is settled. Some may have arrived although no answer came: they
                will be repeated, with the same id.
        """
        if self._off_until_s is not None and anyio.current_time() < self._off_until_s:
            return Receipt(lost={"unsupported": len(records)})
        try:
            settled = await self._in_thread(records)
        except _Unsupported as error:
            return self._unsupported(records, str(error))
        if self._off_until_s is not None:
            log.info("otlp backend accepts logs")
            self._off_until_s = None
        rejected = sum(each.is_rejected for each in settled)
        refused = [
            RefusedRecord(index, "invalid", each.refused)
            for index, each in enumerate(settled)
            if each.refused
        ]
        return Receipt(tuple(refused), lost={"partial_success": rejected} if rejected else {})

    async def aclose(self) -> None:
        """End the thread after the present export, without waiting. Safe to call twice."""
        thread, self._thread, self._call = self._thread, None, None
        if thread is not None:
            thread.submit(self._shut_down)
            thread.end()

    async def _in_thread(self, records: Sequence[Record]) -> Sequence[_Settled]:
        ids = [record.id for record in records]
        if self._call is not None and self._call_ids != ids:
            await self._call.done.wait()  # of a batch whose sender was canceled
            self._call = None
        if self._thread is None:
            self._thread = WorkerThread(self.name)
        if self._call is None:
            self._call, self._call_ids = self._thread.submit(partial(self._deliver, tuple(records))), ids
        await self._call.done.wait()
        call, self._call = self._call, None
        return call.outcome()

    def _unsupported(self, records: Sequence[Record], problem: str) -> Receipt:
        if self._settings.logs_required:
            raise SinkUnavailable(f"otlp.logs: {problem}", retry_after_s=_REQUIRED_RETRY_S)
        if self._off_until_s is None:
            detail = "changes of state are dropped; add a logs pipeline, or set otlp.logs: false"
            log.warning("otlp backend accepts no logs", problem=problem, detail=detail)
        self._off_until_s = anyio.current_time() + RETRY_UNSUPPORTED_S
        return Receipt(lost={"unsupported": len(records)})

    # --- in the thread ---

    def _deliver(self, records: Sequence[Record]) -> Sequence[_Settled]:
        ids = {record.id for record in records}
        self._settled = {id: each for id, each in self._settled.items() if id in ids}
        left = [record for record in records if record.id not in self._settled]
        if left and (refusal := self._export(left)) is not None:
            self._find_refused(left, refusal)
        return [self._settled[record.id] for record in records]

    def _export(self, records: Sequence[Record]) -> Outcome | None:
        """Send the records in one request. Return the outcome if the request was refused.

        Raises:
            SinkUnavailable: no answer, or one that may change.
            _Unsupported: the backend accepts no logs.
        """
        request, problems = otlp_events.request(records, self._agent, self._settings.identity)
        for index, problem in problems.items():
            self._settled[records[index].id] = _Settled(problem)
        sound = [record for index, record in enumerate(records) if index not in problems]
        if not sound:
            return None
        outcome = self._opened().export(request)
        if outcome.unsupported:
            raise _Unsupported(outcome.detail)
        if outcome.refused:
            return outcome
        if not outcome.accepted:
            raise SinkUnavailable(outcome.detail or "unknown", retry_after_s=outcome.retry_after_s)
        rejected = min(max(outcome.rejected, 0), len(sound))  # a backend may answer any number
        if rejected == len(sound) and not self._has_accepted:
            raise _Unsupported(f"it rejects every record: {outcome.detail}")
        self._has_accepted = True
        for number, record in enumerate(sound):  # which ones were rejected is not known
            self._settled[record.id] = _Settled(is_rejected=number < rejected)
        return None

    def _find_refused(self, records: Sequence[Record], refusal: Outcome) -> None:
        """Send each record of a refused request separately.

        A backend that refuses all of them, and has never accepted one, accepts no logs.
        """
        refused: dict[str, _Settled] = {}
        for record in records:
            if record.id in self._settled:
                continue
            alone = refusal if len(records) == 1 else self._export([record])
            if alone is not None:
                refused[record.id] = _Settled(alone.detail or "unknown")
        if refused and not self._has_accepted:
            raise _Unsupported(refusal.detail)
        self._settled |= refused

    def _opened(self) -> LogsExporter:
        if self._exporter is None:
            try:
                self._exporter = open_logs_exporter(
                    self._settings, self._watch, self._redact.add, self._redact
                )
            except (OSError, ValueError) as error:  # a file that is missing or cannot be used
                raise SinkUnavailable(f"the exporter cannot start: {error}") from None
        return self._exporter

    def _shut_down(self) -> None:
        if self._exporter is not None:
            self._exporter.shutdown()
            self._exporter = None

"""The quality job: what is known of each VM and host, and what has been lost of its samples.

It reads samples and states under the same key, the VM's or the host's id. A record is written at each change,
and as a heartbeat. Silence has no record of its own, so timers of the job's clock show it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct, UnsetType

from barograph_streams.core import documents
from barograph_streams.core.documents import Host, Outcome, Sample, parse
from barograph_streams.core.quality_records import HOST_TOPIC, VM_TOPIC, quality_record
from barograph_streams.core.reader import ReaderState, new_state, take
from barograph_streams.core.records import Record
from barograph_streams.core.states import DECODERS, AgentStateDocument, VmStateDocument
from barograph_streams.core.steps import Step
from barograph_streams.core.validity import (
    ALLOWANCE_MS,
    GRACE_MS,
    Finding,
    View,
    next_judgment_ms,
    of_host,
    of_vm,
    place,
)

HEARTBEAT_MS = 900_000
"""A condition that has not changed is written again after so much time, if states arrive."""

__all__ = ["HOST_TOPIC", "VM_TOPIC", "QualityJob"]

_AGENT = ""
"""The name of an agent's view: a host has one."""

_DECODERS: Mapping[str, "msgspec.json.Decoder[Any]"] = {**DECODERS, **documents.DECODERS}


class KeyState(Struct, array_like=True):
    """What the job keeps of one VM or host."""

    reader: ReaderState
    views: dict[str, View]
    host: Host | None = None  # of the newest state
    is_host: bool = False
    written: Finding | None = None  # the newest record's
    written_ms: int = 0
    sequence: int = 0  # of the newest record
    timer_ms: int = 0  # when the timer that is set fires; 0: none is
    judged_from_ms: int = 0  # nothing is judged before


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(KeyState)


class QualityJob:
    """The job."""

    def step(self, kept: bytes | None, key: str, value: bytes, now_ms: int) -> Step:
        """Return what one record of barograph.samples or barograph.states changes."""
        return _step(kept, key, value, now_ms)

    def on_timer(self, kept: bytes | None, key: str, now_ms: int) -> Step:
        """Return what the passing of time changes."""
        return _on_timer(kept, key, now_ms)


def _step(kept: bytes | None, key: str, value: bytes, now_ms: int) -> Step:
    document: Sample | VmStateDocument | AgentStateDocument | Outcome = parse(value, _DECODERS)
    if isinstance(document, Outcome):
        return Step(document, None)
    state = KeyState(new_state(), {}) if kept is None else _decoder.decode(kept)
    if isinstance(document, Sample):
        if document.vm.id != key:
            return Step(Outcome.KEY, None)
        reading = take(state.reader, document)
        return Step(reading.outcome, _encoder.encode(state), (), reading.lost)
    if isinstance(document, VmStateDocument) and isinstance(document.vm.id, UnsetType):
        return Step(Outcome.UNIDENTIFIED, None)
    expected = document.vm.id if isinstance(document, VmStateDocument) else document.host.id
    if key != expected:
        return Step(Outcome.KEY, None)
    outcome = _note(state, document, now_ms)
    return _judged(state, key, now_ms, outcome)


def _on_timer(kept: bytes | None, key: str, now_ms: int) -> Step:
    if kept is None:
        return Step(Outcome.KEPT, None)
    state = _decoder.decode(kept)
    if now_ms - state.timer_ms > GRACE_MS:  # the job was down, and what it has missed follows
        state.judged_from_ms = now_ms + GRACE_MS
    state.timer_ms = 0
    return _judged(state, key, now_ms, Outcome.KEPT)


def _note(state: KeyState, document: VmStateDocument | AgentStateDocument, now_ms: int) -> Outcome:
    """Put a state in its place."""
    is_vm = isinstance(document, VmStateDocument)
    view = View(
        run=document.run,
        sequence=document.sequence,
        state=document.state,
        reason=document.reason if is_vm else "",
        since_ms=document.since_ms,
        void_at_ms=document.next_heartbeat_by_ms + ALLOWANCE_MS,
    )
    name = f"{document.host.id} {document.vm.path}" if is_vm else _AGENT
    if document.redelivered:
        return Outcome.REDELIVERED
    if not place(state.views, name, view):
        return Outcome.REPEAT
    state.host, state.is_host = document.host, not is_vm
    state.judged_from_ms = 0 if view.is_valid(now_ms) else now_ms + GRACE_MS
    return Outcome.KEPT


def _judged(state: KeyState, key: str, now_ms: int, outcome: Outcome) -> Step:
    """Return the step after a state or the passing of time, with the record and the timer that are due."""
    records: tuple[Record, ...] = ()
    if state.host is not None and now_ms >= state.judged_from_ms:
        found = (of_host if state.is_host else of_vm)(state.views, now_ms)
        changed = found != state.written
        if changed or now_ms - state.written_ms >= HEARTBEAT_MS:
            state.sequence += 1
            record = quality_record(
                key,
                host=state.host,
                is_host=state.is_host,
                found=found,
                previous=state.written if changed else None,
                samples=state.reader,
                sequence=state.sequence,
                at_ms=now_ms,
                heartbeat=not changed,
            )
            state.written, state.written_ms = found, now_ms
            records = (record,)
    due_ms = next_judgment_ms(state.views, now_ms, state.judged_from_ms)
    timer_ms = None
    if due_ms is not None and state.timer_ms == 0:
        state.timer_ms = timer_ms = due_ms
    return Step(outcome, _encoder.encode(state), records, 0, timer_ms)

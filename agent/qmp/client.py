"""A QMP session with one monitor: the only module that uses qemu.qmp (0.0.6).

It makes up for what the library lacks, and keeps its peculiarities from the rest of the agent:

- the library has no deadlines: callers use cancel scopes, and every await here may be canceled;
- its event listener keeps every event for ever: it gets none;
- whatever ends the link is raised at once for all waiting calls, as `QmpUnreachable` with the fault;
- exceptions of other kinds (EOFError, OSError, ValueError, AssertionError...) do not leave this module;
- events before the greeting, or between `qmp_capabilities` and its answer, are events too;
- it enables out-of-band execution wherever that is offered: the offer is hidden from it;
- it logs every message pretty-printed, and ordinary failures as errors: here it logs nothing;
- it takes a line for a message: here a message is a JSON value in any layout (framing.py);
- it takes each message through several coroutines and a wrapper: here, once the negotiation is over, through
  one;
- it reads on without a pause while messages are buffered: here they yield to other tasks, and too many end
  the link. Events that the agent does not use cost little, and many more of them are allowed. Of all monitors
  together so many are read, and no more (core/read_budget.py).
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping
from typing import cast

import anyio
from msgspec import Struct
from qemu.qmp import ConnectError, QMPClient, Runstate
from qemu.qmp.error import ProtocolError
from qemu.qmp.events import EventListener
from qemu.qmp.message import Message
from qemu.qmp.models import Greeting

from agent.core.event_queue import EventQueue
from agent.core.events import LinkEvent
from agent.core.shares import Owner
from agent.core.wording import printable
from agent.errors import LinkFault, QmpCommandError, QmpUnreachable
from agent.qmp import allowlist, parsing
from agent.qmp.descriptors import DescriptorsSentError
from agent.qmp.endpoint import violation
from agent.qmp.flood import FloodingError, FloodWindow
from agent.qmp.framing import Frame, Framer
from agent.qmp.turns import ReadTurns

_READ_MAX_BYTES = 64 * 1024
"""Read at once."""

_UNSENT_MAX_BYTES = 64 * 1024
"""What may be buffered while QEMU does not read: some hundred commands, besides the kernel's buffers."""

_CLOSE_DEADLINE_S = 1.0
"""Closing does not wait for the peer; this bounds the unforeseen."""

_UNUSED_AT_ONCE = 16
"""Unused events that are skipped before other tasks run: a fraction of a millisecond."""

_REFUSAL_MAX = 256
"""Characters of a refusal's class and description: they reach states, logs and terminals."""

_ANSWER_MEMBERS = frozenset({"id", "return", "error"})

# Not from the registry, so that the library's other loggers are left alone.
_SILENT = logging.Logger("agent.qmp.silent")
_SILENT.disabled = True


_UNHEARD = EventListener()
"""In place of the listener that the library makes for each client: its queues take 3 KB, and get nothing."""


class _Question(Struct, frozen=True):
    """A command sent, and the callbacks for its answer."""

    command: str
    answered: Callable[[object], None]
    refused: Callable[[QmpCommandError], None]


class MonitorClient(QMPClient):
    """A QMP session that can send only what `allowlist` lists.

    Owned by one task; two of its child tasks may await `call` and `next_event` at the same time, but only one
    may await `next_event`.
    """

    def __init__(
        self, path: str, *, events_per_s_max: int, turns: ReadTurns | None = None, owner: Owner = None
    ) -> None:
        super().__init__(readbuflen=_READ_MAX_BYTES)
        self.logger = _SILENT
        listener, self.events = self.events, _UNHEARD
        self.remove_listener(listener)
        self._path = path
        self._turns = turns or ReadTurns()
        self._flood = FloodWindow(events_per_s_max, self._turns.budget, owner)
        self._framer = Framer()
        self._message_bytes = 0
        self._skipped = 0  # since other tasks ran
        self._serial = 0
        self._waiting: dict[int, _Question] = {}
        self._calls: dict[int, asyncio.Future[object]] = {}  # those of `call`, which fail when the link ends
        self._queue = EventQueue()
        self._news: asyncio.Future[None] | None = None  # what `next_event` waits for
        self._ended: QmpUnreachable | None = None

    # --- for link.py ---

    async def begin(self, connection: socket.socket) -> None:
        """Read the greeting and negotiate. `close` closes `connection`.

        Raises:
            QmpUnreachable: NOT_QMP, HUNG_UP, FLOODING or PROTOCOL. Close.
        """
        try:
            await self.connect(connection)
        except Exception as error:
            cause = error.exc if isinstance(error, ConnectError) else error
            self._end(cause)
            raise self._unreachable() from error

    @property
    def greeted(self) -> bool:
        """Return whether a greeting has been read."""
        return self.greeting is not None

    async def call(self, command: str, **arguments: object) -> object:
        """Send one command and return its `return`, not parsed.

        If the caller is canceled, the link stays usable; the command may still run, and a late answer is
        dropped.

        Raises:
            QmpNotAllowed: not on the allow-list. Nothing was sent.
            QmpCommandError: QEMU refused. The link stays usable.
            QmpUnreachable: the link is dead.
        """
        # A bare future: the library's reader task sets the answer, and no other task is needed.
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def answered(value: object) -> None:
            if not answer.done():  # else canceled, and its task has not run since
                answer.set_result(value)

        def refused(error: QmpCommandError) -> None:
            if not answer.done():
                answer.set_exception(error)

        serial = self.send(answered, refused, command, **arguments)
        if self._ended is not None:
            raise self._unreachable()
        self._calls[serial] = answer
        try:
            return await answer
        finally:
            del self._calls[serial]
            self._waiting.pop(serial, None)

    def send(
        self,
        answered: Callable[[object], None],
        refused: Callable[[QmpCommandError], None],
        command: str,
        **arguments: object,
    ) -> int:
        """Send one command, and call `answered` or `refused` once its answer has come; return its number.

        Neither is called if the link ends before; `next_event` raises then.

        Raises:
            QmpNotAllowed: not on the allow-list. Nothing was sent.
        """
        self._serial += 1
        serial = self._serial
        if self._ended is None:
            self._send_allowed({"execute": command, "arguments": arguments, "id": serial})
            self._waiting[serial] = _Question(command, answered, refused)
        return serial

    async def next_event(self) -> LinkEvent:
        """Return the oldest event not returned yet, waiting for one.

        Raises:
            QmpUnreachable: the link has ended and all its events have been returned.
        """
        while not self._queue:
            if self._ended is not None:
                raise self._unreachable()
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return self._queue.take()

    def tell(self, event: LinkEvent) -> None:
        """Queue an event that did not come from QEMU."""
        self._queue.put(event)
        self._wake()

    def fail(self, fault: LinkFault, error: Exception) -> QmpUnreachable:
        """End the link because an answer was not as documented; return the error to raise."""
        self._end(error, fault)
        return self._unreachable()

    async def close(self) -> None:
        """Close the socket at once, without waiting for the peer. Completes also if canceled; idempotent."""
        self._end(EOFError("closed by the agent"))
        with anyio.move_on_after(_CLOSE_DEADLINE_S, shield=True):
            # Only the library's own faults could be raised here: the socket is closed already.
            with contextlib.suppress(Exception):
                if self.runstate is not Runstate.IDLE:
                    await self.disconnect()

    # --- the library's hooks ---

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    async def _do_recv(self) -> Message:
        while True:
            message = await self._next_message()
            if "event" not in message:
                return Message(message, eager=False)
            self._weigh(message)
            self._take_event(message)
            await asyncio.sleep(0)

    async def _get_greeting(self) -> Greeting:
        greeting = await super()._get_greeting()
        greeting.QMP.capabilities = []
        return greeting

    def _do_send(self, msg: Message) -> None:
        self._send_allowed(msg)

    async def _bh_recv_message(self) -> None:
        try:
            message = await self._next_message()
            serial = message.get("id")
            question = self._waiting.pop(serial, None) if type(serial) is int else None
            self._weigh(message, asked_for=question is not None)
            if question is None:  # an event, or an answer to no open question
                self._take_event(message)
                await asyncio.sleep(0)
            else:
                self._take_answer(question, message)
        except Exception as error:
            self._end(error)
            raise

    # --- not the library's ---

    def _send_allowed(self, message: Mapping[str, object]) -> None:
        data = allowlist.encode(message)
        writer = self._writer
        if writer is None:
            raise AssertionError("a command before `begin`")
        if writer.transport.get_write_buffer_size() > _UNSENT_MAX_BYTES:
            self._end(TimeoutError("QEMU does not read commands"), LinkFault.NO_ANSWER)
        else:
            writer.write(data)

    async def _next_message(self) -> dict[str, object]:
        """Return the next message that the agent uses."""
        while True:
            frame = await self._next_frame()
            message = frame.message
            self._message_bytes = frame.size_bytes
            if not self._is_unused(message):
                return message
            self._flood.add_unused(str(message["event"]), frame.size_bytes, time.monotonic())
            self._skipped += 1
            if self._skipped % _UNUSED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _next_frame(self) -> Frame:
        framer, reader = self._framer, self._reader
        if reader is None:
            raise AssertionError("a message before `begin`")
        while True:
            if self._flood.needs_turn(time.monotonic()):
                await self._wait_for_turn()
                self._flood.begin_turn(time.monotonic())
            frame = framer.take()
            if frame is not None:
                return frame
            data = await reader.read(_READ_MAX_BYTES)
            if not data:
                raise EOFError("hung up" if framer.is_empty else "hung up in the middle of a message")
            self._turns.fill()
            self._flood.add_read()
            framer.feed(data)

    async def _wait_for_turn(self) -> None:
        """Leave what comes in the kernel: taking it into a buffer costs as much as reading it."""
        writer = self._writer
        transport = None if writer is None else cast(asyncio.Transport, writer.transport)
        if transport is None or not transport.is_reading():  # the stream's buffer is full: it reads nothing
            await self._turns.turn(self._flood.owner, self._flood)
            return
        transport.pause_reading()
        try:
            await self._turns.turn(self._flood.owner, self._flood)
        finally:
            if not transport.is_closing():
                transport.resume_reading()

    def _is_unused(self, message: Mapping[str, object]) -> bool:
        return (
            isinstance(message.get("event"), str)
            and message.keys().isdisjoint(_ANSWER_MEMBERS)
            and parsing.parse_event(message) is None
        )

    def _weigh(self, message: Mapping[str, object], *, asked_for: bool = False) -> None:
        self._flood.add(message.get("event"), self._message_bytes, time.monotonic(), asked_for=asked_for)

    def _take_answer(self, question: _Question, message: Mapping[str, object]) -> None:
        _require_answer(message)
        if "return" in message:
            question.answered(message["return"])
        else:
            refusal = cast(Mapping[str, object], message["error"])
            shown = (printable(str(refusal[part]), _REFUSAL_MAX) for part in ("class", "desc"))
            question.refused(QmpCommandError(self._path, question.command, *shown))

    def _take_event(self, message: Mapping[str, object]) -> None:
        event = parsing.parse_event(message)
        if event is not None:
            self._queue.put(event)
            self._wake()
        elif "error" in message and "id" not in message:
            raise ValueError("QEMU could not parse a command")

    def _end(self, error: Exception, fault: LinkFault | None = None) -> None:
        if self._ended is not None:
            return
        fault = fault or self._fault_of(error)
        self._ended = QmpUnreachable(self._path, fault, _detail(fault, error))
        self._ended.__cause__ = error
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(self._unreachable())
        self._wake()
        # Nothing needs flushing, and a stopped QEMU would never read it.
        if self._writer is not None:
            self._writer.transport.abort()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _unreachable(self) -> QmpUnreachable:
        # A new one each time: an exception raised twice carries both tracebacks.
        ended = self._ended
        if ended is None:
            raise AssertionError("the link has not ended")
        error = QmpUnreachable(ended.path, ended.fault, ended.detail)
        error.__cause__ = ended.__cause__
        return error

    def _fault_of(self, error: Exception) -> LinkFault:
        if isinstance(error, FloodingError):
            return LinkFault.FLOODING
        if isinstance(error, DescriptorsSentError):
            return LinkFault.PROTOCOL
        if isinstance(error, EOFError | OSError):
            return LinkFault.HUNG_UP
        return LinkFault.PROTOCOL if self.greeted else LinkFault.NOT_QMP


def _require_answer(message: Mapping[str, object]) -> None:
    if "return" in message:
        return
    refusal = message.get("error")
    if isinstance(refusal, dict):
        fields = cast(dict[str, object], refusal)
        if isinstance(fields.get("class"), str) and isinstance(fields.get("desc"), str):
            return
    raise ValueError("an answer with neither a return value nor an error")


def _detail(fault: LinkFault, error: Exception) -> str:
    match fault:
        case LinkFault.HUNG_UP:
            return "the peer has closed the connection; if it does so again, check QEMU's log"
        case LinkFault.NOT_QMP:
            return "the peer does not speak QMP"
        case LinkFault.PROTOCOL:
            return violation(error.error_message if isinstance(error, ProtocolError) else str(error))
        case _:
            return str(error)

"""`/api/tap`: the records that came after a reader's position, at once or within some seconds.

The form belongs to `barograph tap`. A reader holds a connection only while it waits. Answers are made one at
a time with pauses in between, so that readers together take no more than a tenth of the event loop.
"""

import time
from collections.abc import Callable, Sequence

import anyio
import msgspec

from agent.contract.payloads import Agent
from agent.core.reading import RecordKind, VmView
from agent.core.tap import KINDS, Page, Tap, Wanted

READERS_MAX = 8
"""Requests that wait at the same time."""

POSITION_DIGITS_MAX = 18
VM_CHARACTERS_MAX = 4_096

_WAIT_S = 5.0  # less than a connection may last (web_settings.py)
_LOOK_EVERY_S = 0.25
_REST = 9  # times what a look took

_encoder = msgspec.json.Encoder()


class BadRequestError(Exception):
    """The request cannot be answered; the message says why."""


class TooManyReadersError(Exception):
    """There are `READERS_MAX` readers already."""


class TapPage:
    """Answers the readers of the tap."""

    def __init__(
        self, tap: Tap, identity: Agent, views: Callable[[], Sequence[VmView]], wait_s: float = _WAIT_S
    ) -> None:
        """Answer from `tap`. `views` returns the VMs there are."""
        self._tap = tap
        self._identity = identity
        self._views = views
        self._wait_s = wait_s
        self._readers = 0
        self._turn = anyio.Lock()

    async def answer(self, after: str | None, vm: str | None, kinds: Sequence[str]) -> bytes:
        """Return the next records, as JSON.

        Args:
            after: the reader's position; `None`: from now on, which is answered at once.
            vm: the name, id or path of a VM; `None`: all records.
            kinds: the kinds of records; empty: all.

        Raises:
            BadRequestError: an argument is invalid.
            TooManyReadersError: try again later.
        """
        position, wanted = _position(after), _wanted(vm, kinds)
        if self._readers >= READERS_MAX:
            raise TooManyReadersError
        self._readers += 1
        try:
            return await self._answer(position, wanted)
        finally:
            self._readers -= 1

    async def _answer(self, position: int | None, wanted: Wanted) -> bytes:
        is_first = position is None
        end_s = anyio.current_time() + self._wait_s
        while True:
            async with self._turn:
                began_s = time.monotonic()
                page = self._tap.read(position, wanted)
                position = page.next
                is_over = bool(page.records or page.skipped or is_first)
                body = b""
                if is_over or anyio.current_time() >= end_s:
                    body = self._body(page, self._matching(wanted) if is_first else None)
                await anyio.sleep((time.monotonic() - began_s) * _REST)
            if body:
                return body
            await anyio.sleep(_LOOK_EVERY_S)

    def _matching(self, wanted: Wanted) -> int:
        return sum(wanted.names(view.state.vm, view.address) for view in self._views())

    def _body(self, page: Page, matching: int | None) -> bytes:
        return _encoder.encode(
            {
                "run": self._identity.run,
                "next": page.next,
                "skipped": page.skipped,
                "vms": matching,
                "records": [
                    {"kind": each.kind.value, "value": msgspec.Raw(each.value)} for each in page.records
                ],
            }
        )


def _position(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= POSITION_DIGITS_MAX):
        raise BadRequestError("after: not a valid position; use `next` of the last answer")
    return int(text)


def _wanted(vm: str | None, kinds: Sequence[str]) -> Wanted:
    known = sorted(kind.value for kind in KINDS)
    if not set(kinds) <= set(known):
        raise BadRequestError(f"kind: unknown; use one of {', '.join(known)}")
    if vm is not None and len(vm) > VM_CHARACTERS_MAX:
        raise BadRequestError(f"vm: more than {VM_CHARACTERS_MAX:,} characters")
    return Wanted(vm, frozenset(map(RecordKind, kinds)) or KINDS)

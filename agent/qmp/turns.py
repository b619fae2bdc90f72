"""Makes links that must not be read now wait for their turn. core/read_budget.py decides whose turn it is."""

import asyncio
import time

from agent.core.read_budget import BUDGET_PER_S, Budget
from agent.core.shares import Owner


class ReadTurns:
    """The turns of all links. Owned by the event loop's thread."""

    def __init__(self, messages_per_s: int = BUDGET_PER_S) -> None:
        """Create it; all links together may send so many messages."""
        self.budget = Budget[object](messages_per_s)
        self._turns: dict[object, asyncio.Future[None]] = {}
        self._timer: asyncio.Handle | None = None
        self._is_filled = False  # in this round of the event loop

    def fill(self) -> None:
        """Fill up the budget if this is the first call in a round of the event loop. Call it at each read."""
        if self._is_filled:
            return
        self._is_filled = True
        self.budget.fill(time.monotonic())
        asyncio.get_running_loop().call_soon(self._end_round)

    def _end_round(self) -> None:
        self._is_filled = False

    async def turn(self, owner: Owner, link: object) -> None:
        """Wait for the turn of a link. It must not wait already."""
        turn = self._turns[link] = asyncio.get_running_loop().create_future()
        self.budget.wait(owner, link)
        self._set_timer()
        try:
            await turn
        finally:
            self.budget.discard(owner, link)
            del self._turns[link]

    def _set_timer(self) -> None:
        after_s = self.budget.next_turn_s
        if self._timer is None and after_s is not None:
            self._timer = asyncio.get_running_loop().call_later(after_s, self._go_on)

    def _go_on(self) -> None:
        """Begin at most one turn, so that few links are read in the same round."""
        self._timer = None
        self.budget.fill(time.monotonic())
        link = self.budget.take_turn()
        if link is not None and not (turn := self._turns[link]).done():
            turn.set_result(None)
        self._set_timer()

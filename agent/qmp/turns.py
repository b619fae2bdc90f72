"""Has links that must not be read now wait for their turn. budget.py decides whose turn it is, and when."""

import asyncio
import time

from agent.core.shares import Owner
from agent.qmp.budget import BUDGET_PER_S, FILL_S, Budget


class ReadTurns:
    """The turns of all links. Owned by the event loop's thread."""

    def __init__(self, messages_per_s: int = BUDGET_PER_S) -> None:
        """Create it; all links together may send so many messages."""
        self.budget = Budget[asyncio.Future[None]](messages_per_s)
        self._timer: asyncio.Handle | None = None

    async def turn(self, owner: Owner) -> None:
        """Wait for the turn of a link."""
        turn = asyncio.get_running_loop().create_future()
        self.budget.wait(owner, turn)
        self.set_timer()
        try:
            await turn
        finally:
            self.budget.discard(owner, turn)

    def set_timer(self) -> None:
        """Have the budget filled up and the next turn begun. Call it after the budget was used."""
        if self._timer is not None:
            return
        after_s = self.budget.next_turn_s
        if after_s is None and self.budget.is_full:
            return
        after_s = FILL_S if after_s is None else after_s
        self._timer = asyncio.get_running_loop().call_later(after_s, self._go_on)

    def _go_on(self) -> None:
        """Begin at most one turn: its link runs before the next one begins, and uses some of the budget."""
        self._timer = None
        self.budget.fill(time.monotonic())
        turn = self.budget.take_turn()
        if turn is not None and not turn.done():
            turn.set_result(None)
        self.set_timer()

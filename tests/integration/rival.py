"""Another client that sets a VM's polling interval and records its changes."""

import threading
import time
from dataclasses import dataclass
from types import TracebackType

from tests.lab import qemu

LOOKS_EVERY_S = 0.02


@dataclass(frozen=True)
class Turn:
    """A change of the interval since the previous check."""

    at_s: float  # monotonic
    interval_s: int
    ours: bool  # set by this client itself


class Rival:
    """Holds a VM's second monitor, and checks the interval 50 times per second.

    If it `insists` on a value, it sets that value again as soon as it finds another one.
    """

    def __init__(self, vm: qemu.Vm, insists: int | None = None) -> None:
        self._monitor = vm.monitor()
        self._wish: list[int] = []
        self.insists = insists
        self.turns: list[Turn] = []
        self.updates: list[int] = []  # each `last-update` seen
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"rival of {vm.name}")

    def set(self, interval_s: int) -> None:
        """Set the interval once, at the next check."""
        self._wish.append(interval_s)

    def writes(self) -> list[Turn]:
        """Return the changes that other clients made."""
        return [turn for turn in self.turns[1:] if not turn.ours]

    @property
    def interval_s(self) -> int:
        """The interval at the last check."""
        return self.turns[-1].interval_s

    def _run(self) -> None:
        last = self._monitor.interval_s()
        self.turns.append(Turn(time.monotonic(), last, ours=False))
        while not self._ending.wait(LOOKS_EVERY_S):
            now = self._monitor.interval_s()
            updated_s, _ = self._monitor.guest_stats()
            if updated_s and updated_s not in self.updates[-1:]:
                self.updates.append(updated_s)
            if now != last:
                self.turns.append(Turn(time.monotonic(), now, ours=False))
                last = now
            wish = self._wish.pop(0) if self._wish else self.insists
            if wish is not None and wish != now:
                self._monitor.set_interval(wish)
                self.turns.append(Turn(time.monotonic(), wish, ours=True))
                last = wish

    def __enter__(self) -> "Rival":
        self._thread.start()
        deadline_s = time.monotonic() + 60
        while not self.turns and time.monotonic() < deadline_s:
            time.sleep(0.001)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._monitor.close()

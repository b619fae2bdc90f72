"""Drives one poller without I/O: events in, effects out, and time is a number."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.core.address import MonitorPath
from agent.core.events import (
    NOTHING_GIVEN,
    ActualRead,
    Answered,
    Ask,
    Checked,
    CloseLink,
    Done,
    Effect,
    EmitSample,
    EmitState,
    Event,
    Given,
    Introduced,
    MonitorEvent,
    MonitorEventKind,
    Opened,
    OpenLink,
    Question,
    Tick,
)
from agent.core.poller import SECOND_NS, PollSettings, begin
from agent.core.polling import Poller, step, wakeup_at
from agent.core.reading import Access, Now, Peer, Reading, Sample, SocketMark, StateEvent, VmId

LATE_NS = 1_000
"""How late a loop's timer fires. A poller that asks for a wake-up in the past would spin."""

WALL_MS = 1_795_400_000_000
MARK = SocketMark(1, 2, 3)
MIB = 1 << 20


def reading(last_update_s: int, **statistics: int) -> Reading:
    return Reading(last_update_s, statistics or {"free_memory": 10 * MIB + last_update_s})


@dataclass
class Story:
    """A poller with a clock, a simulated QEMU that answers it, and all of its effects."""

    settings: PollSettings = field(default_factory=lambda: PollSettings(interval_s=1))
    access: Access = Access.HOLD
    now_ns: int = 1_000 * SECOND_NS
    wall_ms: int = WALL_MS
    mark: SocketMark = MARK
    uuid: str | None = "5f0c0000-0000-0000-0000-000000000001"
    run_state: str = "running"
    balloon_path: str | None = "/machine/peripheral/balloon0"
    interval_s: int = 1
    reading: Reading = field(default_factory=lambda: reading(0))
    mute: bool = False  # QEMU answers nothing
    effects: list[Effect] = field(default_factory=list[Effect])
    asked: list[Ask] = field(default_factory=list[Ask])

    given: Given = NOTHING_GIVEN
    peer: Peer | None = None
    resident_bytes: int | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(7)
        self.poller: Poller = begin(MonitorPath("/run/vm/a.qmp"), VmId("path-id"), self.access)

    @property
    def now(self) -> Now:
        return Now(self.now_ns, self.wall_ms + (self.now_ns - 1_000 * SECOND_NS) // 1_000_000)

    @property
    def unix_s(self) -> int:
        return self.now.unix_ms // 1000

    def feed(self, event: Event) -> list[Effect]:
        """Apply an event, and answer all questions that follow; return all effects."""
        done = step(
            self.poller, event, now=self.now, chance=self.random.getrandbits(128), settings=self.settings
        )
        self.poller = done.poller
        self.effects += done.effects
        new = list(done.effects)
        for effect in done.effects:
            answer = self.answer(effect)
            if answer is not None:
                new += self.feed(answer)
        return new

    def answer(self, effect: Effect) -> Event | None:
        if isinstance(effect, Ask):
            self.asked.append(effect)
        if self.mute:
            return None
        match effect:
            case OpenLink():
                return Opened(self.mark, peer=self.peer)
            case Ask(question=Question.INTRODUCE):
                interval_s = None if self.balloon_path is None else self.interval_s
                return Introduced(
                    self.uuid, "web-3", self.run_state, self.balloon_path, interval_s, 128 * MIB, self.given
                )
            case Ask(question=Question.READ):
                return Answered(self.reading, self.resident_bytes)
            case Ask(question=Question.CHECK):
                interval_s = None if self.balloon_path is None else self.interval_s
                return Checked(self.run_state, self.balloon_path, interval_s, self.given)
            case Ask(question=Question.ACTUAL):
                return ActualRead(128 * MIB)
            case Ask(question=Question.SET_INTERVAL, interval_s=int(interval_s)):
                self.interval_s = interval_s
                return Done()
            case Ask(question=Question.CLAIM | Question.REMEMBER):
                return Done()
            case _:
                return None

    def start(self) -> "Story":
        """Take the first step."""
        self.feed(Tick())
        return self

    def pass_s(self, seconds: float) -> None:
        """Let time pass, and wake the poller whenever it asks for it."""
        until_ns = self.now_ns + int(seconds * SECOND_NS)
        for _ in range(100_000):
            at_ns = wakeup_at(self.poller, self.settings)
            if at_ns is None or at_ns > until_ns:
                break
            self.now_ns = max(self.now_ns, at_ns) + LATE_NS
            before = self.poller
            self.feed(Tick())
            assert self.poller != before, f"nothing changed in the wake-up at {at_ns}"
        else:
            raise AssertionError("the poller never sleeps")
        self.now_ns = max(self.now_ns, until_ns)

    def run_s(self, seconds: int, *, step_s: int = 1) -> None:
        """Let the guest update at each interval while time passes."""
        for _ in range(seconds // step_s):
            self.update()
            self.pass_s(step_s)

    def update(self, **statistics: int) -> None:
        """Let the guest send an update now."""
        self.reading = reading(self.unix_s, **statistics)

    def hear(self, kind: MonitorEventKind) -> None:
        self.feed(MonitorEvent(kind))

    @property
    def samples(self) -> Sequence[Sample]:
        return [effect.sample for effect in self.effects if isinstance(effect, EmitSample)]

    @property
    def states(self) -> Sequence[StateEvent]:
        return [effect.event for effect in self.effects if isinstance(effect, EmitState)]

    @property
    def words(self) -> list[tuple[str, str]]:
        """Return the states and reasons, without heartbeats."""
        return [(each.state.value, str(each.reason)) for each in self.states if not each.heartbeat]

    @property
    def closed(self) -> bool:
        return any(isinstance(effect, CloseLink) for effect in self.effects)


def reporting(**how: object) -> Story:
    """Return the story of a VM that has reported for some seconds; `how` has the fields of `Story`."""
    story = Story(**how)  # pyrefly: ignore[bad-argument-type]
    story.update()
    story.start()
    story.run_s(5)
    assert story.words[-1] == ("reporting", "advancing")
    return story

"""Stories that run through the core.

Only this file and documents.py name the types of the core and of the contract, so that a rename touches two
files. The recorded files have their own names, which must not change.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from msgspec import structs

from agent.contract.payloads import Agent
from agent.core.address import MonitorPath, parse_address
from agent.core.events import (
    Ask,
    Duplicate,
    Effect,
    Event,
    LinkFailed,
    MonitorEventKind,
    PathMissing,
    PathSeen,
    Question,
    Refused,
)
from agent.core.memory import Memory
from agent.core.poller import PollSettings, begin, remember
from agent.core.polling import step
from agent.core.reading import Access, IntervalPolicy, SocketMark
from agent.errors import LinkFault
from agent.runtime.fleet import path_id
from agent.spool.format import decode_memory, encode_memory
from tests.unit.core.driving import Story, reading

HOST_ID = "4c4c4544-0042-4d10-8033-b4c04f4e3332"
AGENT = Agent(HOST_ID, "node-7", "01926d2e-8f00-7000-8000-000000000001", "0.0.0-golden")

MONITOR = "/run/vm/a.qmp"
DOMAIN_UUID = "7d1f0000-0000-4000-8000-00000000000d"
DOMAIN = f"qemu:///system#{DOMAIN_UUID}"
DOMAIN_MARK = SocketMark(0x5EED, 12, 0)
OTHER_MARK = SocketMark(1, 2, 99)

SETTINGS_10_S = PollSettings(interval_s=10)


@dataclass
class Told(Story):
    """A story that keeps each effect with its time and the memory after it."""

    path: str = MONITOR
    given_name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    before: Memory | None = None
    answering: Callable[["Told", Effect], Event | None] | None = None  # instead of QEMU, unless `None`
    told: list[tuple[int, Effect, Memory]] = field(default_factory=list[tuple[int, Effect, Memory]])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.begun_ns = self.now_ns
        address = parse_address(self.path)
        self.poller = begin(
            address,
            path_id(HOST_ID, address),
            self.access,
            name=self.given_name,
            labels=self.labels,
            before=self.before,
        )

    def feed(self, event: Event) -> list[Effect]:
        chance = Random(self.now_ns).getrandbits(128)  # depends on the time, not on the number of steps
        done = step(self.poller, event, now=self.now, chance=chance, settings=self.settings)
        self.poller = done.poller
        self.effects += done.effects
        self.told += [(self.now_ns - self.begun_ns, each, remember(self.poller)) for each in done.effects]
        for effect in done.effects:
            answer = self.answer(effect)
            if answer is not None:
                self.feed(answer)
        return list(done.effects)

    def answer(self, effect: Effect) -> Event | None:
        given = None if self.answering is None else self.answering(self, effect)
        return super().answer(effect) if given is None else given

    def fail(self, fault: LinkFault, detail: str) -> None:
        """End the link, or the attempt to open it."""
        self.mute = True
        self.feed(LinkFailed(fault, detail))

    def stop(self) -> None:
        """Pause the VM."""
        self.run_state = "paused"
        self.hear(MonitorEventKind.STOP)

    def be_silent(self, detail: str) -> None:
        """Fail as with a listener that accepts the connection but sends no greeting."""
        self.fail(LinkFault.SILENT, detail)

    @property
    def memory(self) -> Memory:
        """What the agent remembers about the VM now."""
        return remember(self.poller)


def is_asked(effect: Effect, question: Question) -> bool:
    return isinstance(effect, Ask) and effect.question is question


# --- the stories ---


def first_samples() -> Told:
    story = Told()
    story.start()
    story.pass_s(1)
    story.run_s(4)
    return story


def cadence() -> Told:
    story = Told(settings=SETTINGS_10_S, interval_s=10)
    story.start()
    story.run_s(50, step_s=10)
    story.pass_s(25)
    story.run_s(20, step_s=10)
    return story


def named_by_its_path() -> Told:
    story = Told(uuid=None, given_name="vm-7", labels={"vmid": "107", "node": "pve"})
    story.update(free_memory=1, total_memory=2, major_faults=3)
    story.start()
    story.run_s(2)
    return story


def reboot() -> Told:
    story = reporting()
    story.hear(MonitorEventKind.RESET)
    story.hear(MonitorEventKind.RESET)
    story.pass_s(8)
    story.run_s(2)
    return story


def pause() -> Told:
    story = reporting()
    story.stop()
    story.pass_s(90)
    story.run_state = "running"
    story.hear(MonitorEventKind.RESUME)
    story.run_s(2)
    story.run_state = "suspended"
    story.hear(MonitorEventKind.SUSPEND)
    story.pass_s(20)
    story.run_state = "running"
    story.hear(MonitorEventKind.WAKEUP)
    story.run_s(2)
    story.run_state = "paused"
    story.hear(MonitorEventKind.LOST)
    story.pass_s(1)
    return story


def stall() -> Told:
    story = reporting()
    story.pass_s(20)
    story.run_s(3)
    return story


def no_balloon() -> Told:
    story = Told(balloon_path=None)
    story.start()
    story.pass_s(25)
    story.balloon_path = "/machine/peripheral/balloon0"
    story.run_s(7)
    story.balloon_path = None
    story.hear(MonitorEventKind.DEVICE_DELETED)
    story.pass_s(2)
    return story


def interval_contended() -> Told:
    story = Told(interval_s=0)
    story.update()
    story.start()
    for seconds in (31, 61, 95):
        story.interval_s = 0
        story.pass_s(seconds)
    return story


def interval_enforced() -> Told:
    story = Told(settings=PollSettings(interval_s=2, policy=IntervalPolicy.ENFORCE), interval_s=7)
    story.update()
    story.start()
    story.pass_s(2)
    story.interval_s = 5
    story.pass_s(31)
    return story


def interval_observed() -> Told:
    story = Told(settings=PollSettings(interval_s=1, policy=IntervalPolicy.OBSERVE), interval_s=0)
    story.reading = reading(story.unix_s - 5_000)
    story.start()
    story.pass_s(70)
    return story


def interval_refused() -> Told:
    def refuse(_: Told, effect: Effect) -> Event | None:
        return Refused("disk full") if is_asked(effect, Question.REMEMBER) else None

    story = Told(interval_s=0, answering=refuse)
    story.update()
    story.start()
    story.pass_s(31)
    return story


def duplicate() -> Told:
    def claimed(story: Told, effect: Effect) -> Event | None:
        is_taken = is_asked(effect, Question.CLAIM) and story.now_ns < story.begun_ns + 40 * 10**9
        return Duplicate(MonitorPath("/run/vm/first.qmp")) if is_taken else None

    story = Told(answering=claimed)
    story.update()
    story.start()
    story.pass_s(65)
    story.run_s(2)
    return story


def share() -> Told:
    story = reporting(access=Access.SHARE)
    story.mute = True
    story.pass_s(1)
    story.fail(LinkFault.SILENT, "no greeting")
    story.pass_s(3.5)
    story.fail(LinkFault.BUSY, "somebody waits")
    story.mute = False
    story.update()
    story.pass_s(1.5)
    story.run_s(3)
    return story


def held_by_others() -> Told:
    story = Told(mute=True)
    story.start()
    for _ in range(3):
        story.fail(LinkFault.SILENT, "no greeting")
        story.pass_s(130)
    story.mute = False
    story.update()
    story.pass_s(250)
    story.run_s(2)
    return story


def no_answer() -> Told:
    story = reporting()
    story.mute = True
    story.pass_s(10)
    story.mute = False
    story.update()
    late = story.answer(Ask(Question.READ))
    assert late is not None
    story.feed(late)
    story.run_s(2)
    return story


def gone_and_replaced() -> Told:
    story = reporting()
    story.fail(LinkFault.HUNG_UP, "hung up")
    story.fail(LinkFault.HUNG_UP, "its listener is still there")
    story.pass_s(0.1)
    story.fail(LinkFault.REFUSED, "refused")
    story.mute, story.mark = False, OTHER_MARK
    story.reading = reading(0)
    story.feed(PathSeen(story.mark))
    story.run_s(2)
    return story


def hangs_up_again_and_again() -> Told:
    story = reporting()
    for _ in range(6):
        story.fail(LinkFault.HUNG_UP, "hung up")
        story.pass_s(0.25)
    return story


def removed_and_back() -> Told:
    before = reporting()
    before.feed(PathMissing())
    before.fail(LinkFault.HUNG_UP, "hung up")
    story = Told(mark=OTHER_MARK, before=before.memory, now_ns=before.now_ns + 7 * 10**9)
    story.update()
    story.start()
    story.run_s(2)
    story.told = before.told + story.told
    return story


def restarted() -> Told:
    before = reporting()
    # The next run reads it from the spool like this.
    memory = structs.replace(decode_memory(encode_memory(before.memory)), sequence=0)
    story = Told(before=memory, now_ns=before.now_ns + 10 * 10**9)
    story.update()
    story.start()
    story.run_s(2)
    story.told = before.told + story.told
    return story


def every_statistic_unset() -> Told:
    story = Told()
    story.reading = structs.replace(reading(story.unix_s), statistics={}, unset=frozenset({"free_memory"}))
    story.start()
    story.pass_s(2)
    return story


def counters_fall() -> Told:
    story = Told(access=Access.SHARE)
    for faults in (1_000, 1_010, 10, 20):
        story.update(minor_faults=faults, free_memory=5)
        if not story.told:
            story.start()
        story.pass_s(1)
    story.update(free_memory=5)
    story.pass_s(1)
    return story


def clock_set_back() -> Told:
    story = reporting()
    story.wall_ms -= 3_600_000
    story.run_s(2)
    return story


def heartbeats() -> Told:
    story = reporting(settings=PollSettings(interval_s=1, heartbeat_ns=10 * 10**9))
    story.run_s(7)
    return story


def domain() -> Told:
    story = Told(
        path=DOMAIN, uuid=DOMAIN_UUID, mark=DOMAIN_MARK, balloon_path="balloon0", interval_s=0,
        settings=PollSettings(interval_s=1, heartbeat_ns=5 * 10**9),
    )  # fmt: skip
    story.update(free_memory=1024, total_memory=4096, available_memory=2048)
    story.start()
    story.run_s(7)
    story.stop()
    story.pass_s(7)
    story.feed(PathMissing())
    story.fail(LinkFault.HUNG_UP, "libvirt says: it was shut down")
    return story


def reporting(**how: object) -> Told:
    """Return the story of a VM that has reported for three seconds."""
    story = Told(**how)  # pyrefly: ignore[bad-argument-type]
    story.update()
    story.start()
    story.run_s(3)
    return story


STORIES: tuple[Callable[[], Told], ...] = (
    first_samples, cadence, named_by_its_path, reboot, pause, stall, no_balloon, interval_contended,
    interval_enforced, interval_observed, interval_refused, duplicate, share, held_by_others, no_answer,
    gone_and_replaced, hangs_up_again_and_again, removed_and_back, restarted, every_statistic_unset,
    counters_fall, clock_set_back, heartbeats, domain,
)  # fmt: skip
STRUCTURED = (domain, reboot)
"""The stories that are recorded in the structured mode too."""

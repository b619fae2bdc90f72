"""Tests of the quality job: the conditions of VMs and hosts, by records and by timers."""

import json
from typing import Any
from uuid import UUID

import pytest

from barograph_streams.core.documents import Outcome
from barograph_streams.core.quality_job import HEARTBEAT_MS, QualityJob
from barograph_streams.core.steps import Step
from barograph_streams.core.validity import ALLOWANCE_MS, GRACE_MS, VIEWS_KEPT
from tests.contract.schema_files import examples, load
from tests.unit.streams.making import make, redeliver, vm_id

T0_MS = 1_795_404_000_000
HEARTBEAT_BY_MS = 330_000
VM, HOST = vm_id(0), "9b1d4c1f0e6a4f0fa1f6f1c6c9a4b7d2"
STALLED: dict[str, Any] = next(load(path) for path in examples("state", "valid") if path.stem == "stalled")
AGENT: dict[str, Any] = next(load(path) for path in examples("agent", "valid") if path.stem == "degraded")


class World:
    """The job with one key and a clock."""

    def __init__(self, key: str) -> None:
        self.key, self.now_ms, self.job = key, T0_MS, QualityJob()
        self.kept: bytes | None = None
        self.timers: list[int] = []
        self.written: list[dict[str, Any]] = []

    def read(self, value: bytes) -> Outcome:
        stepped = self.job.step(self.kept, self.key, value, self.now_ms)
        self._keep(stepped)
        return stepped.outcome

    def wait(self, ms: int, *, down: bool = False) -> None:
        """Let time pass; `down`: the job does not run meanwhile, and due timers fire at the end."""
        end_ms = self.now_ms + ms
        while self.timers and min(self.timers) <= end_ms:
            due_ms = min(self.timers)
            self.timers.remove(due_ms)
            self.now_ms = end_ms if down else max(self.now_ms, due_ms)
            self._keep(self.job.on_timer(self.kept, self.key, self.now_ms))
        self.now_ms = end_ms

    def _keep(self, stepped: Step) -> None:
        self.kept = stepped.state or self.kept
        self.timers += [] if stepped.timer_ms is None else [stepped.timer_ms]
        self.written += [json.loads(record.value) for record in stepped.records]
        assert len(self.timers) <= 1

    @property
    def conditions(self) -> list[str]:
        return [each["condition"] for each in self.written if not each["heartbeat"]]


def state(
    now_ms: int,
    sequence: int,
    name: str = "reporting",
    *,
    reason: str = "updates",
    host: str = HOST,
    **more: Any,
) -> bytes:
    document = STALLED | {
        "vm": {**STALLED["vm"], "id": VM, "uuid": VM},
        "host": {"id": host, "name": "n"},
        "state": name,
        "reason": reason,
        "sequence": sequence,
        "observed_at_ms": now_ms,
        "next_heartbeat_by_ms": now_ms + HEARTBEAT_BY_MS,
    }
    return json.dumps(document | more).encode()


def agent(now_ms: int, sequence: int) -> bytes:
    more = {"sequence": sequence, "observed_at_ms": now_ms, "next_heartbeat_by_ms": now_ms + HEARTBEAT_BY_MS}
    return json.dumps(AGENT | more).encode()


def test_a_silent_guest_has_its_state_and_reason() -> None:
    world = World(VM)
    world.read(state(world.now_ms, 1))
    world.read(state(world.now_ms, 2, "stalled", reason="no_advance"))
    world.read(state(world.now_ms, 3, "paused", reason="paused"))
    world.read(state(world.now_ms, 4))

    assert world.conditions == ["reporting", "silent", "silent", "reporting"]
    assert [each["reason"] for each in world.written[1:3]] == ["no_advance", "paused"]
    assert world.written[1]["previous_condition"] == "reporting"


def test_a_vm_is_void_once_its_state_is_and_not_before() -> None:
    world = World(VM)
    world.read(state(world.now_ms, 1))
    world.wait(HEARTBEAT_BY_MS)
    assert world.conditions == ["reporting"]

    world.wait(ALLOWANCE_MS)
    assert world.conditions == ["reporting", "void"]


def test_heartbeats_in_time_keep_a_vm() -> None:
    world = World(VM)
    for sequence in range(1, 20):
        world.read(state(world.now_ms, sequence))
        world.wait(300_000)

    assert world.conditions == ["reporting"]
    heartbeats = [each for each in world.written if each["heartbeat"]]
    assert len(heartbeats) == 18 * 300_000 // HEARTBEAT_MS


def test_a_vm_that_is_gone_is_never_void() -> None:
    world = World(VM)
    world.read(state(world.now_ms, 1))
    world.read(state(world.now_ms, 2, "gone", reason="socket_gone"))
    world.wait(100 * HEARTBEAT_BY_MS)

    assert world.conditions == ["reporting", "gone"]


def test_gone_counts_even_if_it_arrives_late() -> None:
    world = World(VM)
    world.read(state(world.now_ms - 10 * HEARTBEAT_BY_MS, 1, "gone", reason="socket_gone"))

    assert world.conditions == ["gone"]


def test_a_host_is_dark_after_its_heartbeat_and_returns() -> None:
    world = World(HOST)
    world.read(agent(world.now_ms, 1))
    world.wait(HEARTBEAT_BY_MS + ALLOWANCE_MS)
    world.read(agent(world.now_ms, 2))

    assert world.conditions == ["reporting", "dark", "reporting"]
    assert "vm" not in world.written[0]


def test_a_backlog_of_states_is_not_taken_for_current_states() -> None:
    """The host stays dark until the backlog has been delivered."""
    world = World(HOST)
    world.read(agent(world.now_ms, 1))
    world.wait(5 * HEARTBEAT_BY_MS)
    for sequence in range(2, 5):
        world.read(agent(world.now_ms - 4 * HEARTBEAT_BY_MS, sequence))
        world.wait(1_000)
    assert world.conditions == ["reporting", "dark"]

    world.read(agent(world.now_ms, 5))
    assert world.conditions == ["reporting", "dark", "reporting"]


def test_a_job_that_begins_with_old_states_reports_dark_only_if_no_newer_ones_follow() -> None:
    followed, alone = World(HOST), World(HOST)
    for world in (followed, alone):
        world.read(agent(world.now_ms - 10 * HEARTBEAT_BY_MS, 1))
        world.wait(GRACE_MS // 2)
    followed.read(agent(followed.now_ms, 2))
    for world in (followed, alone):
        world.wait(GRACE_MS)

    assert followed.conditions == ["reporting"]
    assert alone.conditions == ["dark"]


def test_after_the_job_was_down_nothing_is_judged_until_it_has_caught_up() -> None:
    world = World(VM)
    world.read(state(world.now_ms, 1))
    world.wait(3 * HEARTBEAT_BY_MS, down=True)
    world.read(state(world.now_ms, 4))
    world.wait(GRACE_MS)

    assert world.conditions == ["reporting"]


def test_a_migration_does_not_make_a_vm_silent() -> None:
    """The source's states, paused and gone, mix with the target's in any order."""
    world = World(VM)
    world.read(state(world.now_ms, 1))
    world.read(state(world.now_ms, 1, "paused", reason="inmigrate", host="b"))
    world.read(state(world.now_ms, 2, host="b"))
    world.read(state(world.now_ms, 2, "paused", reason="postmigrate"))
    world.read(state(world.now_ms, 3, "gone", reason="socket_gone"))
    world.wait(60_000)

    assert world.conditions == ["reporting"]
    assert world.written[0]["host"]["id"] == HOST


def test_repeats_and_redelivered_states_change_nothing() -> None:
    world = World(VM)
    world.read(state(world.now_ms, 2))

    assert world.read(state(world.now_ms, 2, "stalled")) is Outcome.REPEAT
    assert world.read(state(world.now_ms, 1, "stalled")) is Outcome.REPEAT
    assert world.read(state(world.now_ms, 3, "stalled", redelivered=True)) is Outcome.REDELIVERED
    assert world.conditions == ["reporting"]


def test_a_new_run_of_the_agent_counts_from_1() -> None:
    world = World(VM)
    world.read(state(world.now_ms, 9))

    assert world.read(state(world.now_ms, 1, "waiting", run=str(UUID(int=7)))) is Outcome.KEPT
    assert world.conditions == ["reporting", "silent"]


def test_the_samples_of_a_vm_are_counted() -> None:
    world = World(VM)
    for made in (make(1), make(1), make(4), redeliver(make(2))):
        world.read(made.value)
    world.read(state(world.now_ms, 1))

    (written,) = world.written
    assert written["samples"] == {"kept": 3, "repeats": 1, "redelivered": 1, "lost": 1, "missed_at_most": 0}


@pytest.mark.parametrize("key", ["x", HOST])
def test_a_record_under_another_key_is_a_dead_letter(key: str) -> None:
    world = World(key)

    assert world.read(state(world.now_ms, 1)) is Outcome.KEY
    assert world.read(make(1).value) is Outcome.KEY


def test_a_state_of_a_vm_that_is_not_known_is_left_out() -> None:
    world = World(HOST)
    unknown = state(world.now_ms, 1, "unreachable", vm={"path": "/run/vm/a.qmp"})

    assert world.read(unknown) is Outcome.UNIDENTIFIED
    assert world.written == []


def test_the_states_of_a_vm_are_bounded() -> None:
    world = World(VM)
    for number in range(5 * VIEWS_KEPT):
        world.read(state(world.now_ms, 1, host=f"{number:032}"))

    assert world.kept is not None
    assert len(world.kept) < 2048

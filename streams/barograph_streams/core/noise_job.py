"""The noisy-guest job: a record when a VM begins or ceases to disturb its neighbors, and while it does."""

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from barograph_streams.core.documents import Host
from barograph_streams.core.facts import HostFact, VmFact
from barograph_streams.core.host_steps import HostSteps
from barograph_streams.core.noise import (
    CALM_MS,
    NOISY,
    QUIET,
    ROUNDS,
    UNKNOWN,
    Finding,
    Round,
    VmNoise,
    baseline_of,
    demand_of,
    finding_of,
    footprint_of,
    round_of,
)
from barograph_streams.core.records import Record, event_headers

TOPIC = "barograph.vm.noisy-guest"

HEARTBEAT_MS = 900_000
"""A VM that stays noisy is written again after so much time of its host's clock."""


class Memory(Struct, array_like=True, frozen=True):
    """What the job keeps of one host."""

    host: HostFact
    rounds: tuple[Round, ...]
    vms: dict[str, VmNoise]
    written_ms: dict[str, int]  # of noisy VMs, the newest record
    sequence: int = 0  # of the host's records


class Id(Struct, frozen=True):
    """A VM."""

    id: str


class NoiseDocument(Struct, frozen=True, omit_defaults=True):
    """The value of a record: schemas/noisy-guest describes it."""

    schema: str
    vm: Id
    host: Host
    sequence: int
    observed_at_ms: int
    level: str
    previous_level: str | UnsetType
    since_ms: int
    heartbeat: bool
    share: float | UnsetType = UNSET
    bytes_per_s: float | UnsetType = UNSET
    baseline_bytes_per_s: float | UnsetType = UNSET
    host_stalled: float | UnsetType = UNSET
    pressed_rounds: int | UnsetType = UNSET
    confidence: float | UnsetType = UNSET


_encoder = msgspec.json.Encoder()


class NoiseJudge:
    """What the job decides."""

    def judge(
        self, memory: Memory | None, host: HostFact, vms: Mapping[str, VmFact]
    ) -> tuple[Memory, tuple[Record, ...]]:
        """Return what is kept of a host after a record of its memory, and the records that are due."""
        here = {name: vm for name, vm in vms.items() if vm.counted}
        before = {} if memory is None else memory.vms
        growth = sum(_growth(before[name], vm) for name, vm in here.items() if name in before)
        newest = None if memory is None else round_of(memory.host, host, growth)
        rounds = () if memory is None or newest is None else (*memory.rounds, newest)[-ROUNDS:]
        now = {name: _followed(before.get(name), vm, newest) for name, vm in here.items()}
        records: list[Record] = []
        sequence = 0 if memory is None else memory.sequence
        written_ms: dict[str, int] = {}
        for name, noise in now.items():
            found = finding_of(rounds, noise, now)
            now[name] = after = _judged(noise, found, host.at_ms)
            last_ms = None if memory is None else memory.written_ms.get(name)
            is_due = last_ms is None or not 0 <= host.at_ms - last_ms < HEARTBEAT_MS
            if after.level != noise.level or (after.level == NOISY and is_due):
                sequence += 1
                records.append(_record(name, host, host.at_ms, sequence, after, noise.level, found))
                last_ms = host.at_ms
            if after.level == NOISY and last_ms is not None:
                written_ms[name] = last_ms
        for name in () if memory is None else sorted(memory.written_ms.keys() - here.keys()):
            sequence += 1  # it has ended or migrated
            records.append(_unknown(name, host, host.at_ms, sequence))
        return Memory(host, rounds, now, written_ms, sequence), tuple(records)

    def void(self, memory: Memory, host: HostFact, now_ms: int) -> tuple[Memory, tuple[Record, ...]]:
        """Return the same after the host's newest record has become void: nothing is known of its VMs."""
        records = tuple(
            _unknown(name, host, now_ms, memory.sequence + place)
            for place, name in enumerate(memory.written_ms, 1)
        )
        return Memory(host, (), {}, {}, memory.sequence + len(records)), records


def _growth(before: VmNoise, vm: VmFact) -> int:
    return 0 if before.resident is None or vm.resident is None else vm.resident - before.resident


def _followed(before: VmNoise | None, vm: VmFact, newest: Round | None) -> VmNoise:
    """Return what is kept of a VM after a round, before it is judged."""
    kept = before or VmNoise(None, None, "", None, 0, ())
    demand = demand_of(kept, vm)
    guest = vm.guest
    is_quiet = newest is not None and not newest.is_pressed
    return replace(
        kept,
        footprint=footprint_of(vm),
        resident=vm.resident,
        epoch="" if guest is None else guest.epoch,
        swapped=None if guest is None else guest.swapped,
        at_ms=vm.at_ms,
        demands=() if newest is None else (*kept.demands, demand)[-ROUNDS:],
        baseline=baseline_of(kept.baseline, demand, newest.ms) if newest and is_quiet else kept.baseline,
    )


def _judged(noise: VmNoise, found: Finding, now_ms: int) -> VmNoise:
    """Return a VM with its level: noisy at once, and quiet after a time without the condition."""
    held_ms = now_ms if found.holds else noise.held_ms
    level = NOISY if found.holds else noise.level
    if level == NOISY and not 0 <= now_ms - held_ms < CALM_MS:
        level = QUIET
    return replace(
        noise, level=level, held_ms=held_ms, since_ms=noise.since_ms if level == noise.level else now_ms
    )


def _record(
    vm: str, host: HostFact, at_ms: int, sequence: int, noise: VmNoise, before: str, found: Finding
) -> Record:
    return _written(
        NoiseDocument(
            schema="barograph.vm.noisy-guest/1.0",
            vm=Id(vm),
            host=host.host,
            sequence=sequence,
            observed_at_ms=at_ms,
            level=noise.level,
            previous_level=UNSET if before == noise.level else before,
            since_ms=noise.since_ms,
            heartbeat=before == noise.level,
            share=found.share,
            bytes_per_s=found.bytes_per_s,
            baseline_bytes_per_s=UNSET if found.baseline is None else found.baseline,
            host_stalled=found.stalled,
            pressed_rounds=found.pressed,
            confidence=found.confidence,
        )
    )


def _unknown(vm: str, host: HostFact, at_ms: int, sequence: int) -> Record:
    return _written(
        NoiseDocument(
            schema="barograph.vm.noisy-guest/1.0",
            vm=Id(vm),
            host=host.host,
            sequence=sequence,
            observed_at_ms=at_ms,
            level=UNKNOWN,
            previous_level=NOISY,
            since_ms=at_ms,
            heartbeat=False,
        )
    )


def _written(document: NoiseDocument) -> Record:
    vm = document.vm.id
    headers = event_headers(
        "noisy-guest",
        kind="vm.noisy-guest",
        schema="noisy-guest",
        id=f"{vm}/{document.host.id}/{document.observed_at_ms}/{document.sequence}",
        key=vm,
        subject=vm,
        time_ms=document.observed_at_ms,
        sequence=document.sequence,
    )
    return Record(TOPIC, vm.encode(), _encoder.encode(document), headers)


STEPS = HostSteps(NoiseJudge(), Memory)

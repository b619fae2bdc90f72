"""Streams of records with everything that the contract allows, and what the jobs make of them."""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from agent.contract.encode import Mode
from agent.core.reading import Origin
from barograph_streams.core.pressure_job import JOB
from tests.unit.streams.making import T0_S, Made, make, redeliver

Sent = tuple[str, bytes]
"""Key and value of a record."""

_LAST_UPDATE = re.compile(rb'"last_update":(\d+)')

GARBAGE = (b"", b"{", b"[]", b'{"schema":"barograph.vm.sample/2.0"}', b'{"schema":"barograph.vm.sample/1.0"}')


def mixed(seed: int, vms: int, samples: int, step_s: int = 20, first_vm: int = 0) -> list[Sent]:
    """Return the records of some VMs as they arrive.

    There are repeats, gaps, new epochs, redelivered samples, migrations, both modes and garbage. Each VM is
    short of memory for a part of the time.
    """
    chance = random.Random(seed)
    queues = [list(_of_vm(chance, vm, samples, step_s)) for vm in range(first_vm, first_vm + vms)]
    order = [queue for queue in queues for _ in queue]
    chance.shuffle(order)
    stream: list[Sent] = []
    for queue in order:
        made = queue.pop(0)
        stream.append((made.key, made.value))
        if chance.random() < 0.01:
            stream.append((chance.choice([made.key, "", "x"]), chance.choice(GARBAGE)))
    return stream


def _of_vm(chance: random.Random, vm: int, samples: int, step_s: int) -> Iterator[Made]:
    mode = chance.choice(list(Mode))
    start, end = sorted(chance.sample(range(samples), 2))
    epoch, sequence, host, faults, kills, kept = 1000 * vm, 0, vm % 2, 0, 0, list[Made]()
    previous: tuple[int, int] | None = None
    for place in range(samples):
        if chance.random() < 0.02 and sequence:  # a reboot, or a migration
            moved = chance.random() < 0.5
            previous, host = (None, 1 - host) if moved else ((epoch, sequence), host)
            epoch, sequence, faults, kills = epoch + 1, 0, 0, 0
        sequence += 1
        short = start <= place < end
        faults += 2_000 if short else 0
        kills += chance.random() < 0.005
        made = make(
            sequence,
            vm=vm,
            epoch=epoch,
            host=host,
            previous=previous,
            last_update_s=T0_S + step_s * place,
            origin=Origin.UNSOLICITED if sequence == 1 else Origin.POLL,
            statistics={
                "available_memory": 10_000_000 if short else 600_000_000,
                "total_memory": 1_000_000_000,
                "major_faults": faults,
                "oom_kills": kills,
            },
            mode=mode,
        )
        previous = None
        kept.append(made)
    lost = {place for place in range(1, samples - 1) if chance.random() < 0.03}
    again = {place: redeliver(kept[place]) for place in lost if chance.random() < 0.5}
    for place, made in enumerate(kept):
        if place not in lost:
            yield made
            if chance.random() < 0.03:
                yield from kept[max(0, place - 2) : place + 1]
        if place - 5 in again:
            yield again.pop(place - 5)


def later_versions(stream: Iterable[Sent], seed: int) -> list[Sent]:
    """Return the records, a tenth of them of a later minor version with an unknown field."""
    chance = random.Random(seed)
    now, later = b'"schema":"barograph.vm.sample/1.0"', b'"schema":"barograph.vm.sample/1.7","color":[{}]'
    changed: list[Sent] = []
    for key, value in stream:
        is_later = value not in GARBAGE and chance.random() < 0.1
        changed.append((key, value.replace(now, later) if is_later else value))
    return changed


def an_hour_behind(stream: Iterable[Sent], host: str) -> list[Sent]:
    """Return the records in the order of arrival, with those of one host an hour behind all others.

    The records of a VM and host stay in order. After a migration, the last samples of the source may follow
    the first ones of the target.
    """
    arrivals: list[tuple[int, Sent]] = []
    newest_s: dict[tuple[str, str], int] = {}
    for key, value in stream:
        found = _LAST_UPDATE.search(value)
        if found is None or value in GARBAGE:
            arrivals.append((arrivals[-1][0] if arrivals else T0_S, (key, value)))
            continue
        is_late = host.encode() in value
        at_s = int(found[1]) + (3_600 if is_late else 0)
        place = (key, host if is_late else "")
        newest_s[place] = max(newest_s.get(place, 0), at_s)
        arrivals.append((newest_s[place], (key, value)))
    arrivals.sort(key=lambda arrival: arrival[0])
    return [sent for _, sent in arrivals]


def written(stream: Sequence[Sent]) -> tuple[dict[str, list[bytes]], list[bytes]]:
    """Return what the pressure job writes: the values of each VM in order, and the dead letters."""
    states: dict[str, bytes] = {}
    records: defaultdict[str, list[bytes]] = defaultdict(list)
    dead: list[bytes] = []
    for key, value in stream:
        stepped = JOB.step(states.get(key), key, value)
        if stepped.state is not None:
            states[key] = stepped.state
        records[key] += [record.value for record in stepped.records]
        if stepped.outcome.is_dead:
            dead.append(value)
    return {key: values for key, values in records.items() if values}, sorted(dead)


def count(records: dict[str, list[bytes]]) -> int:
    """Return how many records there are."""
    return len(list(chain.from_iterable(records.values())))

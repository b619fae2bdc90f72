"""Tests that a bundle has the same effect as its records one after the other."""

import json
from collections.abc import Sequence
from struct import pack, unpack_from
from typing import cast

import pytest

from barograph_streams.core.bundles import Bundles
from barograph_streams.core.jobs import COUNTED, JOBS, SAMPLES_TOPIC, process
from barograph_streams.core.pressure_job import TOPIC
from barograph_streams.core.records import Record
from barograph_streams.core.standing import KEPT_MS, Standing
from tests.contract.schema_files import examples, load
from tests.unit.streams.hosting import host_memory, vm_memory
from tests.unit.streams.mixing import mixed

NOW_MS = 1_795_404_556_000
Item = tuple[str, bytes | None]


class Flink:
    """Does what JobOperator.java does: it keeps the states, and reads the answers."""

    def __init__(self, name: str, *, by_host: bool = False) -> None:
        self.bundles = Bundles(name, by_host=by_host)
        self.sent: list[tuple[str, bytes]] = []
        self.states: dict[str, bytes] = {}
        names = f"{self.bundles.outcomes()},{self.bundles.losses()}"
        self.counts = [0 for _ in filter(None, names.split(","))]
        self.levels: list[int] = []
        self.timers: list[tuple[str, int]] = []
        self.records: list[Record] = []

    def run(self, items: Sequence[Item]) -> None:
        """Process one bundle; a frame that is `None` is a timer."""
        numbers: dict[str, int] = {}
        request = b""
        for key, frame in items:
            if key in numbers:
                request += pack(">i", numbers[key])
            else:
                numbers[key] = len(numbers)
                request += pack(">i", numbers[key]) + array(key.encode()) + array(self.states.get(key))
            request += array(frame)
        self.read(self.bundles.process(request, NOW_MS), list(numbers))

    def read(self, answer: bytes, keys: Sequence[str]) -> None:
        """Apply an answer."""
        place = 0

        def number() -> int:
            nonlocal place
            place += 4
            return unpack_from(">i", answer, place - 4)[0]

        def part() -> bytes:
            nonlocal place
            size = number()
            place += size
            return answer[place - size : place]

        self.counts = [count + number() for count in self.counts]
        self.levels = [number() for _ in filter(None, self.bundles.levels().split(","))]
        for _ in range(number()):
            key = keys[number()]
            self.states[key] = part()
        for _ in range(number()):
            key = keys[number()]
            self.timers.append((key, unpack_from(">q", answer, place)[0]))
            place += 8
        for _ in range(number()):
            topic, key, value = part().decode(), part(), part()
            headers = {part().decode(): part().decode() for _ in range(number())}
            level = json.loads(value).get("level", "") if topic == TOPIC else ""
            self.records.append(Record(topic, key, value, headers, level))
        self.sent += [(part().decode(), part()) for _ in range(number())]
        assert place == len(answer)


def array(content: bytes | None) -> bytes:
    """Return an array of bytes with its length."""
    return pack(">i", -1) if content is None else pack(">i", len(content)) + content


def frame(value: bytes, offset: int, topic: str = SAMPLES_TOPIC) -> bytes:
    """Return a frame as FrameSchema.java writes it."""
    return pack(">iqH", 3, offset, len(topic)) + topic.encode() + value


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_bundles_of_any_size_have_the_effect_of_their_records_one_by_one(size: int) -> None:
    items = [
        (key, frame(value, place)) for place, (key, value) in enumerate(mixed(seed=3, vms=9, samples=40))
    ]
    flink = Flink("pressure")
    for begin in range(0, len(items), size):
        flink.run(items[begin : begin + size])

    states: dict[str, bytes | None] = {}
    records: list[Record] = []
    counts = dict.fromkeys([*COUNTED, "lost", "found"], 0)
    for key, content in items:
        step, due = process(JOBS["pressure"], states.get(key), key, content, NOW_MS)
        states[key] = step.state or states.get(key)
        records += due
        counts[step.outcome] += 1
        counts["lost"] += max(step.lost, 0)
        counts["found"] -= min(step.lost, 0)
    assert flink.records == records
    assert flink.states == {key: state for key, state in states.items() if state}
    assert flink.counts == list(counts.values())
    assert flink.bundles.outcomes().split(",") == list(counts)[:-2]
    assert counts["lost"] > 0 < counts["found"]
    assert counts["not_json"] > 0
    assert flink.timers == []
    newest = {record.key: record.level for record in records if record.level}
    levels = flink.bundles.levels().split(",")
    assert flink.levels == [[*newest.values()].count(level) for level in levels]
    assert sum(flink.levels) == len(newest) > 0


def test_a_timer_in_the_bundle_of_its_record_sees_the_state_after_it() -> None:
    document = load(examples("agent", "valid")[0]) | {
        "observed_at_ms": NOW_MS - 1_000,
        "next_heartbeat_by_ms": NOW_MS - 20_000,
    }
    key = cast(dict[str, str], document["host"])["id"]
    flink = Flink("quality")
    flink.run([(key, frame(json.dumps(document).encode(), 1, "barograph.states")), (key, None)])
    assert flink.timers == [(key, NOW_MS + 60_000)] * 2  # set again, since it has fired too early
    assert flink.counts[0] == 1  # kept: a timer is not a record
    assert sum(flink.counts) == 1


def test_a_second_step_gets_what_the_first_has_sent() -> None:
    stream = [each for number in range(1, 4) for each in (host_memory(0, number), vm_memory(0, 0, number))]
    first, second = Flink("headroom"), Flink("headroom", by_host=True)
    first.run([(key, frame(value, place, "barograph.memory")) for place, (key, value) in enumerate(stream)])
    assert first.sent
    second.run(first.sent)
    assert second.states.keys() == {key for key, _ in first.sent}
    assert second.counts == second.levels == []
    assert second.sent == []
    assert second.bundles.process(b"", NOW_MS) == pack(">iiii", 0, 0, 0, 0)


def test_a_key_without_a_record_for_three_heartbeats_has_no_level() -> None:
    standing = Standing()
    standing.note(b"a", "none", 0)
    standing.note(b"b", "oom", 1_000)
    standing.note(b"a", "oom", 2_000)
    assert [standing.count(level, KEPT_MS) for level in ("none", "oom")] == [0, 2]
    assert standing.count("oom", KEPT_MS + 1_000) == 1
    assert standing.count("oom", KEPT_MS + 2_000) == 0

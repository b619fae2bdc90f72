"""Check that consumers received every sample that was due, across kills, restarts and rollouts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.kafka import Received
from tests.lab.measure import Shown

VISIBLE_MS = 500


@dataclass
class Run:
    """One run of the agent."""

    killed_ms: float = 0.0
    first_reading_ms: dict[str, float] = field(default_factory=dict[str, float])  # by the VM's path


def owed(path: Path, shown: Sequence[Shown], runs: Sequence[Run]) -> list[Shown]:
    """Return the updates that were visible for at least `VISIBLE_MS` while an agent was reading the VM."""
    found: list[Shown] = []
    for number, update in enumerate(shown):
        until_ms = shown[number + 1].first_seen_ms if number + 1 < len(shown) else float("inf")
        is_advance = update.last_update_s > (shown[number - 1].last_update_s if number else 0)
        for run in runs:
            first_ms = run.first_reading_ms.get(str(path), float("inf"))
            begun_ms, ended_ms = max(update.first_seen_ms, first_ms), min(until_ms, run.killed_ms)
            if is_advance and ended_ms - begun_ms >= VISIBLE_MS:
                found.append(update)
                break
    return found


def accounted(
    mine: Sequence[Mapping[str, Any]], path: Path, shown: Sequence[Shown], runs: Sequence[Run]
) -> int:
    """Assert that a VM's samples are right, complete, in order and without gaps; return how many are due.

    The guest must not have been reset: the samples must have one epoch.
    """
    by_time = {each["last_update"]: each["statistics"] for each in mine}
    due = owed(path, shown, runs)
    values = {(each.last_update_s, json.dumps(each.statistics, sort_keys=True)) for each in shown}
    assert [each.last_update_s for each in due if each.last_update_s not in by_time] == []
    assert all((at_s, json.dumps(said, sort_keys=True)) in values for at_s, said in by_time.items())
    assert len({each["epoch"] for each in mine}) == 1
    assert [each["sequence"] for each in mine] == list(range(1, len(mine) + 1))
    assert [each["last_update"] for each in mine] == sorted(by_time)
    return len(due)


def once_each(records: Sequence[Received]) -> list[Received]:
    """Return the records without repeats; assert that a repeat is the same in every byte."""
    first: dict[bytes, Received] = {}
    for record in records:
        id = record.headers["ce_id"]
        assert (record.key, record.value, record.headers) == (
            (known := first.setdefault(id, record)).key,
            known.value,
            known.headers,
        ), "one id with different contents"
    return list(first.values())

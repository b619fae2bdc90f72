"""Kill the agent repeatedly at random times, and compare a real Kafka with what a second monitor shows.

An update is due if it stayed visible for 500 ms while one agent process was past its first reading of that
VM. Every due update must arrive, repeats must be the same in every byte, sequences must have no gap, and the
samples of each VM must be in order.
"""

import json
import random
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest

from tests.integration.accounts import VISIBLE_MS, Run, accounted, once_each
from tests.integration.audit import WEB, Audit
from tests.integration.watching import conserved
from tests.lab import qemu
from tests.lab.agent import AgentProcess, agent
from tests.lab.kafka import RealKafka, consume
from tests.lab.observer import Observer

pytestmark = [
    pytest.mark.guest,
    pytest.mark.alone,
    pytest.mark.paired,
    pytest.mark.usefixtures("real_qemu"),
    pytest.mark.timeout(900),
]


def first_readings(log: str) -> dict[str, float]:
    """Return the time of each VM's first reading, in ms: that of the state in the log that follows it."""
    found: dict[str, float] = {}
    for line in log.splitlines():
        said = re.match(r"(\S+) .*vm state.* path=(\S+) reason=(\S+) state=(\S+)", line)
        if said and (said[3] == "settling" or said[4] == "reporting"):
            at_ms = datetime.fromisoformat(said[1]).timestamp() * 1000
            found.setdefault(said[2], at_ms)
    return found


def kill_at_a_bad_moment(process: AgentProcess, wal: Path, chance: random.Random, *, early: bool) -> float:
    """Kill the agent at a random time, or just as it writes to the spool; return when, in ms.

    Unless `early`, the time starts at the agent's first discovery, so that there are samples to lose.
    """
    if not early:
        process.wait_for_log("discovery")
    time.sleep(chance.uniform(0.1, 3.0))
    if chance.random() < 0.5:
        before, deadline_s = _changed_ns(wal), time.monotonic() + 2
        while _changed_ns(wal) == before and time.monotonic() < deadline_s:
            time.sleep(0.0002)
        time.sleep(chance.choice([0, 0.0005, 0.002, 0.01]))
    killed_ms = time.time() * 1000
    process.kill()
    return killed_ms


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _wait(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline_s, "the last agent has not read all VMs"
        time.sleep(0.1)


def survive(folder: Path, kafka: RealKafka, kills: int, seed: int) -> None:
    topics = [f"{folder.name}.samples", f"{folder.name}.states"]
    for topic in topics:
        kafka.create_topic(topic)
    env = {**WEB, "BAROGRAPH_KAFKA__SAMPLES_TOPIC": topics[0], "BAROGRAPH_KAFKA__STATES_TOPIC": topics[1]}
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", kafka.bootstrap)
    chance = random.Random(seed)
    runs: list[Run] = []
    scrapes = 0
    with ExitStack() as stack:
        vms = [stack.enter_context(qemu.guest(folder, f"g{number}", booted=False)) for number in range(3)]
        for vm in vms:
            vm.wait_until_booted()
        observer = Observer([vm.truth for vm in vms], folder)
        for number in range(kills + 1):
            run = Run()
            with (
                agent(folder / f"{number}", *words, state=folder / "state", env=env) as process,
                Audit(process) as audit,
            ):
                if number < kills:
                    run.killed_ms = kill_at_a_bad_moment(
                        process, folder / "state/spool.sqlite-wal", chance, early=number % 3 == 0
                    )
                else:
                    _wait(lambda: len(first_readings(process.stderr.read_text())) == len(vms))
                    time.sleep(5)
                    _wait(lambda: scrapes + audit.scrapes > kills)  # noqa: B023
                    run.killed_ms = time.time() * 1000 - VISIBLE_MS  # later updates may be unread
                    assert process.stop() == 0
                    conserved(process)
                run.first_reading_ms = first_readings(process.stderr.read_text())
                assert "set aside" not in process.stderr.read_text()
            assert audit.problems == []
            scrapes += audit.scrapes
            runs.append(run)
        shown = observer.stop()

    records = consume(kafka.bootstrap, topics[:1])
    documents = [json.loads(each.value) for each in once_each(records)]
    owed_in_all = 0
    for vm in vms:
        mine = [each for each in documents if each["vm"]["name"] == vm.name]
        owed_in_all += accounted(mine, vm.qmp, shown[vm.truth], runs)
    assert owed_in_all > kills
    assert scrapes > kills
    print(
        f"{kills} kills: {owed_in_all} updates due, {len(documents)} samples arrived, "
        f"{len(records) - len(documents)} repeats, nothing lost, {scrapes} scrapes balance (seed {seed})"
    )


def test_kills_lose_no_due_update_and_repeat_records_only_unchanged(
    folder: Path, shared_kafka: RealKafka
) -> None:
    survive(folder, shared_kafka, 6, seed=1)


@pytest.mark.long
def test_a_hundred_kills_lose_no_due_update(folder: Path, shared_kafka: RealKafka) -> None:
    survive(folder, shared_kafka, 100, random.randrange(1 << 32))

"""The demo stops in order when interrupted, and its summary counts every fault."""

import io
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simulator.demo.measure import STEADY_AFTER, Shown
from simulator.demo.records import Document, Records
from simulator.demo.screen import lags_ms, readings, summary
from tests.lab.process import kill, no_child_left, start, wait_until

ROOT = Path(__file__).parents[2]
BEGIN_S = 1795404000
END_MS = (BEGIN_S + 1000) * 1000.0


def shown(count: int) -> list[Shown]:
    return [Shown(BEGIN_S + n, (BEGIN_S + n) * 1000.0, {"free_memory": n}) for n in range(count)]


def samples(lags: Sequence[int], unsolicited: Sequence[int] = ()) -> list[Document]:
    return [
        {
            "last_update": BEGIN_S + number,
            "observed_at_ms": (BEGIN_S + number) * 1000 + lag_ms,
            "sequence": number + 1,
            "origin": "unsolicited" if number in unsolicited else "poll",
            "statistics": {"free_memory": number},
        }
        for number, lag_ms in enumerate(lags)
    ]


def arrived(of_vm: Sequence[Document]) -> Records:
    records = Records()
    for each in of_vm:
        records.add({"schema": "barograph.vm.sample/1.0", "vm": {"name": "vm"}, **each})
    return records


def faults(of_vm: Sequence[Document], count: int, until_ms: float = END_MS) -> int:
    return summary(Console(file=io.StringIO()), arrived(of_vm), {"vm": shown(count)}, until_ms)


def test_samples_that_match_their_updates_count_no_fault() -> None:
    assert faults(samples([5] * 10), 10) == 0


def changed(of_vm: list[Document], number: int, **fields: Any) -> list[Document]:
    return [{**each, **fields} if at == number else each for at, each in enumerate(of_vm)]


TEN = samples([5] * 10)


@pytest.mark.parametrize(
    "of_vm",
    [
        pytest.param(TEN[:4] + TEN[5:], id="lost"),
        pytest.param(TEN[:5] + TEN[4:], id="twice"),
        pytest.param(changed(TEN, 4, statistics={"free_memory": 99}), id="wrong"),
        pytest.param([*TEN[:4], TEN[5], TEN[4], *TEN[6:]], id="disordered"),
        pytest.param([*TEN, {**TEN[0], "last_update": BEGIN_S + 70}], id="invented"),
    ],
)
def test_every_fault_is_counted(of_vm: list[Document]) -> None:
    assert faults(of_vm, 10) == 1


def test_a_missing_sample_of_a_late_update_is_not_counted() -> None:
    assert faults(TEN[:9], 10, until_ms=(BEGIN_S + 9) * 1000.0) == 0
    assert faults(TEN[:8], 10, until_ms=(BEGIN_S + 9) * 1000.0) == 1


def test_a_late_update_is_left_out_of_updates_and_samples() -> None:
    output = io.StringIO()

    summary(Console(file=output), arrived(TEN), {"vm": shown(10)}, until_ms=(BEGIN_S + 9) * 1000.0)

    row = next(line.split() for line in output.getvalue().splitlines() if line.split()[:1] == ["vm"])
    assert row[1:3] == ["9", "9"]


def test_lags_while_the_cadence_is_learned_are_separate() -> None:
    silence_ends = 20
    lags = [800, *[50] * STEADY_AFTER, 7, 7, 7, 7, 600, *[90] * (STEADY_AFTER - 1), 8]

    steady, learning = lags_ms(shown(len(lags)), samples(lags, unsolicited=[silence_ends]))

    assert 800 not in steady + learning, "the first update may be older than the agent"
    assert steady == [50, 7, 7, 7, 7, 8]
    assert learning == [*[50] * (STEADY_AFTER - 1), 600, *[90] * (STEADY_AFTER - 1)]


def test_readings_are_counted_from_a_record_without_the_counter() -> None:
    records = Records()
    for at_ms, counters in ((1000, {}), (2000, {"readings": 5, "samples": 4})):
        records.add({"schema": "barograph.agent.state/1.0", "observed_at_ms": at_ms, "counters": counters})

    assert readings(records, 0) == (
        "1.25 readings per sample once the cadence was known (4 samples); 5 readings for 4 samples in total"
    )


def all_polled(output: str) -> bool:
    """Return whether each of the three VMs has had a state that requires a polling interval."""
    return "waiting (no_update_yet)" in output and output.count("→ reporting") >= 2


@pytest.mark.usefixtures("real_qemu")
def test_an_interrupted_demo_restores_intervals_prints_its_summary_and_leaves_nothing(folder: Path) -> None:
    log = folder / "demo.log"
    with no_child_left():
        demo = start([sys.executable, "-u", "-m", "tests.lab.demo"], log, cwd=ROOT)
        try:
            wait_until(lambda: all_polled(log.read_text()), "the demo", demo, log, 240)
            demo.send_signal(signal.SIGINT)
            code = demo.wait(180)
        finally:
            kill(demo)

    output = log.read_text()
    assert code == 130
    assert output.count("given-back") == 3
    assert "updates" in output
    assert output.splitlines()[-1] == "all processes of the demo have ended"
    monitors = next(word for word in output.split() if word.endswith("/*.qmp"))
    assert not Path(monitors).parent.exists()

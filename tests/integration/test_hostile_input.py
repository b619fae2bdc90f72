"""Generated answers and greetings cause no crash, no wrong sample and no unbounded memory in an agent.

A sample of a hostile VM must match an answer that its monitor sent, contain only the valid statistics, and
occur once. The agent also observes healthy VMs: all their updates must arrive, and be right.
"""

from pathlib import Path

import pytest

from tests.integration.fuzzing import Figures, fuzz

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1800)]

RSS_GROWTH_MAX_BYTES = 16 << 20
FREQUENT_FAULTS = {"link_failures.hung_up", "link_failures.not_qmp", "link_failures.protocol"}
"""The others may not occur in the time that a busy machine leaves."""


def judge(figures: Figures) -> None:
    print(figures.show())
    assert not figures.wrong, figures.wrong[:3]
    for vm in figures.healthy:
        assert vm.updates >= 5
        assert (vm.lost, vm.wrong, vm.invented, vm.repeated, vm.disordered) == ((), (), (), (), False)
    assert figures.hostile_samples > figures.messages / 500  # the answers get as far as the statistics
    assert figures.totals.keys() >= FREQUENT_FAULTS
    assert figures.rss_end_bytes <= figures.rss_warm_bytes + RSS_GROWTH_MAX_BYTES


def test_hostile_monitors_harm_only_themselves(folder: Path) -> None:
    figures = fuzz(folder, 25_000, peers=40, seed=1, seconds_max=900)

    judge(figures)
    assert figures.lag_p99_ms <= 1000  # on any machine


@pytest.mark.long
def test_a_million_messages_of_hostile_monitors(folder: Path) -> None:
    figures = fuzz(folder, 1_000_000, peers=80, seed=20261126, seconds_max=1500)

    judge(figures)
    assert len([name for name in figures.totals if name.startswith("link_failures.")]) >= 4
    assert figures.lag_p99_ms <= 100

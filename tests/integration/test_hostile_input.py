"""Generated answers and greetings against a running agent: no crash, no wrong sample, memory bounded.

A sample of a hostile VM must be a reading that its monitor really gave as an answer, with its valid
statistics and nothing else, once. Beside it are healthy VMs: all their updates must arrive, and be right.
"""

from pathlib import Path

import pytest

from tests.integration.fuzzing import Figures, fuzz

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1800)]

RSS_GROWTH_MAX_BYTES = 16 << 20
FREQUENT_FAULTS = {"link_failures.hung_up", "link_failures.not_qmp", "link_failures.protocol"}
"""Others depend on the time that a busy machine leaves."""


def judge(figures: Figures) -> None:
    print(figures.show())
    assert not figures.wrong, figures.wrong[:3]
    for vm in figures.healthy:
        assert vm.updates >= 5
        assert (vm.lost, vm.wrong, vm.invented, vm.repeated, vm.disordered) == ((), (), (), (), False)
    assert figures.hostile_samples > figures.messages / 500  # as deep as the statistics
    assert figures.totals.keys() >= FREQUENT_FAULTS
    assert figures.rss_end_bytes <= figures.rss_warm_bytes + RSS_GROWTH_MAX_BYTES


def test_hostile_monitors_cost_only_themselves(folder: Path) -> None:
    figures = fuzz(folder, 25_000, peers=40, seed=1, seconds_max=900)

    judge(figures)
    assert figures.lag_p99_ms <= 1000  # on whatever machine this is


@pytest.mark.long
def test_a_million_messages_of_hostile_monitors(folder: Path) -> None:
    figures = fuzz(folder, 1_000_000, peers=80, seed=20261126, seconds_max=1500)

    judge(figures)
    assert len([name for name in figures.totals if name.startswith("link_failures.")]) >= 4
    assert figures.lag_p99_ms <= 100

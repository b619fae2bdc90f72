"""Tests that the agent's core and the stream job give the same levels for the same samples.

`integration/test_pressure_rules.py` shows which of the shared cases the recording rules agree with.
"""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.pressure import VmPressure
from agent.core.pressure import advance as by_agent
from barograph_streams.core.pressure import COUNTERS, Pressure
from barograph_streams.core.pressure import advance as by_job


def compare(seed: int, samples: int) -> Counter[str]:
    """Compare the two on a guest with changing needs. Return the number of samples of each level."""
    chance = random.Random(seed)
    agent: VmPressure | None = None
    job: Pressure | None = None
    epoch, at_s, counters = 0, 1_795_404_000, dict.fromkeys(COUNTERS, 0)
    available, rate, levels = 0.5, 0, Counter[str]()
    for _ in range(samples):
        if chance.random() < 0.05:  # another phase
            available, rate = chance.choice([0.5, 0.04, 0.02]), chance.choice([0, 4, 5, 50])
        if chance.random() < 0.01:
            epoch, counters = epoch + 1, dict.fromkeys(COUNTERS, 0)
        elapsed_s = chance.choice([0, -5, 700]) if chance.random() < 0.02 else chance.choice([10, 60])
        at_s += elapsed_s
        for name in COUNTERS:
            is_size = name in {"swap_in", "swap_out"} or "scans" in name or "reclaims" in name
            rises = name != "oom_kills" or chance.random() < 0.005
            counters[name] += max(0, elapsed_s) * rate * (1 << 20 if is_size else 1) * rises
        statistics = {"available_memory": int(available * 10**9), "total_memory": 10**9, **counters}
        for name in [name for name in statistics if chance.random() < 0.02]:
            del statistics[name]
        polled = chance.random() < 0.95
        agent = by_agent(agent, epoch=str(epoch), last_update_s=at_s, polled=polled, statistics=statistics)
        if polled:
            job = (
                by_job(
                    None if job is None else job.state,
                    epoch=str(epoch),
                    last_update_s=at_s,
                    statistics=statistics,
                )
                or job
            )
        assert (agent is None) is (job is None)
        if agent is None or job is None:
            continue
        assert (str(agent.level), agent.since_s) == (str(job.state.level), job.state.since_s)
        assert agent.score == pytest.approx(job.score)
        assert dict(agent.components) == pytest.approx(dict(job.components))
        levels[str(agent.level)] += 1
    return levels


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**9))
def test_the_agent_and_the_job_agree(seed: int) -> None:
    compare(seed, 200)


def test_all_levels_are_compared() -> None:
    assert compare(1, 3_000).keys() == {"none", "low", "pressure", "oom"}

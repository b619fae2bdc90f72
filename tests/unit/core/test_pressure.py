"""Tests of the pressure of a VM: the shared cases of schemas/pressure, and properties."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import pressure
from agent.core.pressure import (
    PressureComponent,
    PressureLevel,
    VmPressure,
    advance,
    score_of,
)
from agent.core.reading import Origin

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "schemas" / "pressure" / "vectors.json"
PAGE = ROOT / "docs" / "pressure.md"
T0_S = 1_795_404_000
GIB = 1 << 30


class Expected(msgspec.Struct, forbid_unknown_fields=True):
    level: PressureLevel
    since: int
    score: float | None
    components: dict[PressureComponent, float | None]


class Step(msgspec.Struct, forbid_unknown_fields=True):
    last_update: int
    epoch: str
    origin: Origin
    statistics: dict[str, int]
    expect: Expected | None


class Case(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    why: str
    samples: list[Step]


CASES = msgspec.convert(cast(dict[str, object], json.loads(VECTORS.read_text()))["cases"], list[Case])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_sequence_of_samples_gives_the_pressure_of_the_vectors(case: Case) -> None:
    now = None
    for place, step in enumerate(case.samples):
        now = advance(
            now,
            epoch=step.epoch,
            last_update_s=step.last_update,
            polled=step.origin is Origin.POLL,
            statistics=step.statistics,
        )
        if step.expect is None:
            assert now is None, place
            continue
        assert now is not None, place
        assert (now.level, now.since_s) == (step.expect.level, step.expect.since), place
        assert now.score == pytest.approx(step.expect.score, abs=1e-6), place
        shown = {each: now.components.get(each) for each in PressureComponent}
        assert shown == pytest.approx(step.expect.components, abs=1e-6), place


def test_the_vectors_show_every_level_and_each_component_on_its_own() -> None:
    expected = [step.expect for case in CASES for step in case.samples if step.expect is not None]
    alone = {
        name
        for each in expected
        for name, value in each.components.items()
        if value and sum(other or 0 for other in each.components.values()) == value
    }

    assert {each.level for each in expected} == set(PressureLevel)
    assert alone == set(PressureComponent)
    assert {name for each in expected for name, value in each.components.items() if value is None} == set(
        PressureComponent
    )
    assert len({case.name for case in CASES}) == len(CASES) >= 25


counts = st.integers(0, 2**53 - 1)
NAMES: tuple[str, ...] = (
    "available_memory", "total_memory", "major_faults", "swap_in", "swap_out", "alloc_stalls",
    "async_scans", "direct_scans", "async_reclaims", "direct_reclaims", "oom_kills",
)  # fmt: skip
statistics = st.dictionaries(st.sampled_from(NAMES), counts) | st.fixed_dictionaries(
    dict.fromkeys(NAMES, st.integers(0, 1 << 32))
)
samples = st.tuples(st.sampled_from("ab"), st.integers(-700, 2_000), st.booleans(), statistics)


def run(told: list[tuple[str, int, bool, dict[str, int]]]) -> list[VmPressure]:
    """Return the pressure after each sample: epoch, seconds since the previous one, polled, statistics."""
    at_s, now, seen = T0_S, None, list[VmPressure]()
    for epoch, after_s, polled, values in told:
        at_s += after_s
        now = advance(now, epoch=epoch, last_update_s=at_s, polled=polled, statistics=values)
        if now is not None:
            seen.append(now)
    return seen


@given(st.lists(samples, max_size=30))
def test_the_score_is_the_largest_component_and_all_are_from_0_to_1(
    told: list[tuple[str, int, bool, dict[str, int]]],
) -> None:
    for each in run(told):
        assert all(0 <= value <= 1 for value in each.components.values())
        assert each.score == max(each.components.values(), default=None)
        killed = each.components.get(PressureComponent.OOM_KILL) == 1
        assert killed == (each.level is PressureLevel.OOM)
        assert each.since_s <= each.last_update_s


@given(
    st.dictionaries(st.sampled_from(PressureComponent), st.floats(0, 1)),
    st.sampled_from(PressureComponent),
    st.floats(0, 1),
)
def test_the_score_never_falls_when_a_component_rises(
    components: Mapping[PressureComponent, float], name: PressureComponent, value: float
) -> None:
    more = {**components, name: max(value, components.get(name, 0.0))}

    assert (score_of(more) or 0.0) >= (score_of(components) or 0.0)


WORSE = {
    PressureComponent.HEADROOM: ("available_memory", -1),
    PressureComponent.MAJOR_FAULTS: ("major_faults", 1),
    PressureComponent.SWAP: ("swap_out", 1),
    PressureComponent.ALLOCATION_STALLS: ("alloc_stalls", 1),
    PressureComponent.DIRECT_SCANS: ("direct_scans", 1),
    PressureComponent.RECLAIM: ("async_reclaims", -1),
    PressureComponent.OOM_KILL: ("oom_kills", 1),
}


@given(
    st.sampled_from(PressureComponent),
    st.fixed_dictionaries(dict.fromkeys(NAMES, st.integers(1 << 22, 1 << 26))),
    st.integers(0, 1 << 22),
    st.integers(1, 600),
)
def test_a_component_never_falls_when_its_statistic_gets_worse(
    name: PressureComponent, values: dict[str, int], by: int, after_s: int
) -> None:
    start: dict[str, int] = dict.fromkeys(NAMES, 0)
    statistic, sign = WORSE[name]
    worse = values | {statistic: values[statistic] + sign * by}

    (_, one) = run([("a", 0, True, start), ("a", after_s, True, values)])
    (_, other) = run([("a", 0, True, start), ("a", after_s, True, worse)])

    assert other.components[name] >= one.components[name]
    assert other.level.rank >= one.level.rank


@given(st.lists(st.tuples(st.integers(1, 3_600), st.floats(0.05, 1)), min_size=1, max_size=40), counts)
def test_an_idle_vm_has_the_level_none_and_the_score_0(told: list[tuple[int, float]], count: int) -> None:
    idle = dict.fromkeys(NAMES, count) | {"total_memory": GIB}

    seen = run([
        ("a", after_s, True, idle | {"available_memory": int(share * GIB) + 1}) for after_s, share in told
    ])  # fmt: skip

    assert {(each.level, each.score) for each in seen} == {(PressureLevel.NONE, 0.0)}


@given(st.lists(samples, max_size=30))
def test_the_state_keeps_one_sample_and_is_a_value(
    told: list[tuple[str, int, bool, dict[str, int]]],
) -> None:
    polled = [values for _, _, is_polled, values in told if is_polled]

    for each in run(told):
        assert any(each.statistics is values for values in polled)
        assert len(each.components) <= len(PressureComponent)


def test_the_page_has_the_thresholds_of_the_code() -> None:
    page = PAGE.read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))

    assert {*PressureLevel, *PressureComponent} <= rows.keys()
    assert f"/ {pressure.HEADROOM_SHORT:.0%}".replace("%", " %") in rows["headroom"]
    assert f"/ {pressure.MAJOR_FAULTS_PER_S} per second" in rows["major_faults"]
    assert pressure.SWAP_BYTES_PER_S == pressure.SCANNED_BYTES_PER_S_MIN == 1 << 20
    assert "/ 1 MiB per second" in rows["swap"]
    assert f"/ {pressure.STALLS_PER_S} per second" in rows["allocation_stalls"]
    for level, after_s in (("pressure", pressure.PRESSURE_AFTER_S), ("low", pressure.LOW_AFTER_S)):
        assert f"held for {after_s // 60} minutes" in rows[level]
        assert f"not held for {pressure.CALM_AFTER_S // 60} minutes" in rows[level]
    low = pressure.HEADROOM_SHORT * (1 - pressure.HEADROOM_LOW_SCORE)
    assert f"less than {100 * low:.0f} % available" in rows["low"]
    assert f"at most {pressure.GAP_MAX_S // 60} minutes apart" in page

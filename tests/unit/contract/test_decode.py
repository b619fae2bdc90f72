"""Tests of decoding answers from QEMU, and from peers that resemble it: no reading has a wrong value."""

from typing import cast

import pytest
from hypothesis import given, settings

from agent.contract.decode import (
    EXACT_MAX,
    LAST_UPDATE_MAX_S,
    SENTINELS,
    STATISTICS_MAX,
    BadAnswer,
    BadAnswerReason,
    decode_guest_stats,
)
from agent.contract.statistics import COUNTERS, KNOWN_STATISTICS
from agent.core import epochs
from agent.core.reading import Reading, Refusal
from tests.unit.contract.strategies import ANSWERS

UNSET = 2**64 - 1


def decoded(stats: dict[str, object]) -> Reading:
    reading = decode_guest_stats({"stats": stats, "last-update": 1795404146})
    assert isinstance(reading, Reading)
    return reading


def test_all_sixteen_known_statistics_are_read() -> None:
    stats = {known.wire_name: 1000 + index for index, known in enumerate(KNOWN_STATISTICS.values())}
    stats["stat-total-memory"] = 1 << 30

    reading = decode_guest_stats({"stats": stats, "last-update": 1795404146})

    expected = {name: 1000 + index for index, name in enumerate(KNOWN_STATISTICS)} | {"total_memory": 1 << 30}
    assert reading == Reading(1795404146, expected)
    assert len(expected) == 16


def test_the_answer_of_a_fresh_qemu_is_a_reading_without_statistics() -> None:
    stats = {known.wire_name: UNSET for known in KNOWN_STATISTICS.values()}

    reading = decode_guest_stats({"stats": stats, "last-update": 0})

    assert reading == Reading(0, {}, frozenset(KNOWN_STATISTICS))


def test_the_core_and_the_contract_agree_on_what_is_cumulative() -> None:
    assert epochs.CUMULATIVE == COUNTERS


@pytest.mark.parametrize("value", [-1, UNSET, 2**63, -(2**63), 0xFFFF_FFFF_FFFF_F000, 2**64, -(2**70)])
def test_a_value_below_zero_or_from_2_63_up_is_unset(value: int) -> None:
    reading = decoded({"stat-swap-in": value, "stat-swap-out": 7})

    assert reading == Reading(1795404146, {"swap_out": 7}, frozenset({"swap_in"}))


@pytest.mark.parametrize("value", [0, 1, EXACT_MAX])
def test_the_ends_of_the_exact_range_are_values(value: int) -> None:
    assert decoded({"stat-swap-in": value}).statistics == {"swap_in": value}


@pytest.mark.parametrize("value", [EXACT_MAX + 1, 2**63 - 1])
def test_a_value_that_json_cannot_carry_exactly_is_refused(value: int) -> None:
    reading = decoded({"stat-swap-in": value})

    assert (reading.statistics, reading.unset, reading.refused) == (
        {},
        frozenset(),
        {"swap_in": Refusal.TOO_LARGE},
    )


@pytest.mark.parametrize("value", [1.0, 1.8446744073709552e19, "1", True, False, None, [], {}, float("nan")])
@pytest.mark.parametrize("name", ["swap_in", "psi_some_10"])
def test_a_value_that_is_not_an_integer_is_refused(name: str, value: object) -> None:
    reading = decoded({"stat-" + name.replace("_", "-"): value})

    assert (reading.statistics, reading.unset, reading.refused) == (
        {},
        frozenset(),
        {name: Refusal.NOT_INTEGER},
    )


@pytest.mark.parametrize("part", ["free_memory", "available_memory", "disk_caches"])
def test_a_part_above_the_total_is_refused_and_the_total_stays(part: str) -> None:
    wire = KNOWN_STATISTICS[part].wire_name

    reading = decoded({"stat-total-memory": 100, wire: 101, "stat-swap-in": 5})

    assert reading.statistics == {"total_memory": 100, "swap_in": 5}
    assert reading.refused == {part: Refusal.IMPOSSIBLE}


def test_a_part_as_large_as_the_total_is_possible() -> None:
    stats = {"stat-total-memory": 100, "stat-free-memory": 100, "stat-available-memory": 100}

    assert decoded(dict(stats)).refused == {}


GIB = 1 << 30


@pytest.mark.parametrize(
    ("available", "possible"), [(0, False), (3 * GIB, False), (4 * GIB, True), (7 * GIB, True)]
)
def test_an_available_far_below_the_free_memory_is_refused(available: int, possible: bool) -> None:
    reading = decoded(
        {"stat-total-memory": 8 * GIB, "stat-free-memory": 6 * GIB, "stat-available-memory": available}
    )

    assert reading.refused == ({} if possible else {"available_memory": Refusal.IMPOSSIBLE})
    assert reading.statistics["free_memory"] == 6 * GIB


def test_no_available_memory_is_possible_with_little_free_memory() -> None:
    stats = {"stat-total-memory": 8 * GIB, "stat-free-memory": GIB // 4, "stat-available-memory": 0}

    assert decoded(dict(stats)).refused == {}


@pytest.mark.parametrize("value", sorted(SENTINELS))
@pytest.mark.parametrize("name", ["swap_in", "disk_caches", "total_memory", "minor_faults"])
def test_a_number_that_stands_for_no_value_is_refused(name: str, value: int) -> None:
    reading = decoded({KNOWN_STATISTICS[name].wire_name: value})

    assert (reading.statistics, reading.refused) == ({}, {name: Refusal.IMPOSSIBLE})


@pytest.mark.parametrize("total", [{}, {"stat-total-memory": 0}, {"stat-total-memory": UNSET}])
@pytest.mark.parametrize(
    ("available", "possible"), [(0, False), (GIB, False), (2 * GIB, True), (7 * GIB, True)]
)
def test_an_available_far_below_the_free_memory_is_refused_without_a_total(
    total: dict[str, object], available: int, possible: bool
) -> None:
    reading = decoded({**total, "stat-free-memory": 6 * GIB, "stat-available-memory": available})

    assert reading.refused.get("available_memory") is (None if possible else Refusal.IMPOSSIBLE)
    assert reading.statistics["free_memory"] == 6 * GIB


def test_no_available_memory_is_possible_with_some_free_memory_and_no_total() -> None:
    assert decoded({"stat-free-memory": 4 * GIB, "stat-available-memory": 0}).refused == {}


SIZES = ["free_memory", "total_memory", "available_memory", "disk_caches"]


@pytest.mark.parametrize("value", [0x7FFF_FC00, 0xFFFF_FC00])
@pytest.mark.parametrize("name", SIZES)
def test_32_bits_rounded_to_kib_are_refused_as_a_size(name: str, value: int) -> None:
    reading = decoded({KNOWN_STATISTICS[name].wire_name: value})

    assert (reading.statistics, reading.refused) == ({}, {name: Refusal.IMPOSSIBLE})


@pytest.mark.parametrize("value", [0x7FFF_FC00, 0xFFFF_FC00, 0x7FFF_F000, 0xFFFF_F000, (1 << 52) + 4096])
@pytest.mark.parametrize("name", ["swap_in", "minor_faults"])
def test_a_value_that_is_refused_as_a_size_may_be_a_count(name: str, value: int) -> None:
    assert decoded({KNOWN_STATISTICS[name].wire_name: value}).statistics == {name: value}


@pytest.mark.parametrize("value", [0x7FFF_F000, 0xFFFF_F000])
@pytest.mark.parametrize("name", SIZES)
def test_one_size_may_be_32_bits_rounded_to_pages_and_two_may_not(name: str, value: int) -> None:
    other = "total_memory" if name != "total_memory" else "disk_caches"

    alone = decoded({KNOWN_STATISTICS[name].wire_name: value})
    two = decoded({KNOWN_STATISTICS[each].wire_name: value for each in (name, other)})

    assert (alone.statistics, alone.refused) == ({name: value}, {})
    assert (two.statistics, set(two.refused)) == ({}, {name, other})


def test_free_memory_of_4_gib_minus_a_page_is_possible() -> None:
    stats = {"stat-total-memory": 8 * GIB, "stat-free-memory": 0xFFFF_F000, "stat-available-memory": 5 * GIB}

    assert decoded(dict(stats)).refused == {}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_above_4_pib_is_refused(name: str) -> None:
    wire = KNOWN_STATISTICS[name].wire_name

    assert decoded({wire: 1 << 52}).statistics == {name: 1 << 52}
    assert decoded({wire: (1 << 52) + 1}).refused == {name: Refusal.IMPOSSIBLE}
    assert decoded({wire: EXACT_MAX}).refused == {name: Refusal.IMPOSSIBLE}


def test_a_total_of_zero_is_refused_and_its_parts_stay() -> None:
    reading = decoded({"stat-total-memory": 0, "stat-free-memory": 5, "stat-available-memory": 0})

    assert reading.statistics == {"free_memory": 5, "available_memory": 0}
    assert reading.refused == {"total_memory": Refusal.IMPOSSIBLE}


def test_without_a_total_nothing_is_impossible() -> None:
    assert decoded({"stat-total-memory": UNSET, "stat-free-memory": 5}).statistics == {"free_memory": 5}


def test_a_name_that_a_later_qemu_adds_is_kept() -> None:
    reading = decoded({"stat-psi-some-10": 17, "odd": 3, "stat-other": UNSET, "stat-big": EXACT_MAX + 1})

    assert reading.statistics == {"psi_some_10": 17, "odd": 3}
    assert reading.unset == {"other"}
    assert reading.refused == {"big": Refusal.TOO_LARGE}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "stat-",
        "stat-9",
        "stat-Free",
        "stat-a.b",
        "stat-\n",
        "stat-ä",
        "\ud800",
        "stat-" + "n" * 65,
        "n" * 65,
    ],
)
def test_an_unusable_name_is_refused(name: str) -> None:
    reading = decoded({name: 1, "stat-swap-in": 2})

    assert reading.statistics == {"swap_in": 2}
    assert list(reading.refused.values()) == [Refusal.BAD_NAME]


def test_a_name_of_64_characters_is_kept() -> None:
    assert decoded({"stat-" + "n" * 64: 1}).statistics == {"n" * 64: 1}


def test_each_unusable_name_is_counted() -> None:
    assert len(decoded({"stat-A": 1, "stat-B": 2, "stat-free-memory": None}).refused) == 3


@pytest.mark.parametrize("turned", [False, True])
def test_two_spellings_of_an_unknown_name_are_both_refused(turned: bool) -> None:
    pairs = [("stat-psi-some", 1), ("stat-psi_some", 2)]

    reading = decoded(dict(reversed(pairs) if turned else pairs))

    assert (reading.statistics, reading.unset) == ({}, frozenset())
    assert list(reading.refused.values()) == [Refusal.BAD_NAME]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("own", [2, UNSET])
def test_only_qemus_own_spelling_of_a_known_name_is_used(turned: bool, own: int) -> None:
    pairs = [("free-memory", 1), ("stat-free-memory", own)]

    reading = decoded(dict(reversed(pairs) if turned else pairs))

    assert reading.statistics == ({} if own == UNSET else {"free_memory": 2})
    assert list(reading.refused.values()) == [Refusal.BAD_NAME]


BAD_ANSWERS: dict[str, tuple[object, BadAnswerReason]] = {
    "null": (None, BadAnswerReason.NOT_AN_OBJECT),
    "text": ("guest hasn't updated any stats yet", BadAnswerReason.NOT_AN_OBJECT),
    "list": ([], BadAnswerReason.NOT_AN_OBJECT),
    "empty": ({}, BadAnswerReason.NO_LAST_UPDATE),
    "no last-update": ({"stats": {}}, BadAnswerReason.NO_LAST_UPDATE),
    "null last-update": ({"stats": {}, "last-update": None}, BadAnswerReason.BAD_LAST_UPDATE),
    "negative last-update": ({"stats": {}, "last-update": -1}, BadAnswerReason.BAD_LAST_UPDATE),
    "float last-update": ({"stats": {}, "last-update": 1795404146.0}, BadAnswerReason.BAD_LAST_UPDATE),
    "boolean last-update": ({"stats": {}, "last-update": True}, BadAnswerReason.BAD_LAST_UPDATE),
    "text last-update": ({"stats": {}, "last-update": "1795404146"}, BadAnswerReason.BAD_LAST_UPDATE),
    "year 10000": ({"stats": {}, "last-update": LAST_UPDATE_MAX_S + 1}, BadAnswerReason.BAD_LAST_UPDATE),
    "unset last-update": ({"stats": {}, "last-update": UNSET}, BadAnswerReason.BAD_LAST_UPDATE),
    "too long to print": ({"stats": {}, "last-update": 10**5000}, BadAnswerReason.BAD_LAST_UPDATE),
    "no stats": ({"last-update": 1}, BadAnswerReason.NO_STATISTICS),
    "a list of stats": ({"stats": [], "last-update": 1}, BadAnswerReason.NO_STATISTICS),
    "too many": (
        {"stats": {f"stat-{n}": n for n in range(STATISTICS_MAX + 1)}, "last-update": 1},
        BadAnswerReason.TOO_MANY_STATISTICS,
    ),
}


@pytest.mark.parametrize(("answer", "reason"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_malformed_answer_has_a_reason(answer: object, reason: BadAnswerReason) -> None:
    bad = decode_guest_stats(answer)

    assert isinstance(bad, BadAnswer)
    assert bad.reason is reason
    assert 0 < len(bad.detail) < 100


def test_every_reason_of_a_bad_answer_is_tested() -> None:
    assert {reason for _, reason in BAD_ANSWERS.values()} == set(BadAnswerReason)


def plain_name(wire_name: str) -> str:
    return wire_name.removeprefix("stat-").replace("-", "_")


@settings(max_examples=300)
@given(ANSWERS)
def test_no_answer_raises_or_gives_a_wrong_value(answer: object) -> None:
    reading = decode_guest_stats(answer)

    if isinstance(reading, BadAnswer):
        return
    parts = cast(dict[str, dict[str, object]], answer)
    stats = parts["stats"]
    assert reading.last_update_s == cast(object, parts["last-update"])
    for name, value in reading.statistics.items():
        said = [given for wire_name, given in stats.items() if plain_name(wire_name) == name]
        own = stats.get("stat-" + name.replace("_", "-"), said[0])
        assert type(value) is int
        assert value == own
        assert 0 <= value <= EXACT_MAX
    total = reading.statistics.get("total_memory", EXACT_MAX)
    assert total > 0
    assert reading.statistics.get("free_memory", 0) <= total
    assert reading.statistics.get("available_memory", 0) <= total


@settings(max_examples=300)
@given(ANSWERS)
def test_each_name_in_an_answer_is_in_one_part_of_the_reading(answer: object) -> None:
    reading = decode_guest_stats(answer)

    if isinstance(reading, BadAnswer):
        return
    stats = cast(dict[str, dict[str, object]], answer)["stats"]
    places = [*reading.statistics, *reading.unset, *reading.refused]
    spellings = len(stats) - len({plain_name(wire_name) for wire_name in stats})
    assert len(set(places)) == len(places)
    # Two spellings of one name may share one refusal.
    assert len(stats) - spellings <= len(places) <= len(stats)


@given(ANSWERS)
def test_the_order_of_an_answer_does_not_matter(answer: object) -> None:
    turned: object = answer
    if isinstance(answer, dict):
        parts = cast(dict[str, object], answer)
        stats = parts.get("stats")
        if isinstance(stats, dict):
            turned = {**parts, "stats": dict(reversed(cast(dict[str, object], stats).items()))}

    first = decode_guest_stats(answer)
    second = decode_guest_stats(turned)

    if isinstance(first, Reading) and isinstance(second, Reading):
        assert first.statistics == second.statistics
        assert first.unset == second.unset
        assert sorted(first.refused.values()) == sorted(second.refused.values())
    else:
        assert first == second

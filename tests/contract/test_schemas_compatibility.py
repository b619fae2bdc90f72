"""No minor version breaks readers, and the check detects each kind of breakage."""

import copy
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest

from tests.contract.compatibility import breakages
from tests.contract.schema_files import ALL_DOCUMENTS, closed_path, load, newest, versions

Change = Callable[[Any], object]


@pytest.mark.parametrize("document", ALL_DOCUMENTS)
def test_every_version_can_be_read_by_readers_of_every_older_one(document: str) -> None:
    loaded = {version: load(closed_path(document, version)) for version in versions(document)}

    broken = {
        (older, newer): found
        for older, newer in combinations(loaded, 2)
        if (found := breakages(loaded[older], loaded[newer]))
    }

    assert loaded
    assert broken == {}


@pytest.mark.parametrize("document", ALL_DOCUMENTS)
def test_a_schema_is_compatible_with_itself(document: str) -> None:
    assert breakages(newest(document), newest(document)) == []


def rename(fields: Any, old: str, new: str) -> None:
    fields[new] = fields.pop(old)


BREAKING: dict[str, Change] = {
    "a required field deleted": lambda s: (s["properties"].pop("origin"), s["required"].remove("origin")),
    "an optional field deleted": lambda s: s["properties"].pop("run_state"),
    "a nested field deleted": lambda s: s["properties"]["vm"]["properties"].pop("name"),
    "a statistic deleted": lambda s: s["properties"]["statistics"]["properties"].pop("oom_kills"),
    "an optional field renamed": lambda s: rename(s["properties"], "run_state", "status"),
    "a required field renamed": lambda s: (
        rename(s["properties"], "origin", "cause"),
        s["required"].remove("origin"),
        s["required"].append("cause"),
    ),
    "a statistic renamed": lambda s: rename(
        s["properties"]["statistics"]["properties"], "minor_faults", "faults"
    ),
    "a statistic retyped": lambda s: s["properties"]["statistics"]["properties"]["free_memory"].update(
        type="string"
    ),
    "an enum tightened": lambda s: s["properties"]["vm"]["properties"]["id_source"].update(enum=["uuid"]),
    "an enum widened": lambda s: s["properties"]["vm"]["properties"]["id_source"]["enum"].append("name"),
    "a field retyped": lambda s: s["properties"]["sequence"].update(type="string"),
    "an integer made a number": lambda s: s["properties"]["last_update"].update(type="number"),
    "a bound raised": lambda s: s["properties"]["polling_interval_s"].update(maximum=1 << 40),
    "a bound lowered": lambda s: s["properties"]["polling_interval_s"].update(maximum=3600),
    "a field let be null": lambda s: s["properties"]["run_state"].update(type=["string", "null"]),
    "a required field made optional": lambda s: s["required"].remove("sequence"),
    "an optional field required": lambda s: s["required"].append("run_state"),
    "a required field added": lambda s: (
        s["properties"].update(color={"type": "string"}),
        s["required"].append("color"),
    ),
    "a unit changed": lambda s: s["properties"]["last_update"].update({"x-unit": "ms"}),
    "a nested unit changed": lambda s: s["properties"]["balloon"]["properties"]["actual_bytes"].update(
        {"x-unit": "KiBy"}
    ),
    "a statistic's unit changed": lambda s: s["properties"]["statistics"]["properties"]["swap_in"].update(
        {"x-unit": "{page}"}
    ),
    "a counter made a gauge": lambda s: s["properties"]["statistics"]["properties"]["swap_in"].update(
        {"x-kind": "gauge"}
    ),
    "a pattern changed": lambda s: s["properties"]["epoch"].update(pattern="^[0-9]+$"),
    "the names of statistics changed": lambda s: s["properties"]["statistics"]["propertyNames"].update(
        pattern="^stat-[a-z-]+$"
    ),
    "a documented value dropped": lambda s: s["properties"]["origin"]["x-values"].pop("unsolicited"),
    "an item's pattern changed": lambda s: s["properties"]["missing"]["items"].update(pattern="^x"),
}

HARMLESS: dict[str, Change] = {
    "nothing": lambda s: None,
    "an optional field added": lambda s: s["properties"].update(color={"type": "string", "x-unit": "1"}),
    "a nested optional field added": lambda s: s["properties"]["host"]["properties"].update(
        rack={"type": "string"}
    ),
    "a statistic described": lambda s: s["properties"]["statistics"]["properties"].update(
        psi_some_10={"type": "integer", "minimum": 0, "maximum": (1 << 53) - 1, "x-unit": "1"}
    ),
    "a value documented": lambda s: s["properties"]["origin"]["x-values"].update(replayed="from a file"),
    "a description mended": lambda s: s["properties"]["origin"].update(description="Better words."),
    "another id and title": lambda s: s.update({"$id": "urn:barograph:schema:sample:1.1", "title": "1.1"}),
}


@pytest.mark.parametrize("change", BREAKING.values(), ids=BREAKING)
def test_a_change_that_breaks_readers_is_refused(change: Change) -> None:
    older = newest("sample")
    newer = copy.deepcopy(older)

    change(newer)

    assert newer != older
    assert breakages(older, newer) != []


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_a_change_that_does_not_break_readers_passes(change: Change) -> None:
    older = newest("sample")
    newer = copy.deepcopy(older)

    change(newer)

    assert breakages(older, newer) == []

"""Tests of the names and values that labels may have."""

import re

import pytest

from agent.core.labels import (
    LABELS_MAX,
    NAME_MAX_CHARACTERS,
    VALUE_MAX_CHARACTERS,
    bounded,
    matched,
    mistake_in_value,
    mistakes_in_names,
    mistakes_in_pattern,
)


@pytest.mark.parametrize(
    "name", ["vmid", "k8s.cluster.name", "A1_b", "a", "a" * NAME_MAX_CHARACTERS, "deployment.environment.0"]
)
def test_a_name_is_letters_digits_underscores_and_dots(name: str) -> None:
    assert list(mistakes_in_names([name])) == []


@pytest.mark.parametrize(
    "name", ["", "1a", "_a", ".a", "a.", "a..b", "a-b", "a/b", "a b", "größe", "a\n", "a" * 65, "a\ud800"]
)
def test_any_other_name_is_refused_with_what_to_write(name: str) -> None:
    (wrong,) = mistakes_in_names([name])

    assert "is not a label name; use 1 to 64 letters, digits, underscores and dots" in wrong
    assert wrong.isprintable()


def test_labels_are_bounded_in_number_and_differ_in_prometheus() -> None:
    assert list(mistakes_in_names([f"a{number}" for number in range(LABELS_MAX)])) == []
    assert list(mistakes_in_names([f"a{number}" for number in range(LABELS_MAX + 1)])) == [
        "33 labels, more than 32; remove some"
    ]
    assert list(mistakes_in_names(["a.b", "a_b"])) == [
        "'a.b' and 'a_b' are the same label in Prometheus; rename one"
    ]


def test_a_pattern_needs_named_groups_with_valid_names() -> None:
    assert list(mistakes_in_pattern("(?P<name>.+)-(?P<vmid>[0-9]+)")) == []
    assert "named group" in next(iter(mistakes_in_pattern("a+")))
    assert "regular expression" in next(iter(mistakes_in_pattern("(?P<a>")))
    assert "'größe'" in next(iter(mistakes_in_pattern("(?P<größe>.)")))


@pytest.mark.parametrize(
    ("value", "is_right"), [("eu-1", True), ("a" * 257, False), ("", False), ("\n", False)]
)
def test_a_configured_value_is_printable_and_short(value: str, is_right: bool) -> None:
    assert (mistake_in_value(value) is None) == is_right


def test_values_from_outside_are_truncated_and_made_printable() -> None:
    found = bounded({"a": "x" * 1000, "b": " \n ", "c": None, "d": "1\N{RIGHT-TO-LEFT OVERRIDE}2", "e": ""})

    assert found == {"a": "x" * VALUE_MAX_CHARACTERS, "d": "1\N{REPLACEMENT CHARACTER}2"}


def test_a_pattern_that_does_not_match_gives_nothing() -> None:
    pattern = re.compile("/(?P<tier>[a-z]+)(-(?P<number>[0-9]+))?[.]")

    assert matched(pattern, "/run/web-1.qmp") == {"tier": "web", "number": "1"}
    assert matched(pattern, "/run/web.qmp") == {"tier": "web"}
    assert matched(pattern, "/run/9") == matched(None, "/run/web.qmp") == {}

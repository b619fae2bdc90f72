import pytest

from agent.discovery.globs import MonitorGlob, mistakes


@pytest.mark.parametrize(
    "monitor",
    [
        MonitorGlob("/run/vm/*.qmp"),
        MonitorGlob("/run/vm/a.qmp"),
        MonitorGlob("/run/**/qmp.sock"),
        MonitorGlob("/run/vm/*/qmp.sock", None, r"vm/(?P<name>[^/]+)/"),
    ],
)
def test_a_usable_glob_has_no_mistakes(monitor: MonitorGlob) -> None:
    assert list(mistakes(monitor)) == []


@pytest.mark.parametrize(
    ("monitor", "hint"),
    [
        (MonitorGlob("run/vm/*.qmp"), "start it with /"),
        (MonitorGlob(""), "start it with /"),
        (MonitorGlob("/run/vm/"), "/run/vm/*.sock"),
        (MonitorGlob("/run/../etc/*.sock"), "without it"),
        (MonitorGlob("/run/**.sock"), "put it alone"),
        (MonitorGlob("/run/*.sock", None, "(?P<name>"), "not a regular expression"),
        (MonitorGlob("/run/*.sock", None, "([^/]+)"), "(?P<name>...)"),
    ],
)
def test_each_mistake_has_a_hint(monitor: MonitorGlob, hint: str) -> None:
    (said,) = mistakes(monitor)

    assert hint in said

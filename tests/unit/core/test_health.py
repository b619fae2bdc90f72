from dataclasses import replace

from agent.core import health
from agent.core.health import Component, Found, Health, Status
from agent.core.reading import State


def test_since_changes_with_the_health_and_not_with_the_reason() -> None:
    at_first = health.update({}, {"kafka": Status(Health.DEGRADED, "refused")}, 1, stopping=False)

    later = health.update(at_first, {"kafka": Status(Health.DEGRADED, "timed out")}, 2, stopping=False)
    better = health.update(later, {"kafka": Status(Health.OK, "delivers")}, 3, stopping=False)

    assert later == {"kafka": Component(Health.DEGRADED, "timed out", 1)}
    assert better == {"kafka": Component(Health.OK, "delivers", 3)}


def test_a_stopping_agent_is_a_separate_component() -> None:
    kafka = {"kafka": Status(Health.OK, "delivers")}
    before = health.update({}, kafka, 1, stopping=False)

    stopping = health.update(before, kafka, 2, stopping=True)
    later = health.update(stopping, kafka, 3, stopping=True)

    assert later == stopping
    assert stopping["agent"] == Component(Health.STOPPING, "shutting down", 2)
    assert stopping["kafka"] == before["kafka"]
    assert health.overall(stopping) is Health.STOPPING


def test_the_health_of_the_agent_is_that_of_its_worst_component() -> None:
    def whole(*parts: Health) -> Health:
        return health.overall({str(n): Component(each, "", 0) for n, each in enumerate(parts)})

    assert whole() is Health.STARTING
    assert whole(Health.OK, Health.OK) is Health.OK
    assert whole(Health.OK, Health.STARTING) is Health.STARTING
    assert whole(Health.DEGRADED, Health.STARTING) is Health.DEGRADED
    assert whole(Health.STOPPING, Health.DEGRADED) is Health.STOPPING


def test_the_problem_names_each_degraded_component_without_its_progress() -> None:
    parts = {
        "spool": Status(Health.OK, "on disk"),
        "kafka.samples": Status(Health.DEGRADED, "connection refused", "7 records queued"),
        "otlp": Status(Health.DEGRADED, "HTTP 503", "2 cycles failed"),
    }
    found = health.update({}, parts, 1, stopping=False)

    assert health.problem(found) == "kafka.samples: connection refused; otlp: HTTP 503"
    assert found["otlp"].text == "HTTP 503; 2 cycles failed"
    assert health.problem({"spool": found["spool"]}) is None


def test_a_long_reason_is_cut_off() -> None:
    found = health.update({}, {"otlp": Status(Health.DEGRADED, "x" * 10_000)}, 1, stopping=False)

    assert len(found["otlp"].why) == health.WHY_CHARACTERS_MAX


def test_an_agent_is_ready_while_nothing_is_missing_and_it_is_not_stopping() -> None:
    assert health.not_ready([None, None], stopping=False) == []
    assert health.not_ready([None, "the spool cannot be written"], stopping=False) == [
        "the spool cannot be written"
    ]
    assert health.not_ready(["the spool cannot be written"], stopping=True) == ["stopping"]


def test_discovery_counts_what_it_found_and_only_libvirt_degrades_it() -> None:
    found = Found(watched=3, refused=1, excluded=0, libvirts=0, libvirt_problems={})

    assert health.of_discovery(None).health is Health.STARTING
    assert health.of_discovery(found) == Status(Health.OK, "3 monitors watched, 1 refused")
    assert health.of_discovery(replace(found, watched=1, excluded=2, libvirts=1)) == Status(
        Health.OK, "1 monitor watched, 1 refused, 2 excluded, 1 libvirt daemon connected"
    )
    away = replace(found, libvirts=2, libvirt_problems={"qemu:///system": "connection refused"})
    assert health.of_discovery(away) == Status(Health.DEGRADED, "qemu:///system: connection refused")


def test_vms_that_do_not_report_do_not_degrade_collection() -> None:
    assert health.of_collection(None).health is Health.STARTING
    assert health.of_collection([State.REPORTING, State.STALLED]) == Status(Health.OK, "1 of 2 VMs reporting")


def test_a_problem_degrades_the_spool() -> None:
    assert health.of_spool(is_used=False, problem=None).why == "no spool, records are queued in memory"
    assert health.of_spool(is_used=True, problem=None) == Status(Health.OK, "on disk")
    assert health.of_spool(is_used=True, problem="full") == Status(Health.DEGRADED, "full")


def test_texts_of_peers_are_printable() -> None:
    hostile = "\x1b[2J\ud800\u202e\n"

    found = health.update({}, {"otlp": Status(Health.DEGRADED, hostile, hostile)}, 1, stopping=False)

    for text in (found["otlp"].text, health.problem(found) or ""):
        assert text.isprintable()
        assert "[2J" in text

"""Tests of the audit of topics: one fact at a time differs from a cluster that suits the agent."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agent.core.findings import Finding, Level, worst
from agent.core.topic_audit import audit
from agent.core.topic_commands import Cluster, shown
from agent.core.topic_facts import (
    ClusterFacts,
    Code,
    Sending,
    Topic,
    TopicFacts,
    duration,
    partitions_for,
    retention_for,
)

DAY_MS = 86_400_000
CLUSTER = Cluster(["kafka:9092"], is_secured=False, principal="User:barograph")
SENDING = Sending(
    topics=[Topic("samples", "vm.samples")], spool_age_s=7 * 86_400, batch_bytes=262_144, compression="zstd"
)
CONFIG = {
    "cleanup.policy": "delete",
    "compression.type": "producer",
    "max.message.bytes": "1048588",
    "message.timestamp.before.max.ms": str(2**63 - 1),
    "message.timestamp.type": "CreateTime",
    "min.insync.replicas": "2",
    "retention.bytes": "-1",
    "retention.ms": str(14 * DAY_MS),
}
GOOD = TopicFacts(replicas=[3] * 6, in_sync=[3] * 6, may_write=True, config=CONFIG)


def findings(facts: TopicFacts, sending: Sending = SENDING, *, refused: bool | None = False) -> list[Finding]:
    cluster = ClusterFacts(
        brokers=3, topics={each.name: facts for each in sending.topics}, idempotence_refused=refused
    )
    return audit(sending, cluster, CLUSTER)


def wrong(found: list[Finding]) -> list[tuple[Code, Level]]:
    return [(Code(each.code), each.level) for each in found if each.level is not Level.OK]


def test_a_topic_that_suits_the_agent_has_no_problem() -> None:
    found = findings(GOOD)

    assert wrong(found) == []
    assert worst(found) is Level.OK
    assert {each.code for each in found} == set(Code) - {Code.CONFIG, Code.RETENTION_BYTES}


W, E = Level.WARNING, Level.ERROR
CONFIGS: list[tuple[Mapping[str, str | None], Code, Level]] = [
    ({"retention.ms": str(7 * DAY_MS)}, Code.RETENTION, E),
    ({"retention.ms": "3600000"}, Code.RETENTION, E),
    ({"retention.ms": str(7 * DAY_MS + 1000)}, Code.RETENTION, W),
    ({"retention.ms": None}, Code.RETENTION, W),
    ({"retention.ms": "9" * 400}, Code.RETENTION, W),
    ({"retention.bytes": "1073741824"}, Code.RETENTION_BYTES, W),
    ({"cleanup.policy": "compact"}, Code.CLEANUP, E),
    ({"cleanup.policy": "delete,compact"}, Code.CLEANUP, E),
    ({"cleanup.policy": None}, Code.CLEANUP, W),
    ({"message.timestamp.type": "LogAppendTime"}, Code.TIMESTAMPS, W),
    ({"message.timestamp.before.max.ms": "3600000"}, Code.TIMESTAMPS, W),
    (
        {"message.timestamp.before.max.ms": None, "message.timestamp.difference.max.ms": "3600000"},
        Code.TIMESTAMPS,
        W,
    ),
    ({"max.message.bytes": "200000"}, Code.MESSAGE_SIZE, W),
    ({"max.message.bytes": "2000"}, Code.MESSAGE_SIZE, E),
    ({"max.message.bytes": None}, Code.MESSAGE_SIZE, W),
    ({"compression.type": "lz4"}, Code.COMPRESSION, W),
    ({"min.insync.replicas": "4"}, Code.IN_SYNC, E),
    ({"min.insync.replicas": "3"}, Code.IN_SYNC, W),
    ({"min.insync.replicas": "1"}, Code.IN_SYNC, W),
    ({"min.insync.replicas": None}, Code.IN_SYNC, W),
]


@pytest.mark.parametrize(("changed", "code", "level"), CONFIGS)
def test_each_setting_that_does_not_suit_the_agent_is_found(
    changed: Mapping[str, str | None], code: Code, level: Level
) -> None:
    config = {**CONFIG, **{name: value for name, value in changed.items() if value is not None}}
    config = {name: value for name, value in config.items() if changed.get(name, value) is not None}

    found = findings(replace(GOOD, config=config))

    problems = [each for each in found if each.level is not Level.OK]
    assert (code, level) in wrong(found)
    assert all(each.hint for each in problems)
    assert len(problems) == 1 or code is Code.CLEANUP  # without a policy, there is no retention either


ONE_NEEDED = CONFIG | {"min.insync.replicas": "1"}
FACTS: list[tuple[Mapping[str, Any], Code, Level]] = [
    ({"error_code": 3}, Code.EXISTS, E),
    ({"error_code": 29}, Code.WRITE, E),
    ({"error_code": 5, "error": "LeaderNotAvailableError"}, Code.EXISTS, E),
    ({"replicas": [3], "in_sync": [3]}, Code.PARTITIONS, W),
    ({"replicas": [1] * 6, "in_sync": [1] * 6, "config": ONE_NEEDED}, Code.REPLICAS, W),
    ({"leaderless": 2}, Code.LEADERS, E),
    ({"in_sync": [3, 3, 1, 3, 3, 3]}, Code.IN_SYNC, E),
    ({"may_write": False}, Code.WRITE, E),
    ({"may_write": None}, Code.WRITE, W),
    ({"config": None, "config_error": "TopicAuthorizationFailedError"}, Code.CONFIG, W),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "code", "level"), FACTS)
def test_each_fact_that_keeps_the_agent_from_delivering_is_found(
    changed: Mapping[str, Any], code: Code, level: Level
) -> None:
    found = findings(replace(GOOD, **changed))

    assert wrong(found) == [(code, level)]
    assert all(each.hint for each in found if each.level is not Level.OK)


@pytest.mark.parametrize(("refused", "level"), [(True, E), (None, W)])
def test_idempotent_writes_that_are_refused_or_unknown_are_found(refused: bool | None, level: Level) -> None:
    assert wrong(findings(GOOD, refused=refused)) == [(Code.IDEMPOTENCE, level)]


def test_a_compacted_topic_of_states_loses_only_history() -> None:
    sending = replace(SENDING, topics=[Topic("states", "vm.states")])
    compacted = replace(GOOD, config=CONFIG | {"cleanup.policy": "compact"})

    assert wrong(findings(compacted, sending)) == [(Code.CLEANUP, W)]


def test_needing_more_replicas_than_there_are_is_not_blamed_on_brokers_that_are_down() -> None:
    found = findings(replace(GOOD, config=CONFIG | {"min.insync.replicas": "4"}))

    (finding,) = [each for each in found if each.level is Level.ERROR]
    assert finding.hint == "set min.insync.replicas of the topic to 2"


def test_retention_counts_from_arrival_where_the_broker_sets_the_time() -> None:
    config = CONFIG | {"message.timestamp.type": "LogAppendTime", "retention.ms": str(2 * DAY_MS)}

    assert wrong(findings(replace(GOOD, config=config))) == [(Code.TIMESTAMPS, W)]


def test_partitions_are_judged_for_the_whole_fleet() -> None:
    assert wrong(findings(GOOD, replace(SENDING, vms=50_000))) == [(Code.PARTITIONS, W)]
    assert wrong(findings(GOOD, replace(SENDING, vms=1000))) == []


def test_a_finding_has_the_command_that_fixes_it() -> None:
    found = findings(replace(GOOD, config=CONFIG | {"retention.ms": "1000"}))

    (command,) = [each.command for each in found if each.level is Level.ERROR]
    assert command is not None
    assert shown(command) == (
        "kafka-configs.sh --bootstrap-server kafka:9092 --alter --entity-type topics "
        f"--entity-name vm.samples --add-config retention.ms={14 * DAY_MS}"
    )


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0ms"), (999, "999ms"), (1000, "1s"), (90_000, "90s"), (3_600_000, "1h"), (DAY_MS, "1d")],
)
def test_durations_are_written_as_settings_are(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_defaults_of_new_topics() -> None:
    assert retention_for(7 * 86_400) == 14 * DAY_MS
    assert retention_for(None) == 7 * DAY_MS
    assert [partitions_for(vms) for vms in (None, 10, 5000, 10**9)] == [6, 6, 10, 96]

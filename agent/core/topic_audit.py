"""Checks a Kafka cluster and the agent's topics: facts in, findings out."""

from collections.abc import Iterator

from agent.core.findings import Finding, Level
from agent.core.topic_commands import Cluster, alter_topic, grant
from agent.core.topic_config_audit import ConfigAudit
from agent.core.topic_facts import (
    TOPIC_DENIED,
    UNKNOWN_TOPIC,
    ClusterFacts,
    Code,
    Sending,
    Topic,
    TopicFacts,
    partitions_for,
)


def audit(sending: Sending, facts: ClusterFacts, cluster: Cluster) -> list[Finding]:
    """Return the findings about the cluster and each topic, in a fixed order."""
    found = list(_idempotence(facts, cluster))
    for topic in sending.topics:
        known = facts.topics.get(topic.name, TopicFacts(error_code=UNKNOWN_TOPIC))
        found += _topic(topic, known, sending, facts, cluster)
    return found


def _topic(
    topic: Topic, known: TopicFacts, sending: Sending, facts: ClusterFacts, cluster: Cluster
) -> Iterator[Finding]:
    if known.error_code == UNKNOWN_TOPIC:
        hint = "create it: barograph topics create"
        yield Finding(Code.EXISTS, Level.ERROR, topic.name, "the topic does not exist", hint)
        return
    if known.error_code == TOPIC_DENIED:
        detail = "the agent's user may not see the topic, or it does not exist"
        hint = "allow Describe and Write on it for the agent's user"
        yield Finding(Code.WRITE, Level.ERROR, topic.name, detail, hint, grant(cluster, topic.name, "Write"))
        return
    if known.error_code:
        yield Finding(
            Code.EXISTS, Level.ERROR, topic.name, f"the cluster reports {known.error}", "check the brokers"
        )
        return
    yield Finding(Code.EXISTS, Level.OK, topic.name, "the topic exists")
    yield _write(topic, known, cluster)
    yield _leaders(topic, known)
    yield _partitions(topic, known, sending, cluster)
    yield _replicas(topic, known, facts)
    if known.config is None:
        hint = "allow DescribeConfigs on it for the agent's user, or run this command as an administrator"
        detail = f"the settings of the topic are not visible ({known.config_error or 'no answer'})"
        command = grant(cluster, topic.name, "DescribeConfigs")
        yield Finding(Code.CONFIG, Level.WARNING, topic.name, detail, hint, command)
        return
    config = ConfigAudit(topic, known.config, cluster)
    yield config.in_sync(known)
    yield from config.retention(sending.spool_age_s)
    yield config.cleanup()
    yield config.timestamps(sending.spool_age_s)
    yield config.message_size(sending.batch_bytes)
    yield config.compression(sending.compression)


def _idempotence(facts: ClusterFacts, cluster: Cluster) -> Iterator[Finding]:
    match facts.idempotence_refused:
        case True:
            hint = (
                "allow Write on the topics for the agent's user; brokers before Kafka 2.8 also require "
                "IdempotentWrite on the cluster"
            )
            detail = "the agent's user may not write idempotently"
            command = grant(cluster, None, "IdempotentWrite")
            yield Finding(Code.IDEMPOTENCE, Level.ERROR, "", detail, hint, command)
        case False:
            yield Finding(Code.IDEMPOTENCE, Level.OK, "", "the agent's user may write idempotently")
        case None:
            detail = "it is not known whether the agent's user may write idempotently"
            hint = "run the command again"
            yield Finding(Code.IDEMPOTENCE, Level.WARNING, "", detail, hint)


def _write(topic: Topic, known: TopicFacts, cluster: Cluster) -> Finding:
    if known.may_write:
        return Finding(Code.WRITE, Level.OK, topic.name, "the agent's user may write to the topic")
    command = grant(cluster, topic.name, "Write")
    if known.may_write is None:
        detail = "brokers before Kafka 2.3 do not show whether the agent's user may write to the topic"
        hint = "compare the ACLs of the topic: Describe and Write"
        return Finding(Code.WRITE, Level.WARNING, topic.name, detail, hint)
    detail, hint = "the agent's user may not write to the topic", "allow Write on it for the agent's user"
    return Finding(Code.WRITE, Level.ERROR, topic.name, detail, hint, command)


def _leaders(topic: Topic, known: TopicFacts) -> Finding:
    if not known.leaderless:
        return Finding(Code.LEADERS, Level.OK, topic.name, "every partition has a leader")
    detail = f"partitions without a leader: {known.leaderless} of {len(known.replicas)}"
    return Finding(
        Code.LEADERS, Level.ERROR, topic.name, detail, "start the brokers that have their replicas"
    )


def _partitions(topic: Topic, known: TopicFacts, sending: Sending, cluster: Cluster) -> Finding:
    count, wanted = len(known.replicas), partitions_for(sending.vms)
    detail = f"partitions: {count}"
    if count > 1 and (sending.vms is None or count * 2 >= wanted):
        return Finding(Code.PARTITIONS, Level.OK, topic.name, detail)
    why = "one reader at a time can read it" if count == 1 else f"few for {sending.vms} VMs"
    hint = (
        f"use {wanted} partitions; stop the agents and let the readers reach the end first, because "
        "VMs move to other partitions"
    )
    command = alter_topic(cluster, topic.name, wanted)
    return Finding(Code.PARTITIONS, Level.WARNING, topic.name, f"{detail}; {why}", hint, command)


def _replicas(topic: Topic, known: TopicFacts, facts: ClusterFacts) -> Finding:
    fewest = min(known.replicas, default=0)
    if fewest > 1:
        return Finding(Code.REPLICAS, Level.OK, topic.name, f"replicas of a partition: {fewest}")
    hint = (
        "reassign its partitions to several brokers (kafka-reassign-partitions.sh), or create it again"
        if facts.brokers > 1
        else "use a cluster of at least three brokers"
    )
    detail = "replicas of a partition: 1; the loss of a broker loses its records"
    return Finding(Code.REPLICAS, Level.WARNING, topic.name, detail, hint)

"""Tests of the printed commands, word by word and as a shell parses them."""

import shlex

import pytest

from agent.core.topic_commands import Cluster, NewTopics, alter_topic, grant, setup, shown

CLUSTER = Cluster(["a:9092", "b:9092"], is_secured=True, principal="User:it's $(me)")
NEW = NewTopics(partitions=6, retention_ms=1000)


def test_the_commands_of_a_new_cluster() -> None:
    plain = Cluster(["a:9092"], is_secured=False, principal="User:barograph")

    lines = [shown(each) for each in setup(plain, ["s", "t"], NEW.wanted(3))]

    create = "kafka-topics.sh --bootstrap-server a:9092 --create --if-not-exists --topic"
    sizes = (
        "--partitions 6 --replication-factor 3 --config=cleanup.policy=delete "
        "--config=min.insync.replicas=2 --config=retention.ms=1000"
    )
    allow = "kafka-acls.sh --bootstrap-server a:9092 --add --allow-principal User:barograph"
    allow = f"{allow} --operation Write --topic"
    assert lines == [f"{create} s {sizes}", f"{create} t {sizes}", f"{allow} s", f"{allow} t"]


def test_a_shell_parses_a_printed_command_into_its_words() -> None:
    command = grant(CLUSTER, None, "IdempotentWrite")

    assert command is not None
    assert shlex.split(shown(command)) == list(command)
    assert command[1:5] == ("--bootstrap-server", "a:9092,b:9092", "--command-config", "admin.properties")
    assert command[-3:] == ("--operation", "IdempotentWrite", "--cluster")
    assert "'User:it'\"'\"'s $(me)'" in shown(command)


def test_an_unknown_user_is_allowed_nothing() -> None:
    unknown = Cluster(["a:9092"], is_secured=False, principal=None)

    assert grant(unknown, "s", "Write") is None
    assert [each[0] for each in setup(unknown, ["s"], NEW.wanted(1))] == ["kafka-topics.sh"]


def test_more_partitions() -> None:
    assert alter_topic(CLUSTER, "s", 12)[-4:] == ("--topic", "s", "--partitions", "12")


@pytest.mark.parametrize(
    ("chosen", "brokers", "replicas", "min_in_sync"),
    [(None, 1, 1, "1"), (None, 2, 2, "1"), (None, 9, 3, "2"), (None, 0, 1, "1"), (5, 3, 5, "4")],
)
def test_replicas_by_the_number_of_brokers(
    chosen: int | None, brokers: int, replicas: int, min_in_sync: str
) -> None:
    wanted = NewTopics(partitions=6, retention_ms=1, replicas=chosen).wanted(brokers)

    assert (wanted.replicas, wanted.config["min.insync.replicas"]) == (replicas, min_in_sync)

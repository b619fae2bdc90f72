"""The commands of Apache Kafka that create the agent's topics, change them, and allow writing to them.

A command is a list of words; `shown` quotes it for a shell.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Command: TypeAlias = tuple[str, ...]

COMMAND_CONFIG = "admin.properties"
"""The file with the administrator's login, in the printed commands."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """How the commands reach the cluster, and the user that they allow to write."""

    servers: Sequence[str]
    is_secured: bool  # the administrator must log in, or use TLS
    principal: str | None  # such as "User:barograph"; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The properties of a topic to be created."""

    partitions: int
    replicas: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTopics:
    """The properties of new topics, as far as they are chosen."""

    partitions: int
    retention_ms: int
    replicas: int | None = None  # None: as many as there are brokers, three at most
    min_in_sync: int | None = None  # None: one fewer than the replicas

    def wanted(self, brokers: int) -> Wanted:
        """Return all properties, for a cluster of so many brokers."""
        replicas = self.replicas or min(3, max(1, brokers))
        config = {
            "cleanup.policy": "delete",
            "min.insync.replicas": str(self.min_in_sync or max(1, replicas - 1)),
            "retention.ms": str(self.retention_ms),
        }
        return Wanted(partitions=self.partitions, replicas=replicas, config=config)


def create_topic(cluster: Cluster, name: str, wanted: Wanted) -> Command:
    """Return the command that creates a topic, and does nothing if it exists."""
    options = [f"--config={key}={value}" for key, value in wanted.config.items()]
    sizes = ("--partitions", str(wanted.partitions), "--replication-factor", str(wanted.replicas))
    return _command(
        "kafka-topics.sh", cluster, "--create", "--if-not-exists", "--topic", name, *sizes, *options
    )


def alter_topic(cluster: Cluster, name: str, partitions: int) -> Command:
    """Return the command that gives a topic more partitions."""
    return _command("kafka-topics.sh", cluster, "--alter", "--topic", name, "--partitions", str(partitions))


def change_topic(cluster: Cluster, name: str, config: Mapping[str, str]) -> Command:
    """Return the command that changes settings of a topic."""
    changes = ",".join(f"{key}={value}" for key, value in config.items())
    return _command(
        "kafka-configs.sh", cluster, "--alter", "--entity-type", "topics", "--entity-name", name,
        "--add-config", changes,
    )  # fmt: skip


def grant(cluster: Cluster, topic: str | None, operation: str) -> Command | None:
    """Return the command that allows an operation on a topic, or on the cluster; `None`: for an unknown user.

    Write and DescribeConfigs imply Describe (AclEntry and StandardAuthorizer of Kafka).
    """
    if cluster.principal is None:
        return None
    place = ("--cluster",) if topic is None else ("--topic", topic)
    return _command(
        "kafka-acls.sh",
        cluster,
        "--add",
        "--allow-principal",
        cluster.principal,
        "--operation",
        operation,
        *place,
    )


def setup(cluster: Cluster, topics: Sequence[str], wanted: Wanted) -> list[Command]:
    """Return the commands that create all topics, and allow the agent's user to write to them.

    Write on a topic is the least that the agent needs: it implies Describe, and since Kafka 2.8 it allows
    idempotent writes (KIP-679).
    """
    created = [create_topic(cluster, topic, wanted) for topic in topics]
    return created + [each for topic in topics if (each := grant(cluster, topic, "Write")) is not None]


def shown(command: Command) -> str:
    """Return the command as a line for a POSIX shell."""
    return shlex.join(command)


def _command(script: str, cluster: Cluster, *words: str) -> Command:
    login = ("--command-config", COMMAND_CONFIG) if cluster.is_secured else ()
    return (script, "--bootstrap-server", ",".join(cluster.servers), *login, *words)

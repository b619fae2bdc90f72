"""What a Kafka cluster shows of the agent's topics, and what is checked of it.

The names and meanings of the settings are Apache Kafka's (kafka.apache.org, Topic Configs). A fact that the
cluster does not show is `None`; it is reported once for each topic, and is never taken for a default.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil

CONFIG_NAMES = (
    "cleanup.policy",
    "compression.type",
    "max.message.bytes",
    "message.timestamp.before.max.ms",
    "message.timestamp.difference.max.ms",  # before Kafka 3.6
    "message.timestamp.type",
    "min.insync.replicas",
    "retention.bytes",
    "retention.ms",
)
"""The settings of a topic that are asked for."""

MARGIN_S = 7 * 86_400
"""How much longer than `spool.age` a topic should keep records, so that readers have time for them."""

_PARTITIONS_MIN, _PARTITIONS_MAX = 6, 96
_VMS_OF_A_PARTITION = 500


class Code(StrEnum):
    """What was checked. The values are part of the output, so they stay."""

    EXISTS = "exists"
    LEADERS = "leaders"
    PARTITIONS = "partitions"
    REPLICAS = "replicas"
    IN_SYNC = "in-sync"
    RETENTION = "retention"
    RETENTION_BYTES = "retention-bytes"
    CLEANUP = "cleanup"
    TIMESTAMPS = "timestamps"
    MESSAGE_SIZE = "message-size"
    COMPRESSION = "compression"
    CONFIG = "config"
    WRITE = "write"
    IDEMPOTENCE = "idempotence"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic that the agent writes to."""

    kind: str  # "samples", "states"
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What the agent sends, and how."""

    topics: Sequence[Topic]
    spool_age_s: float | None  # None: nothing is kept on disk
    batch_bytes: int  # the largest batch, before compression
    compression: str
    vms: int | None = None  # in the whole fleet; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """What the cluster shows of one topic."""

    error_code: int = 0  # of its metadata: kafka.apache.org/protocol, error codes
    error: str = ""  # the same in words
    replicas: Sequence[int] = ()  # of each partition: how many it has
    in_sync: Sequence[int] = ()  # of each partition: how many are in sync
    leaderless: int = 0  # partitions
    may_write: bool | None = None
    config: Mapping[str, str] | None = None
    config_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What the cluster shows."""

    brokers: int
    topics: Mapping[str, TopicFacts] = field(default_factory=dict[str, TopicFacts])
    idempotence_refused: bool | None = None  # None: unknown


UNKNOWN_TOPIC, TOPIC_DENIED = 3, 29
"""Error codes: UNKNOWN_TOPIC_OR_PARTITION, TOPIC_AUTHORIZATION_FAILED."""


def partitions_for(vms: int | None) -> int:
    """Return how many partitions to create: readers share a topic by partitions."""
    wanted = ceil((vms or 0) / _VMS_OF_A_PARTITION)
    return max(_PARTITIONS_MIN, min(_PARTITIONS_MAX, wanted))


def retention_for(spool_age_s: float | None) -> int:
    """Return the retention of a new topic, in milliseconds: `spool.age` and a margin."""
    return int(((spool_age_s or 0) + MARGIN_S) * 1000)


def duration(ms: float) -> str:
    """Return a duration in its largest unit without a rest, as the settings are written."""
    seconds = int(ms // 1000)
    for unit, length_s in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length_s == 0:
            return f"{seconds // length_s}{unit}"
    return f"{seconds}s" if seconds else f"{int(ms)}ms"

"""The codes of the checks of `barograph doctor`, and what is said about each."""

from dataclasses import dataclass
from enum import StrEnum


class Category(StrEnum):
    """What a check is about. The output has a section for each."""

    CONFIGURATION = "configuration"
    HOST = "host"
    SOCKETS = "sockets"
    VMS = "VMs"
    LIBVIRT = "libvirt"
    KAFKA = "Kafka"
    OTLP = "OTLP"
    STATE = "state directory"
    KUBERNETES = "Kubernetes"
    LIMITS = "limits"
    AGENT = "agent"


class Code(StrEnum):
    """What is checked. The values are part of the output, so they stay."""

    CONFIG_FILE = "config-file"
    CONFIG_UNKNOWN = "config-unknown"
    CONFIG_VALID = "config-valid"
    CONFIG_CAUTION = "config-caution"
    CONFIG_OVERRIDDEN = "config-overridden"
    SECRET_MODE = "secret-mode"
    HOST_ID = "host-id"
    HOST_ID_STABLE = "host-id-stable"
    HOST_ID_UNIQUE = "host-id-unique"
    HOST_NAME = "host-name"
    SOCKETS_FOUND = "sockets-found"
    SOCKETS_READABLE = "sockets-readable"
    SOCKETS_BOUND = "sockets-bound"
    SOCKET_OWNER = "socket-owner"
    SOCKET_LINK = "socket-link"
    SOCKET_PERMISSION = "socket-permission"
    SOCKET_LISTENER = "socket-listener"
    SOCKET_FREE = "socket-free"
    SOCKET_QMP = "socket-qmp"
    SOCKET_VM = "socket-vm"
    SOCKET_ANSWER = "socket-answer"
    VM_UNIQUE = "vm-unique"
    VM_BALLOON = "vm-balloon"
    VM_POLLING = "vm-polling"
    VM_CONTENDED = "vm-contended"
    VM_INTERVAL = "vm-interval"
    VM_DRIVER = "vm-driver"
    VM_STATISTICS = "vm-statistics"
    VM_UPDATES = "vm-updates"
    LIBVIRT_BINDINGS = "libvirt-bindings"
    LIBVIRT_ANSWERS = "libvirt-answers"
    LIBVIRT_REACHABLE = "libvirt-reachable"
    LIBVIRT_PERMISSION = "libvirt-permission"
    BROKER_RESOLVE = "broker-resolve"
    BROKER_CONNECT = "broker-connect"
    BROKER_TLS = "broker-tls"
    BROKER_PROTOCOL = "broker-protocol"
    BROKER_LOGIN = "broker-login"
    BROKER_ADVERTISED = "broker-advertised"
    TOPIC_EXISTS = "topic-exists"
    TOPIC_LEADERS = "topic-leaders"
    TOPIC_WRITE = "topic-write"
    TOPIC_IDEMPOTENCE = "topic-idempotence"
    TOPIC_PARTITIONS = "topic-partitions"
    TOPIC_REPLICAS = "topic-replicas"
    TOPIC_IN_SYNC = "topic-in-sync"
    TOPIC_RETENTION = "topic-retention"
    TOPIC_RETENTION_BYTES = "topic-retention-bytes"
    TOPIC_CLEANUP = "topic-cleanup"
    TOPIC_TIMESTAMPS = "topic-timestamps"
    TOPIC_MESSAGE_SIZE = "topic-message-size"
    TOPIC_COMPRESSION = "topic-compression"
    TOPIC_CONFIG = "topic-config"
    OTLP_RESOLVE = "otlp-resolve"
    OTLP_CONNECT = "otlp-connect"
    OTLP_TLS = "otlp-tls"
    OTLP_LOGIN = "otlp-login"
    OTLP_ACCEPTED = "otlp-accepted"
    OTLP_LOGS = "otlp-logs"
    CLOCK_AGREES = "clock-agrees"
    STATE_DIRECTORY = "state-directory"
    STATE_OWNER = "state-owner"
    STATE_PRIVATE = "state-private"
    STATE_WRITABLE = "state-writable"
    STATE_FILE_SYSTEM = "state-file-system"
    STATE_SPACE = "state-space"
    STATE_LOCK = "state-lock"
    SPOOL_INTACT = "spool-intact"
    SPOOL_DEAD_LETTERS = "spool-dead-letters"
    POD_NODE_NAME = "pod-node-name"
    POD_MACHINE_ID = "pod-machine-id"
    POD_MONITORS = "pod-monitors"
    POD_STATE = "pod-state"
    POD_TOKEN = "pod-token"
    POD_PRIVILEGES = "pod-privileges"
    LIMIT_FILES = "limit-files"
    LIMIT_MEMORY = "limit-memory"
    CLOCK_SYNCHRONIZED = "clock-synchronized"
    WEB_PORT = "web-port"
    AGENT_RUNNING = "agent-running"
    AGENT_READY = "agent-ready"
    AGENT_HEALTHY = "agent-healthy"
    AGENT_VERSION = "agent-version"
    AGENT_USER = "agent-user"
    TIME_LIMIT = "time-limit"


class When(StrEnum):
    """When a check is made."""

    ALWAYS = "always"
    BEFORE = "with --pre only"  # the check needs that no agent runs
    AFTER = "without --pre"  # the check needs VMs or a running agent


@dataclass(frozen=True, slots=True)
class Check:
    """One check. Texts are fixed, and may have Markdown's backticks around names."""

    category: Category
    passed: str  # the text of a check that found nothing wrong
    failed: str  # what a failure means
    step: str  # what to do about it
    when: When = When.ALWAYS

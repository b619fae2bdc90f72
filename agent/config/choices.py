"""Settings that take one of a few words."""

from enum import StrEnum


class OnExit(StrEnum):
    """What happens at a clean exit to the intervals we set."""

    GIVE_BACK = "give-back"
    KEEP = "keep"


class SpoolMode(StrEnum):
    """Where records wait for Kafka, and where what is known of VMs outlives the agent."""

    AUTO = "auto"
    DISK = "disk"
    NONE = "none"


class KafkaCompression(StrEnum):
    """How batches are compressed."""

    NONE = "none"
    GZIP = "gzip"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    ZSTD = "zstd"


class SaslMechanism(StrEnum):
    """How the agent proves to Kafka who it is."""

    PLAIN = "PLAIN"
    SCRAM_256 = "SCRAM-SHA-256"
    SCRAM_512 = "SCRAM-SHA-512"


class OtlpProtocol(StrEnum):
    """How OTLP is carried."""

    HTTP = "http"
    GRPC = "grpc"


class OtlpCompression(StrEnum):
    """How requests are compressed."""

    NONE = "none"
    GZIP = "gzip"


class Identity(StrEnum):
    """Where a VM's id, name and host stand in OTLP."""

    POINTS = "points"
    RESOURCE = "resource"


class LogLevel(StrEnum):
    """The least important lines to be written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """What a line looks like."""

    CONSOLE = "console"
    JSON = "json"


class Switch(StrEnum):
    """On, off, or what fits."""

    AUTO = "auto"
    ON = "true"
    OFF = "false"

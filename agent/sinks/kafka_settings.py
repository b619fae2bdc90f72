"""What may be said about a Kafka cluster."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Compression: TypeAlias = Literal["none", "gzip", "snappy", "lz4", "zstd"]
SaslMechanism: TypeAlias = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sasl:
    """Who we are to the brokers."""

    mechanism: SaslMechanism
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS to the brokers. Files are read anew at each connection, so a renewed certificate is used."""

    ca_file: Path | None = None  # None: the system's authorities
    cert_file: Path | None = None  # None: no client certificate
    key_file: Path | None = None  # None: the key is in cert_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One cluster, its topics, and how patient to be."""

    bootstrap_servers: tuple[str, ...]  # "host:port"; asked anew after each failure
    samples_topic: str = "barograph.samples"
    states_topic: str = "barograph.states"
    client_id: str = "barograph"
    # Samples look alike: of 1,195 bytes 52 are left, for 0.7 us of CPU. aiokafka 0.14 asks lz4 for level 9
    # (codec.py, lz4_encode): 101 bytes, for 5 to 10 us.
    compression: Compression = "zstd"
    tls: Tls | None = None  # None: plaintext
    sasl: Sasl | None = None  # None: nobody asks who we are
    request_timeout_s: float = 10.0  # one request to one broker
    # All attempts at one batch: beyond it the connections are closed and made anew. Long enough for a
    # leader to move; aiokafka itself would try for ever.
    delivery_timeout_s: float = 30.0
    # Before compression, for each partition: well under the broker's message.max.bytes (1 MiB), which
    # would refuse the whole batch.
    produce_batch_bytes: int = 256 * 1024

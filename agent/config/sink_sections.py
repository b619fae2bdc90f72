"""The sections of the sinks: every setting with its type, default and description."""

from typing import Annotated

from pydantic import Field

from agent.config.types import (
    AbsolutePath,
    Endpoint,
    Headers,
    Identifier,
    Identity,
    KafkaCompression,
    OnOff,
    OtlpCompression,
    OtlpProtocol,
    SaslMechanism,
    Secret,
    Section,
    Servers,
    Switch,
    Text,
    Topic,
)
from agent.config.units import Duration, WrittenDuration, within
from agent.contract.encode import Mode


class TlsFiles(Section):
    """Certificates, in PEM."""

    ca_file: AbsolutePath | None = Field(
        default=None, description="Whom to trust. Default: the system's certificate authorities."
    )
    cert_file: AbsolutePath | None = Field(
        default=None, description="The agent's certificate, with `key_file`."
    )
    key_file: AbsolutePath | None = Field(default=None, description="The key of `cert_file`, not encrypted.")


class KafkaTlsConfig(TlsFiles):
    """TLS to the brokers."""

    enabled: bool = Field(
        default=False, description="Whether to speak TLS; the brokers' names are always checked."
    )


class SaslConfig(Section):
    """Who the agent is to Kafka."""

    mechanism: SaslMechanism | None = Field(default=None, description="Default: no SASL.")
    username: Text | None = Field(default=None, description="With `mechanism`.")
    password: Secret | None = Field(
        default=None,
        description="With `username`. Never in the file: by this variable, or `password_file`.",
    )
    password_file: AbsolutePath | None = Field(
        default=None, description="A file with the password; a line break at its end does not count."
    )


class KafkaConfig(Section):
    """Every sample and state, in order. On where `bootstrap_servers` is given."""

    bootstrap_servers: Servers | None = Field(
        default=None,
        description="Brokers to ask first, `HOST:PORT`: a list, or one string with commas.",
    )
    samples_topic: Topic = Field(default="barograph.samples", description="Where samples go.")
    states_topic: Topic = Field(
        default="barograph.states", description="Where the states of VMs and of the agent go."
    )
    compression: KafkaCompression = Field(
        default=KafkaCompression.ZSTD,
        description=(
            "Samples look alike: `zstd` leaves 52 of 1,195 bytes for 0.7 us of CPU. `lz4` and `gzip` "
            "are asked for their highest level by the client library, and cost ten times as much."
        ),
    )
    mode: Mode = Field(
        default=Mode.BINARY,
        description=(
            "Where CloudEvents attributes go: `binary` into headers, so that the value stays "
            "plain; `structured` around the value, for readers that lose headers."
        ),
    )
    client_id: Identifier = Field(
        default="barograph", description="What the brokers' logs and quotas call the agent."
    )
    tls: KafkaTlsConfig = KafkaTlsConfig()
    sasl: SaslConfig = SaslConfig()
    request_timeout: Annotated[WrittenDuration, within("100ms", "5m")] = Field(
        default=Duration(10 * 10**9), description="How long one request to a broker may take."
    )
    delivery_timeout: Annotated[WrittenDuration, within("100ms", "1h")] = Field(
        default=Duration(30 * 10**9),
        description=(
            "How long one batch may take, the client's own retries included; then the connection "
            "is made anew and the batch sent again. At least `request_timeout`."
        ),
    )


class OtlpConfig(Section):
    """The newest of each VM as metrics. On where `endpoint` is given, here or by `OTEL_EXPORTER_OTLP_*`."""

    endpoint: Endpoint | None = Field(
        default=None,
        description=(
            "Where to send: `http://` or `https://`, host and port. `/v1/metrics` is appended for HTTP."
        ),
    )
    protocol: OtlpProtocol | None = Field(
        default=None, description="`http` (protobuf) or `grpc`. Default: `grpc` on port 4317, else `http`."
    )
    interval: Annotated[WrittenDuration, within("100ms", "1h")] = Field(
        default=Duration(10 * 10**9),
        description=(
            "How often the newest of each VM is sent. Every update goes to Kafka; what is passed "
            "over here is counted."
        ),
    )
    headers: Headers = Field(
        default={},
        description=(
            "Sent with each request, a token perhaps: never shown. In a variable: `name=value,name2=value2`."
        ),
    )
    compression: OtlpCompression = Field(
        default=OtlpCompression.GZIP,
        description="A cycle of 1,000 VMs is 1.2 MB; `gzip` makes it several times smaller.",
    )
    timeout: Annotated[WrittenDuration, within("100ms", "5m")] = Field(
        default=Duration(10 * 10**9), description="How long one export may take, retries included."
    )
    identity: Identity = Field(
        default=Identity.POINTS,
        description=(
            "Where a VM's id, name and host stand besides the resource. `points`: on each point "
            "too, since Prometheus drops what is on the resource only; `resource`: there only."
        ),
    )
    tls: TlsFiles = TlsFiles()


class LinesConfig(Section):
    """JSON lines on stdout."""

    enabled: OnOff = Field(default=Switch.AUTO, description="`auto`: on where no other sink is configured.")

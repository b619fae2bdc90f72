"""The sections of the sinks: every setting with its type, default and description."""

from typing import Annotated

from pydantic import Field

from agent.config.types import (
    AbsolutePath,
    Endpoint,
    Extensions,
    Headers,
    Identifier,
    Identity,
    KafkaCompression,
    NotBool,
    OnOff,
    OtlpCompression,
    OtlpProtocol,
    Parameters,
    SaslMechanism,
    Secret,
    Section,
    Servers,
    Switch,
    Text,
    TokenUrl,
    Topic,
)
from agent.config.units import Duration, WrittenDuration, within
from agent.contract.encode import Mode


class TlsFiles(Section):
    """Certificates, in PEM."""

    ca_file: AbsolutePath | None = Field(
        default=None,
        description="Certificate authorities to trust. Default: those of the operating system.",
    )
    cert_file: AbsolutePath | None = Field(
        default=None, description="Certificate of the agent. Requires `key_file`."
    )
    key_file: AbsolutePath | None = Field(
        default=None, description="Private key of `cert_file`, without a passphrase."
    )


class KafkaTlsConfig(TlsFiles):
    """TLS to the brokers. The files are read at each connection."""

    enabled: bool = Field(
        default=False, description="Whether to use TLS. The names of the brokers are always verified."
    )


class OauthConfig(Section):
    """Tokens for `OAUTHBEARER`, from a file or from a token endpoint (OAuth 2.0, client credentials)."""

    token_file: AbsolutePath | None = Field(
        default=None,
        description=(
            "File with a token, read at each login; at most 32 KiB. Another program writes it and renews it. "
            "It may be missing at the start."
        ),
    )
    token_endpoint: TokenUrl | None = Field(
        default=None,
        description=(
            "URL that issues tokens, `https://` except within this host. A token is used for 80 % of its "
            "lifetime, and one hour at most."
        ),
    )
    client_id: Text | None = Field(
        default=None, description="Name of the client at the endpoint. Required with `token_endpoint`."
    )
    client_secret_file: AbsolutePath | None = Field(
        default=None,
        description=(
            "File with the secret of the client, read at each request; at most 4 KiB. A line break at its "
            "end is ignored. Required with `token_endpoint`."
        ),
    )
    scope: Text | None = Field(default=None, description="Scopes to request, separated by spaces.")
    parameters: Parameters = Field(
        default={},
        description=(
            "More parameters of the request, such as `audience` or `resource`; at most 16. In a variable: "
            "`name=value,name2=value2`."
        ),
    )
    ca_file: AbsolutePath | None = Field(
        default=None,
        description=(
            "Certificate authorities to trust for the endpoint, in PEM. Default: those of the operating "
            "system."
        ),
    )
    extensions: Extensions = Field(
        default={},
        description=(
            "SASL extensions of each login, such as `logicalCluster` and `identityPoolId` for Confluent "
            "Cloud; at most 16."
        ),
    )


class SaslConfig(Section):
    """Authentication to Kafka."""

    mechanism: SaslMechanism | None = Field(
        default=None, description="SASL mechanism. Default: no authentication."
    )
    username: Text | None = Field(default=None, description="User name. Required by `PLAIN` and `SCRAM`.")
    password: Secret | None = Field(
        default=None,
        description=(
            "Password. Required by `PLAIN` and `SCRAM`; not allowed in the file: use this variable or "
            "`password_file`."
        ),
    )
    password_file: AbsolutePath | None = Field(
        default=None,
        description="File with the password, read at each login. A line break at its end is ignored.",
    )
    oauth: OauthConfig = OauthConfig()


class KafkaConfig(Section):
    """Every sample and state, in order. Enabled by `bootstrap_servers`."""

    bootstrap_servers: Servers | None = Field(
        default=None,
        description="Brokers to connect to first, `HOST:PORT`: a list, or one string with commas.",
    )
    samples_topic: Topic = Field(default="barograph.samples", description="Topic of the samples.")
    states_topic: Topic = Field(
        default="barograph.states", description="Topic of the states of VMs and of the agent."
    )
    memory_topic: Topic = Field(
        default="barograph.memory",
        description="Topic of the memory of the host and of its VMs, as the host sees it.",
    )
    compression: KafkaCompression = Field(
        default=KafkaCompression.GZIP,
        description=(
            "Compression of batches. Every client and service can read `gzip`; it reduces a sample from "
            "1,227 bytes to 79. `zstd` reduces it to 67 for a seventh of the CPU time; use it where all "
            "readers have it."
        ),
    )
    mode: Mode = Field(
        default=Mode.BINARY,
        description=(
            "Where the CloudEvents attributes are: `binary` puts them into headers and leaves the value "
            "plain; `structured` wraps the value in them, for readers that lose headers."
        ),
    )
    client_id: Identifier = Field(
        default="barograph", description="Name of the agent in the logs and quotas of the brokers."
    )
    tls: KafkaTlsConfig = KafkaTlsConfig()
    sasl: SaslConfig = SaslConfig()
    request_timeout: Annotated[WrittenDuration, within("100ms", "5m")] = Field(
        default=Duration(10 * 10**9), description="How long one request to a broker may take."
    )
    delivery_timeout: Annotated[WrittenDuration, within("100ms", "1h")] = Field(
        default=Duration(30 * 10**9),
        description=(
            "How long one batch may take, including the client's own retries. After that the agent "
            "reconnects and sends the batch again. At least `request_timeout`."
        ),
    )
    linger: Annotated[WrittenDuration, within("0s", "1m")] = Field(
        default=Duration(3 * 10**9),
        description=(
            "Shortest time between two batches of a topic; if there was none for this long, a"
            " record is sent at once. A longer time means fewer requests to the brokers. Applies"
            " only with a spool on disk, which keeps the records meanwhile."
        ),
    )
    backlog_rate: Annotated[int, Field(ge=1, le=1_000_000), NotBool] = Field(
        default=200,
        description=(
            "How many records a second of each topic are sent while a backlog is queued. If four times the "
            "rate of new records is more, that rate applies. The limit keeps a fleet from overloading the "
            "brokers after an outage."
        ),
    )


class OtlpConfig(Section):
    """The latest values of each VM as metrics, and changes of state as logs.

    Enabled by `endpoint`, here or in `OTEL_EXPORTER_OTLP_*`. With `logs_endpoint` alone, only logs are sent.
    """

    endpoint: Endpoint | None = Field(
        default=None,
        description=(
            "URL of the backend: `http://` or `https://`, host and port. For HTTP, `/v1/metrics` is "
            "appended, for logs `/v1/logs`."
        ),
    )
    protocol: OtlpProtocol | None = Field(
        default=None, description="`http` (protobuf) or `grpc`. Default: `grpc` on port 4317, else `http`."
    )
    interval: Annotated[WrittenDuration, within("100ms", "1h")] = Field(
        default=Duration(10 * 10**9),
        description=(
            "How often the latest values of each VM are sent. Kafka receives every update; updates that are "
            "skipped here are counted."
        ),
    )
    headers: Headers = Field(
        default={},
        description=(
            "Headers of each request, e.g. a token; at most 16 KiB in all. Never shown. In a variable: "
            "`name=value,name2=value2`."
        ),
    )
    headers_file: AbsolutePath | None = Field(
        default=None,
        description=(
            "File with more headers, one `name: value` per line. Empty lines and lines that start with `#` "
            "are ignored. Read again when it changes."
        ),
    )
    bearer_token_file: AbsolutePath | None = Field(
        default=None,
        description=(
            "File with a bearer token, which is sent in the header `authorization`. Read again when it "
            "changes."
        ),
    )
    compression: OtlpCompression = Field(
        default=OtlpCompression.GZIP,
        description=(
            "Compression of requests. One cycle of 1,000 VMs is 1.2 MB; `gzip` makes it several times "
            "smaller."
        ),
    )
    timeout: Annotated[WrittenDuration, within("100ms", "5m")] = Field(
        default=Duration(10 * 10**9), description="How long one export may take, including retries."
    )
    identity: Identity = Field(
        default=Identity.POINTS,
        description=(
            "Where the ID, name and host of a VM are. `points`: on the resource and on each point, since "
            "Prometheus drops most resource attributes. `resource`: on the resource only."
        ),
    )
    logs: OnOff = Field(
        default=Switch.AUTO,
        description=(
            "Whether each change of a VM's or the agent's state is sent as a log record. `auto`: if the "
            "backend accepts logs; else the records are dropped and counted, and the agent tries again "
            "every 5 minutes. `true`: the backend must accept logs; the records are kept until it does. "
            "No logs are sent to an endpoint from `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT`, which is for "
            "metrics."
        ),
    )
    logs_endpoint: Endpoint | None = Field(
        default=None,
        description=(
            "URL of another backend for the log records, for example where Prometheus stores the metrics and "
            "Loki or VictoriaLogs the logs. For HTTP it is the whole URL: nothing is appended. The headers, "
            "tokens, certificates and the protocol of this section are used there too. Default: `endpoint`."
        ),
    )
    tls: TlsFiles = TlsFiles()


class LinesConfig(Section):
    """JSON lines on stdout."""

    enabled: OnOff = Field(
        default=Switch.AUTO,
        description="Whether to write JSON lines. `auto`: only if no other sink is configured.",
    )

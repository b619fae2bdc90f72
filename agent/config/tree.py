"""The whole configuration as users write it, and the list of its settings: path, variable, default."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from agent.config.choice_sections import VmsConfig
from agent.config.labels import Labels
from agent.config.libvirt_sections import Libvirts
from agent.config.sections import (
    BufferConfig,
    DiscoveryConfig,
    HostConfig,
    LogConfig,
    MemoryConfig,
    Monitors,
    PollingConfig,
    QmpConfig,
    ShutdownConfig,
    SpoolConfig,
    WebConfig,
)
from agent.config.sink_sections import KafkaConfig, LinesConfig, OtlpConfig
from agent.config.types import AbsolutePath, Secret

ENV_PREFIX = "BAROGRAPH_"
ENV_NESTED = "__"

SettingPath = tuple[str, ...]
"""("kafka", "tls", "enabled")."""


class Written(BaseModel):
    """The configuration of barograph."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    monitors: Monitors = Field(
        default=(),
        description=(
            "Where the monitors are: globs, or sections with `glob`, `access`, `pattern`, `interval` and "
            "`policy`. If two match a socket, the first applies. Required unless `libvirt` is set."
        ),
    )
    libvirt: Libvirts = Field(
        default=(),
        description=(
            "Libvirt daemons whose domains are watched: URIs, globs of sockets, or sections with `uri` or "
            "`sockets`, `name_pattern`, `metadata`, `interval` and `policy`. Requires libvirt-python "
            "(docs/libvirt.md)."
        ),
    )
    vms: VmsConfig = VmsConfig()
    labels: Labels = Field(
        default={},
        description=(
            "Constant labels, such as the cluster and the region: `host.labels` in records, attributes of "
            "the resource in OTLP, and labels of `target_info` at `/metrics`. At most 32, names of 64 "
            "letters, digits, `_` and `.`, values of 256 characters. They override "
            "`OTEL_RESOURCE_ATTRIBUTES`."
        ),
    )
    polling: PollingConfig = PollingConfig()
    memory: MemoryConfig = MemoryConfig()
    host: HostConfig = HostConfig()
    qmp: QmpConfig = QmpConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    state_directory: AbsolutePath | None = Field(
        default=None,
        description=(
            "Directory of the spool and of the ledger of changed intervals. Default: `$STATE_DIRECTORY` "
            "(set by systemd), else `/var/lib/barograph` for root, else `$XDG_STATE_HOME/barograph`."
        ),
    )
    buffer: BufferConfig = BufferConfig()
    spool: SpoolConfig = SpoolConfig()
    kafka: KafkaConfig = KafkaConfig()
    otlp: OtlpConfig = OtlpConfig()
    lines: LinesConfig = LinesConfig()
    web: WebConfig = WebConfig()
    log: LogConfig = LogConfig()
    shutdown: ShutdownConfig = ShutdownConfig()

    @property
    def has_backend(self) -> bool:
        """Whether Kafka or OTLP is configured."""
        otlp = self.otlp
        return any((self.kafka.bootstrap_servers, otlp.endpoint, otlp.logs_endpoint))


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: a leaf of the tree."""

    path: SettingPath
    field: FieldInfo

    @property
    def dotted(self) -> str:
        """Its name in messages and docs."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return ENV_PREFIX + ENV_NESTED.join(self.path).upper()

    @property
    def env_only(self) -> bool:
        """Whether it is a secret, which is not allowed in the file."""
        return Secret in get_args(self.field.annotation)


@cache
def all_settings() -> tuple[Setting, ...]:
    """Return every setting, in the order of the models."""
    return tuple(_walk(Written, ()))


@cache
def sections() -> dict[SettingPath, type[BaseModel]]:
    """Return every section by its path; the root is at ()."""
    return dict(_sections(Written, ()))


def section_model(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is a section; `None`: it is a setting."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _walk(model: type[BaseModel], prefix: SettingPath) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        inner = section_model(field)
        if inner is None:
            yield Setting((*prefix, name), field)
        else:
            yield from _walk(inner, (*prefix, name))


def _sections(model: type[BaseModel], prefix: SettingPath) -> Iterator[tuple[SettingPath, type[BaseModel]]]:
    yield prefix, model
    for name, field in model.model_fields.items():
        inner = section_model(field)
        if inner is not None:
            yield from _sections(inner, (*prefix, name))

"""The configuration as code is handed it: to each edge its own settings, units converted once, here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.config.contradictions import otlp_protocol
from agent.config.host_facts import Host
from agent.config.sink_sections import KafkaConfig
from agent.config.sources import Flags
from agent.config.types import OnExit, SpoolMode, Switch, split_address
from agent.config.validation import Effective, effective
from agent.contract.encode import Mode
from agent.core.poller import PollSettings
from agent.discovery.settings import MonitorGlob
from agent.discovery.settings import Settings as DiscoverySettings
from agent.libvirt.settings import Place
from agent.libvirt.settings import Settings as LibvirtSettings
from agent.qmp.link import Settings as QmpSettings
from agent.sinks import kafka_settings, otlp_settings
from agent.spool import disk
from agent.spool.store import Bounds
from agent.web import settings as web_settings

SPREAD_NS = 800_000_000
"""A VM's first sample is promised within a second of finding it, and its guest's first answer."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the agent says of itself."""

    level: Literal["debug", "info", "warning", "error"]
    format: Literal["console", "json"]


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that is configured, found right. Secrets are in it, but never in its `repr`."""

    effective: Effective

    def host_identity(self) -> Host:
        """Who the host is, in everything we emit."""
        return self.effective.host

    @property
    def state_directory(self) -> str:
        """Where what is owed is remembered; it may not be there yet."""
        return self.effective.state_directory

    @property
    def log(self) -> LogSettings:
        """What the agent says of itself."""
        log = self.effective.written.log
        return LogSettings(log.level.value, log.format.value)

    @property
    def buffer_bytes(self) -> int:
        """The size of the queue in memory, of each sink."""
        return self.effective.written.buffer.size.bytes

    @property
    def spool(self) -> disk.Settings | None:
        """Where records wait for Kafka and VMs are remembered; `None`: nowhere but in memory."""
        spool = self.effective.written.spool
        worth_it = self.kafka is not None or self.otlp is not None
        if spool.mode is SpoolMode.NONE or (spool.mode is SpoolMode.AUTO and not worth_it):
            return None
        return disk.Settings(
            directory=Path(self.state_directory),
            keeps_records=self.kafka is not None,
            bounds=Bounds(size_bytes=spool.size.bytes, age_ms=spool.age.ms),
            memory_bytes=self.buffer_bytes,
        )

    @property
    def shutdown_deadline_s(self) -> float:
        """The longest time that a clean exit takes."""
        return self.effective.written.shutdown.deadline.s

    @property
    def give_back_at_exit(self) -> bool:
        """Whether a clean exit gives intervals back."""
        on_exit = self.effective.written.polling.on_exit
        return self.spool is None if on_exit is None else on_exit is OnExit.GIVE_BACK

    @property
    def event_mode(self) -> Mode:
        """Where CloudEvents attributes go."""
        return self.effective.written.kafka.mode

    @property
    def lines_enabled(self) -> bool:
        """Whether JSON lines are written: as told, else where nothing else is configured."""
        switch = self.effective.written.lines.enabled
        return switch is Switch.ON or (switch is Switch.AUTO and self.kafka is None and self.otlp is None)

    @property
    def kafka(self) -> kafka_settings.Settings | None:
        """The cluster to send to; `None`: none."""
        kafka = self.effective.written.kafka
        if kafka.bootstrap_servers is None:
            return None
        return kafka_settings.Settings(
            bootstrap_servers=kafka.bootstrap_servers,
            samples_topic=kafka.samples_topic,
            states_topic=kafka.states_topic,
            client_id=kafka.client_id,
            compression=kafka.compression.value,
            tls=_kafka_tls(kafka),
            sasl=self._sasl(kafka),
            request_timeout_s=kafka.request_timeout.s,
            delivery_timeout_s=kafka.delivery_timeout.s,
        )

    @property
    def otlp(self) -> otlp_settings.Settings | None:
        """The backend to send metrics to; `None`: none. Nothing is left to the exporters' own reading."""
        otlp = self.effective.written.otlp
        if otlp.endpoint is None:
            return None
        return otlp_settings.Settings(
            endpoint=otlp.endpoint,
            endpoint_is_whole=self.effective.endpoint_is_whole,
            protocol=otlp_protocol(self.effective.written).value,
            headers={name: value.get_secret_value() for name, value in otlp.headers.items()},
            compression=otlp.compression.value,
            timeout_s=otlp.timeout.s,
            interval_s=otlp.interval.s,
            identity=otlp.identity.value,
            ca_file=_path(otlp.tls.ca_file),
            cert_file=_path(otlp.tls.cert_file),
            key_file=_path(otlp.tls.key_file),
        )

    @property
    def web(self) -> web_settings.Settings | None:
        """Where to listen; `None`: nowhere."""
        web = self.effective.written.web
        if not web.enabled:
            return None
        host, port = split_address(web.listen)
        return web_settings.Settings(host=host, port=port)

    def polling_settings(self) -> PollSettings:
        """How VMs are asked."""
        polling, qmp = self.effective.written.polling, self.effective.written.qmp
        return PollSettings(
            interval_s=polling.interval.ns // 1_000_000_000,
            policy=polling.policy,
            stall_deadline_ns=None if polling.stall_deadline is None else polling.stall_deadline.ns,
            heartbeat_ns=polling.heartbeat.ns,
            recheck_ns=polling.recheck.ns,
            reading_deadline_ns=qmp.reading_deadline.ns,
            set_again_ns=polling.set_again.ns,
            spread_ns=SPREAD_NS,
        )

    def qmp_settings(self) -> QmpSettings:
        """How monitors are talked to."""
        qmp = self.effective.written.qmp
        return QmpSettings(
            greeting_timeout_s=qmp.greeting_deadline.s,
            opening_at_once=qmp.connections_opened_at_once,
            readings_at_once=qmp.readings_at_once,
        )

    def discovery_settings(self) -> DiscoverySettings:
        """Where monitors are."""
        written = self.effective.written
        return DiscoverySettings(
            monitors=tuple(MonitorGlob(each.glob, each.access, each.pattern) for each in written.monitors),
            rescan_s=written.discovery.rescan.s,
        )

    def libvirt_settings(self) -> LibvirtSettings:
        """Where libvirt is."""
        written = self.effective.written
        return LibvirtSettings(
            places=tuple(
                Place(each.uri, each.sockets, each.policy or written.polling.policy)
                for each in written.libvirt
            ),
            rescan_s=written.discovery.rescan.s,
        )

    def _sasl(self, kafka: KafkaConfig) -> kafka_settings.Sasl | None:
        sasl, password = kafka.sasl, self.effective.sasl_password
        if sasl.mechanism is None or sasl.username is None or password is None:
            return None
        return kafka_settings.Sasl(mechanism=sasl.mechanism.value, username=sasl.username, password=password)


def load(flags: Flags, environ: Mapping[str, str], *, monitors_needed: bool = True) -> Config:
    """Return the configuration, whole and right: all that a start does before its first side effect.

    Args:
        flags: what was typed; before everything else.
        environ: the environment: `BAROGRAPH_*` goes before the file, `OTEL_*` after it.
        monitors_needed: whether it is wrong to name no monitor.

    Raises:
        ConfigError: with every problem that could be found, each with its place and the way out.
    """
    return Config(effective(flags, environ, monitors_needed=monitors_needed))


def _kafka_tls(kafka: KafkaConfig) -> kafka_settings.Tls | None:
    tls = kafka.tls
    if not tls.enabled:
        return None
    return kafka_settings.Tls(
        ca_file=_path(tls.ca_file), cert_file=_path(tls.cert_file), key_file=_path(tls.key_file)
    )


def _path(written: str | None) -> Path | None:
    return None if written is None else Path(written)

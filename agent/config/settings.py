"""The configuration as the code uses it: the settings of each part, with units converted once, here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from agent.config.contradictions import otlp_protocol
from agent.config.host_facts import Host
from agent.config.proxies import Proxy
from agent.config.sink_sections import KafkaConfig
from agent.config.sources import Flags
from agent.config.types import OnExit, SaslMechanism, SpoolMode, Switch, split_address
from agent.config.unencrypted import unencrypted_logins
from agent.config.units import Duration
from agent.config.validation import Effective, effective
from agent.contract.encode import Mode
from agent.core.choice import Choice
from agent.core.poller import PollSettings
from agent.discovery.globs import MonitorGlob
from agent.discovery.globs import Settings as DiscoverySettings
from agent.errors import Problem
from agent.libvirt.targets import Place
from agent.libvirt.targets import Settings as LibvirtSettings
from agent.qmp.link import Settings as QmpSettings
from agent.sinks import kafka_oauth, kafka_settings, otlp_settings
from agent.spool import disk
from agent.spool.queues import Queue
from agent.spool.store import Bounds
from agent.web import web_settings

SPREAD_NS = 800_000_000
"""The first sample of a VM is due within a second after it was found and its guest has answered."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The agent's log."""

    level: Literal["debug", "info", "warning", "error"]
    format: Literal["console", "json"]


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, validated. It contains secrets, which its `repr` omits."""

    effective: Effective

    def host_identity(self) -> Host:
        """The identity of the host, in all records."""
        return self.effective.host

    @property
    def state_directory(self) -> str:
        """The directory of the spool and of the ledger. It may be missing."""
        return self.effective.state_directory

    @property
    def log(self) -> LogSettings:
        """The agent's log."""
        log = self.effective.written.log
        return LogSettings(log.level.value, log.format.value)

    @property
    def buffer_bytes(self) -> int:
        """The size of the queue in memory, of each sink."""
        return self.effective.written.buffer.size.bytes

    @property
    def spool(self) -> disk.Settings | None:
        """The spool on disk; `None`: queues in memory only, and no memory of VMs."""
        spool = self.effective.written.spool
        worth_it = self.kafka is not None or self.otlp is not None
        if spool.mode is SpoolMode.NONE or (spool.mode is SpoolMode.AUTO and not worth_it):
            return None
        return disk.Settings(
            directory=Path(self.state_directory),
            queues=frozenset(
                queue
                for queue in Queue
                if (self.otlp_logs if queue is Queue.LOGS else self.kafka) is not None
            ),
            bounds=Bounds(size_bytes=spool.size.bytes, age_ms=spool.age.ms),
            memory_bytes=self.buffer_bytes,
        )

    @property
    def spool_age_s(self) -> float | None:
        """How long a record may be queued on disk; `None`: none is."""
        return None if self.spool is None else self.spool.bounds.age_ms / 1000

    @property
    def shutdown_deadline_s(self) -> float:
        """The longest time that a clean exit takes."""
        return self.effective.written.shutdown.deadline.s

    @property
    def give_back_at_exit(self) -> bool:
        """Whether a clean exit restores the intervals that the agent changed."""
        on_exit = self.effective.written.polling.on_exit
        return self.spool is None if on_exit is None else on_exit is OnExit.GIVE_BACK

    @property
    def event_mode(self) -> Mode:
        """Where CloudEvents attributes are in a Kafka record."""
        return self.effective.written.kafka.mode

    @property
    def lines_enabled(self) -> bool:
        """Whether JSON lines are written: as configured, else if no other sink is configured."""
        switch = self.effective.written.lines.enabled
        return switch is Switch.ON or (switch is Switch.AUTO and not self.effective.written.has_backend)

    @property
    def kafka(self) -> kafka_settings.Settings | None:
        """The Kafka cluster; `None`: not configured."""
        kafka = self.effective.written.kafka
        if kafka.bootstrap_servers is None:
            return None
        return kafka_settings.Settings(
            bootstrap_servers=kafka.bootstrap_servers,
            samples_topic=kafka.samples_topic,
            states_topic=kafka.states_topic,
            memory_topic=kafka.memory_topic,
            client_id=kafka.client_id,
            compression=kafka.compression.value,
            tls=_kafka_tls(kafka),
            sasl=self._sasl(kafka),
            request_timeout_s=kafka.request_timeout.s,
            delivery_timeout_s=kafka.delivery_timeout.s,
            linger_s=kafka.linger.s,
            backlog_records_per_s=kafka.backlog_rate,
        )

    @property
    def otlp(self) -> otlp_settings.Settings | None:
        """The OTLP backend; `None`: not configured. Complete: the exporters need not read the environment."""
        endpoint = self.effective.written.otlp.endpoint
        return None if endpoint is None else self._otlp(endpoint, self.effective.otlp_proxy)

    def _otlp(self, endpoint: str, proxy: Proxy | None) -> otlp_settings.Settings:
        otlp = self.effective.written.otlp
        return otlp_settings.Settings(
            endpoint=endpoint,
            endpoint_is_whole=self.effective.endpoint_is_whole,
            protocol=otlp_protocol(otlp, endpoint).value,
            headers={name: value.get_secret_value() for name, value in otlp.headers.items()},
            compression=otlp.compression.value,
            timeout_s=otlp.timeout.s,
            interval_s=otlp.interval.s,
            identity=otlp.identity.value,
            headers_file=_path(otlp.headers_file),
            bearer_token_file=_path(otlp.bearer_token_file),
            ca_file=_path(otlp.tls.ca_file),
            cert_file=_path(otlp.tls.cert_file),
            key_file=_path(otlp.tls.key_file),
            proxy=None if proxy is None else proxy.url,
            proxy_variable="" if proxy is None else proxy.variable,
        )

    @property
    def otlp_logs(self) -> otlp_settings.Settings | None:
        """The OTLP backend that changes of state are sent to as logs; `None`: none."""
        written = self.effective.written.otlp
        if written.logs is Switch.OFF:
            return None
        as_logs = partial(replace, signal="logs", logs_required=written.logs is Switch.ON)
        if written.logs_endpoint is not None:
            own = self._otlp(written.logs_endpoint, self.effective.otlp_logs_proxy)
            return as_logs(own, endpoint_is_whole=True, endpoint_setting="otlp.logs_endpoint")
        otlp = self.otlp
        return None if otlp is None or otlp.endpoint_is_whole else as_logs(otlp)  # a whole one is for metrics

    @property
    def cautions(self) -> tuple[Problem, ...]:
        """Warnings about the configuration."""
        return (*self.effective.cautions, *unencrypted_logins(self.effective.written))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret in the configuration, which no text may contain."""
        effective = self.effective
        kafka = [each for each in (effective.sasl_password, effective.client_secret, effective.token) if each]
        if effective.client_secret:
            client_id = effective.written.kafka.sasl.oauth.client_id or ""
            kafka.append(kafka_oauth.authorization(client_id, effective.client_secret))
        headers = (value.get_secret_value() for value in effective.written.otlp.headers.values())
        used = (effective.otlp_proxy, effective.otlp_logs_proxy, effective.token_proxy)
        proxies = (each.url for each in used if each is not None)
        credentials = [urlsplit(url).netloc.rpartition("@")[0] for url in proxies]
        return (*kafka, *headers, *credentials, *map(unquote, credentials))

    @property
    def web(self) -> web_settings.Settings | None:
        """The address to listen on; `None`: HTTP is off."""
        web = self.effective.written.web
        if not web.enabled:
            return None
        host, port = split_address(web.listen)
        name = self.effective.host.name
        return web_settings.Settings(host=host, port=port, allowed_hosts=(*web.allowed_hosts, name))

    def polling_settings(self) -> PollSettings:
        """How VMs are polled."""
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
            choice=self.choice,
        )

    @property
    def labels(self) -> Mapping[str, str]:
        """Constant labels of the agent and its host."""
        return self.effective.labels

    @property
    def choice(self) -> Choice:
        """Which VMs are observed."""
        vms = self.effective.written.vms
        return Choice(tuple(each.rule() for each in vms.include), tuple(each.rule() for each in vms.exclude))

    @property
    def memory_interval_s(self) -> int | None:
        """How often the memory of the host and of its VMs is recorded; `None`: never."""
        interval = self.effective.written.memory.interval
        return None if interval is None else interval.ns // 1_000_000_000

    def qmp_settings(self) -> QmpSettings:
        """Links to monitors."""
        qmp = self.effective.written.qmp
        return QmpSettings(
            greeting_timeout_s=qmp.greeting_deadline.s,
            opening_at_once=qmp.connections_opened_at_once,
            readings_at_once=qmp.readings_at_once,
        )

    def discovery_settings(self) -> DiscoverySettings:
        """Where the monitors are."""
        written = self.effective.written
        return DiscoverySettings(
            monitors=tuple(
                MonitorGlob(each.glob, each.access, each.pattern, each.policy, _whole_s(each.interval))
                for each in written.monitors
            ),
            rescan_s=written.discovery.rescan.s,
        )

    def libvirt_settings(self) -> LibvirtSettings:
        """The libvirt daemons."""
        written = self.effective.written
        return LibvirtSettings(
            places=tuple(
                Place(
                    each.uri,
                    each.sockets,
                    each.policy or written.polling.policy,
                    _whole_s(each.interval),
                    each.label_sources(),
                )
                for each in written.libvirt
            ),
            rescan_s=written.discovery.rescan.s,
        )

    def _sasl(self, kafka: KafkaConfig) -> kafka_settings.Sasl | None:
        sasl, password = kafka.sasl, self.effective.sasl_password
        if sasl.mechanism is SaslMechanism.OAUTHBEARER:
            return kafka_settings.Sasl(mechanism="OAUTHBEARER", oauth=self._oauth(kafka))
        if sasl.mechanism is None or sasl.username is None or password is None:
            return None
        return kafka_settings.Sasl(
            mechanism=sasl.mechanism.value,
            username=sasl.username,
            password=password,
            password_file=_path(sasl.password_file),
        )

    def _oauth(self, kafka: KafkaConfig) -> kafka_settings.Oauth | None:
        oauth, proxy = kafka.sasl.oauth, self.effective.token_proxy
        if oauth.token_file is not None:
            return kafka_settings.Oauth(source=Path(oauth.token_file), extensions=oauth.extensions)
        if oauth.token_endpoint is None or oauth.client_id is None or oauth.client_secret_file is None:
            return None
        endpoint = kafka_settings.TokenEndpoint(
            url=oauth.token_endpoint,
            client_id=oauth.client_id,
            client_secret_file=Path(oauth.client_secret_file),
            scope=oauth.scope or "",
            parameters=oauth.parameters,
            ca_file=_path(oauth.ca_file),
            timeout_s=kafka.request_timeout.s,
            proxy=None if proxy is None else proxy.url,
            proxy_variable="" if proxy is None else proxy.variable,
        )
        return kafka_settings.Oauth(source=endpoint, extensions=oauth.extensions)


def load(flags: Flags, environ: Mapping[str, str], *, monitors_needed: bool = True) -> Config:
    """Return the validated configuration. This is all that a start does before its first side effect.

    Args:
        flags: the flags of the command line; they override all else.
        environ: the environment: `BAROGRAPH_*` overrides the file, the file overrides `OTEL_*`.
        monitors_needed: whether a configuration without monitors is an error.

    Raises:
        ConfigError: with every problem found, each with its place and what to do.
    """
    return Config(effective(flags, environ, monitors_needed=monitors_needed))


def _kafka_tls(kafka: KafkaConfig) -> kafka_settings.Tls | None:
    tls = kafka.tls
    if not tls.enabled:
        return None
    return kafka_settings.Tls(
        ca_file=_path(tls.ca_file), cert_file=_path(tls.cert_file), key_file=_path(tls.key_file)
    )


def _whole_s(interval: Duration | None) -> int | None:
    return None if interval is None else interval.ns // 1_000_000_000


def _path(written: str | None) -> Path | None:
    return None if written is None else Path(written)

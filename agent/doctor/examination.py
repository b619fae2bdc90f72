"""All checks of `barograph doctor`: gathers facts, each category in a task of its own, and has them judged.

Changes nothing: no file, no VM, no topic. Each category has a time limit.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio

from agent import __version__
from agent.config import Config, Flags
from agent.config.overriding import overridden
from agent.config.settings import load
from agent.core.doctor.backends import judge_brokers, judge_libvirt, judge_otlp, judge_topics
from agent.core.doctor.codes import Category, Code
from agent.core.doctor.config import ConfigFacts, HostFacts, judge_config, judge_host
from agent.core.doctor.kubernetes import judge_pod
from agent.core.doctor.limits import LimitFacts, judge_agent, judge_limits, judge_port
from agent.core.doctor.report import Findings, merged
from agent.core.doctor.sockets import VmFact, judge_sockets, judge_vms
from agent.core.doctor.state import StateFacts, judge_state
from agent.core.findings import Finding
from agent.core.topic_audit import audit
from agent.discovery.scan import scan
from agent.doctor.agent import Answered, ask_agent, port_fault
from agent.doctor.backends import reach_libvirts, reach_otlp
from agent.doctor.pod import look_at_pod
from agent.doctor.sockets import look_at_sockets, probe_monitors
from agent.doctor.state import look_at_directory, look_at_spool, user_name, user_of
from agent.errors import ConfigError, SinkUnavailable
from agent.host import limits
from agent.host.cgroups import Cgroups
from agent.host.mounts import mount_of
from agent.host.processes import own_cgroup
from agent.once import cluster_of, sending_of
from agent.redaction import Redactor
from agent.runtime import logs
from agent.sinks import kafka_admin, kafka_reach
from agent.spool.directory_lock import holders, is_in_use
from agent.threads import in_thread

TIME_LIMIT_S = 20.0
"""Of each category."""

KAFKA_REQUEST_S, KAFKA_ALL_S = 4.0, 8.0
"""One request to a broker, and all those about the topics."""

Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Report:
    """What the checks found."""

    findings: list[Finding]
    config: Config | None  # None: it is invalid, and nothing else was checked


def configure(flags: Flags, environ: Environment) -> tuple[Findings, Config | None]:
    """Load the configuration, and return the findings about it. `None`: nothing else can be checked."""
    try:
        config = load(flags, environ)
    except ConfigError as error:
        facts = ConfigFacts(
            file=flags.config_file(environ), problems=error.problems, cautions=(), overridden=()
        )
        return judge_config(facts), _without_monitors(flags, environ)
    facts = ConfigFacts(
        file=flags.config_file(environ),
        problems=(),
        cautions=config.cautions,
        overridden=overridden(flags, environ),
    )
    return judge_config(facts), config


def _without_monitors(flags: Flags, environ: Environment) -> Config | None:
    """Return a configuration that lacks nothing but monitors: all else can be checked. `None`: not such."""
    try:
        return load(flags, environ, monitors_needed=False)
    except ConfigError:
        return None


async def examine(
    flags: Flags, environ: Environment, pre: bool, redact: Redactor, time_limit_s: float = TIME_LIMIT_S
) -> Report:
    """Make all checks.

    Args:
        flags: the flags of the command line.
        environ: the environment.
        pre: nothing is installed yet: make only the checks that need no agent and connect to no VM.
        redact: gets the secrets of the configuration.
        time_limit_s: of each category.
    """
    found, config = configure(flags, environ)
    if config is None:
        return Report(found.in_order(), None)
    for secret in config.secrets:
        redact.add(secret)
    logs.configure("critical", config.log.format)
    examination = Examination(config, environ, redact, pre=pre, time_limit_s=time_limit_s)
    parts = await examination.run()
    return Report(merged([found, *parts]).in_order(), config)


class Examination:
    """The checks that need a valid configuration."""

    def __init__(
        self, config: Config, environ: Environment, redact: Redactor, *, pre: bool, time_limit_s: float
    ) -> None:
        self._config = config
        self._environ = environ
        self._redact = redact
        self._pre = pre
        self._time_limit_s = time_limit_s
        self._answered: Answered | None = None
        self._is_locked = False  # the state directory
        self._holders: Sequence[int] = ()  # the processes that have locked the state directory
        self._late: list[Category] = []

    async def run(self) -> list[Findings]:
        """Return the findings of each category."""
        found: list[Findings] = []

        async def take(category: Category, check: Callable[[], Awaitable[Findings]]) -> None:
            with anyio.move_on_after(self._time_limit_s):
                found.append(await check())
                return
            self._late.append(category)

        # Whether an agent runs decides how the others look at VMs and at the state directory.
        await take(Category.AGENT, self._agent)
        async with anyio.create_task_group() as group:
            for category, check in self._checks().items():
                group.start_soon(take, category, check)
        found.append(self._lateness())
        return found

    def _checks(self) -> Mapping[Category, Callable[[], Awaitable[Findings]]]:
        return {
            Category.HOST: self._host,
            Category.SOCKETS: self._monitors,
            Category.LIBVIRT: self._libvirts,
            Category.KAFKA: self._brokers,
            Category.OTLP: self._otlp,
            Category.STATE: self._state,
            Category.KUBERNETES: self._pod,
            Category.LIMITS: self._limits,
        }

    async def _agent(self) -> Findings:
        directory = Path(self._config.state_directory)
        self._holders = await in_thread(partial(holders, directory))
        # Which process it is may be hidden from this user.
        self._is_locked = bool(self._holders) or await in_thread(partial(is_in_use, directory)) is True
        web = self._config.web
        if web is None or web.port == 0:
            return Findings()
        if self._pre:
            fault = await in_thread(partial(port_fault, web.host, web.port))
            return judge_port(f"{web.host}:{web.port}", fault)
        answered = await in_thread(partial(ask_agent, web.host, web.port))
        self._answered = answered
        user = await in_thread(partial(user_of, self._holders))
        facts = replace(answered.facts, user=user)
        return judge_agent(facts, __version__, user_name(os.geteuid()))

    async def _host(self) -> Findings:
        identity, written = self._config.host_identity(), self._config.effective.written.host
        id_file = written.id_file if written.id is None else None
        mount = None if id_file is None else await in_thread(partial(mount_of, id_file))
        return judge_host(
            HostFacts(
                id=identity.id,
                name=identity.name,
                id_file=id_file,
                id_file_system="" if mount is None else mount.type,
            )
        )

    async def _monitors(self) -> Findings:
        settings = self._config.discovery_settings()
        if not settings.monitors:
            return judge_vms(self._of_agent(), by_agent=True)
        policy = self._config.polling_settings().policy
        facts = await look_at_sockets(settings, policy)
        files = judge_sockets(facts)
        if self._pre:
            return files
        if self._answered is not None and not self._answered.facts.fault:
            return merged([files, judge_vms(self._of_agent(), by_agent=True)])
        if self._is_locked:  # an agent that does not answer holds the monitors
            return files
        polling, qmp = self._config.polling_settings(), self._config.qmp_settings()
        vms, left_out = await probe_monitors(facts, self._config.host_identity().id, polling, qmp)
        return merged([files, judge_vms(vms, by_agent=False, left_out=left_out)])

    def _of_agent(self) -> list[VmFact]:
        return [] if self._answered is None else list(self._answered.vms)

    async def _state(self) -> Findings:
        path, spool = self._config.state_directory, self._config.spool
        directory = await in_thread(partial(look_at_directory, path))
        contents, fault = await in_thread(partial(look_at_spool, path))
        facts = StateFacts(
            directory=directory,
            spool_bytes_max=None if spool is None else spool.bounds.size_bytes,
            spool=contents,
            spool_fault=fault,
            agent_answers=None if self._answered is None else not self._answered.facts.fault,
        )
        return judge_state(facts)

    async def _libvirts(self) -> Findings:
        places = self._config.libvirt_settings().places
        if not places:
            return Findings()
        found = judge_libvirt(await reach_libvirts(places))
        found.passed(Code.LIBVIRT_BINDINGS)
        return found

    async def _brokers(self) -> Findings:
        kafka = self._config.kafka
        if kafka is None:
            return Findings()
        quick = replace(
            kafka,
            request_timeout_s=min(kafka.request_timeout_s, KAFKA_REQUEST_S),
            delivery_timeout_s=min(kafka.delivery_timeout_s, KAFKA_ALL_S),
        )
        facts = await kafka_reach.reach(quick)
        found = judge_brokers(facts, has_tls=kafka.tls is not None, has_login=kafka.sasl is not None)
        if any(each.stage == "" for each in facts):
            sending, cluster = sending_of(self._config, None), cluster_of(self._config, None)
            try:
                async with kafka_admin.connected(quick) as admin:
                    seen = await admin.facts([each.name for each in sending.topics])
            except SinkUnavailable as error:
                found.error(Code.BROKER_PROTOCOL, "", str(error))
            else:
                found = merged([found, judge_topics(audit(sending, seen, cluster))])
        return found

    async def _otlp(self) -> Findings:
        signals = [each for each in (self._config.otlp, self._config.otlp_logs) if each is not None]
        required = any(each.logs_required for each in signals)
        return judge_otlp(await reach_otlp(signals, self._redact), logs_required=required)

    async def _pod(self) -> Findings:
        if "KUBERNETES_SERVICE_HOST" not in self._environ:
            return Findings()
        host = self._config.effective.written.host
        globs = [each.glob for each in self._config.discovery_settings().monitors]
        look = partial(
            look_at_pod,
            self._config.host_identity().name,
            host.id_file if host.id is None else None,
            globs,
            self._config.state_directory,
        )
        return judge_pod(await in_thread(look))

    async def _limits(self) -> Findings:
        vms, settings = len(self._of_agent()), self._config.discovery_settings()
        if not vms and settings.monitors:
            vms = len((await in_thread(partial(scan, settings))).seen)
        return judge_limits(await in_thread(partial(limit_facts, self._config, vms)))

    def _lateness(self) -> Findings:
        found = Findings()
        found.passed(Code.TIME_LIMIT)
        for category in self._late:
            detail = f"the checks did not end within {self._time_limit_s:g} s, so their results are missing"
            found.error(Code.TIME_LIMIT, category, detail)
        return found


def limit_facts(config: Config, vms: int) -> LimitFacts:
    """Return the limits that an agent with this number of VMs would have here. Blocks."""
    cgroup = own_cgroup()
    return LimitFacts(
        files_max=limits.files_max(),
        memory_max_bytes=None if cgroup is None else Cgroups().limit_bytes(cgroup),
        buffer_bytes=config.buffer_bytes,
        vms=vms,
        clock_is_synchronized=limits.clock_is_synchronized(),
    )

"""The commands that run once and exit: restore intervals, probe one VM, check and create topics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import anyio

from agent import __version__
from agent.config import Config
from agent.contract.payloads import Agent, sample_document, state_document
from agent.core.address import parse_address
from agent.core.epochs import uuid7
from agent.core.findings import Finding as TopicFinding
from agent.core.reading import IntervalPolicy, State
from agent.core.topic_audit import audit
from agent.core.topic_commands import Cluster, NewTopics, Wanted
from agent.core.topic_facts import UNKNOWN_TOPIC, Sending, Topic
from agent.errors import ConfigError, Problem
from agent.libvirt.connections import Connections
from agent.libvirt.targets import Settings as LibvirtSettings
from agent.qmp.link import QmpOpener
from agent.runtime import clock, logs
from agent.runtime.fleet import canonical
from agent.runtime.give_back import Settlement, give_back
from agent.runtime.links import opener
from agent.runtime.probe import Finding
from agent.runtime.probe import probe as look
from agent.sinks import kafka_admin
from agent.sinks.kafka_settings import Settings as KafkaSettings
from agent.spool.ledger import open_ledger
from agent.telemetry import Counters


async def restore_intervals(config: Config) -> list[Settlement]:
    """Restore every interval that the agent changed: `barograph give-back`.

    Raises:
        StateFileError: the state directory cannot be used, or a running agent uses it.
    """
    logs.configure(config.log.level, config.log.format)
    qmp, counters = config.qmp_settings(), Counters()
    settlements: list[Settlement] = []
    async with (
        open_ledger(config.state_directory, clock.now().unix_ms, to_restore=True) as ledger,
        anyio.create_task_group() as group,
    ):
        libvirt = Connections(LibvirtSettings(places=()), counters)
        await group.start(libvirt.run)
        open_link = opener(QmpOpener(qmp), libvirt.open_to_write)
        changes, answer_within_s = ledger.entries(), qmp.greeting_timeout_s
        settlements = await give_back(ledger, changes, open_link, counters, answer_within_s=answer_within_s)
        group.cancel_scope.cancel()
    return settlements


@dataclass(frozen=True, slots=True)
class Probed:
    """What `probe` found."""

    document: dict[str, object]  # "state" and "sample"; None: none before the deadline
    has_sample: bool
    state: State | None
    reason: str  # "": no state


async def probe(config: Config, path: str, enable_polling_s: int | None, deadline_s: float) -> Probed:
    """Read one VM once: `barograph probe`.

    Args:
        config: the configuration; its policy is ignored.
        path: the monitor's socket, or URI#UUID of a libvirt domain.
        enable_polling_s: the interval to set if polling is off; `None`: change nothing.
        deadline_s: how long to wait for a sample.

    """
    logs.configure("critical", config.log.format)
    host, address = config.host_identity(), canonical(parse_address(path))
    identity = Agent(
        host.id, host.name, uuid7(clock.now().unix_ms, clock.chance()), __version__, config.labels
    )
    observing = replace(config.polling_settings(), policy=IntervalPolicy.OBSERVE, spread_ns=0)
    filling = replace(observing, policy=IntervalPolicy.FILL, interval_s=enable_polling_s or 1)
    finding = Finding(None, None)
    async with anyio.create_task_group() as group:
        libvirt = Connections(LibvirtSettings(places=()), Counters())
        await group.start(libvirt.run)
        open_domain = libvirt.open_to_read if enable_polling_s is None else libvirt.open_to_write
        finding = await look(
            address,
            host.id,
            observing if enable_polling_s is None else filling,
            opener(QmpOpener(config.qmp_settings()), open_domain),
            deadline_s=deadline_s,
            wait_for_update=enable_polling_s is not None,
        )
        group.cancel_scope.cancel()
    sample = None if finding.sample is None else sample_document(finding.sample, identity)
    state = None if finding.state is None else state_document(finding.state, identity)
    return Probed(
        document={"state": state, "sample": sample},
        has_sample=sample is not None,
        state=None if finding.state is None else finding.state.state,
        reason="" if finding.state is None else str(finding.state.reason),
    )


@dataclass(frozen=True, slots=True)
class Creation:
    """What `create_topics` did."""

    wanted: Wanted
    created: Sequence[str]
    failed: Mapping[str, str]  # topic → why it could not be created
    findings: Sequence[TopicFinding]


async def check_topics(config: Config, vms: int | None, principal: str | None) -> list[TopicFinding]:
    """Check the topics of the agent: `barograph topics check`. `vms` is the number of VMs of all hosts.

    Raises:
        SinkUnavailable: the cluster cannot be reached.
    """
    sending, cluster = sending_of(config, vms), cluster_of(config, principal)
    async with kafka_admin.connected(_kafka(config)) as admin:
        facts = await admin.facts([each.name for each in sending.topics])
    return audit(sending, facts, cluster)


async def create_topics(config: Config, new: NewTopics, vms: int | None, principal: str | None) -> Creation:
    """Create the topics that are missing, and check all: `barograph topics create`.

    Raises:
        SinkUnavailable: the cluster cannot be reached.
    """
    sending, cluster = sending_of(config, vms), cluster_of(config, principal)
    names = [each.name for each in sending.topics]
    async with kafka_admin.connected(_kafka(config)) as admin:
        facts = await admin.facts(names)
        wanted = new.wanted(facts.brokers)
        known = {name for name, each in facts.topics.items() if each.error_code != UNKNOWN_TOPIC}
        missing = [name for name in names if name not in known]
        failed = await admin.create(dict.fromkeys(missing, wanted)) if missing else {}
        created = [name for name in missing if name not in failed]
        if created:
            await admin.wait_for(created)
            facts = await admin.facts(names)
    findings = [each for each in audit(sending, facts, cluster) if each.subject not in failed]
    return Creation(wanted, created, failed, findings)


def sending_of(config: Config, vms: int | None) -> Sending:
    """Return what the agent sends to Kafka. Kafka must be configured."""
    kafka = _kafka(config)
    return Sending(
        topics=[Topic(kind, name) for kind, name in kafka.topics().items()],
        spool_age_s=config.spool_age_s,
        batch_bytes=kafka.produce_batch_bytes,
        compression=kafka.compression,
        vms=vms,
    )


def cluster_of(config: Config, principal: str | None) -> Cluster:
    """Return what the printed commands need. Kafka must be configured."""
    kafka = _kafka(config)
    username = "" if kafka.sasl is None else kafka.sasl.username
    return Cluster(
        servers=kafka.bootstrap_servers,
        is_secured=kafka.sasl is not None or kafka.tls is not None,
        principal=principal or (f"User:{username}" if username else None),
    )


def _kafka(config: Config) -> KafkaSettings:
    if config.kafka is None:
        raise ConfigError([Problem("kafka.bootstrap_servers", "not set, so there are no topics; set it")])
    return config.kafka

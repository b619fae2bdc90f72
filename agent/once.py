"""The commands that run once and exit: restore intervals, and probe one VM. Builds the parts they need."""

from dataclasses import replace

import anyio

from agent import __version__
from agent.config import Config
from agent.contract.encode import Agent, sample_document, state_document
from agent.core.address import parse_address
from agent.core.epochs import uuid7
from agent.core.reading import IntervalPolicy
from agent.libvirt.connections import Connections
from agent.libvirt.targets import Settings as LibvirtSettings
from agent.qmp.link import QmpOpener
from agent.runtime import clock, logs
from agent.runtime.fleet import canonical
from agent.runtime.give_back import Settlement, give_back
from agent.runtime.links import opener
from agent.runtime.probe import Finding
from agent.runtime.probe import probe as look
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


async def probe(
    config: Config, path: str, enable_polling_s: int | None, deadline_s: float
) -> tuple[dict[str, object], bool]:
    """Read one VM once: `barograph probe`.

    Args:
        config: the configuration; its policy is ignored.
        path: the monitor's socket, or URI#UUID of a libvirt domain.
        enable_polling_s: the interval to set if polling is off; `None`: change nothing.
        deadline_s: how long to wait for a sample.

    Returns:
        The state and the sample as documents (`None`: none before the deadline), and whether there is a
        sample.
    """
    logs.configure("critical", config.log.format)
    host, address = config.host_identity(), canonical(parse_address(path))
    identity = Agent(host.id, host.name, uuid7(clock.now().unix_ms, clock.chance()), __version__)
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
    return {"state": state, "sample": sample}, sample is not None

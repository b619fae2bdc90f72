"""Looks at the monitors of this host for `barograph doctor`. Changes no VM, and holds no monitor."""

import os
import pwd
import stat
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from grp import getgrgid

import anyio

from agent.core.address import Address, MonitorPath
from agent.core.doctor.sockets import Refused, SocketFacts, SocketFile, VmFact
from agent.core.poller import PollSettings
from agent.core.reading import Access, IntervalPolicy, SocketMark, State
from agent.core.shares import Owner
from agent.core.states import Reason
from agent.discovery.globs import Settings as DiscoverySettings
from agent.discovery.scan import Scan, scan
from agent.qmp.link import QmpOpener
from agent.qmp.link import Settings as QmpSettings
from agent.runtime.links import Link, Opener
from agent.runtime.probe import Finding, probe
from agent.threads import in_thread

PROBED_MAX = 500
"""Monitors that are connected to; the rest is left out, and counted."""

_AT_ONCE = 16
_DEADLINE_S = 3.0
_LISTED_MAX = 1_000


async def look_at_sockets(settings: DiscoverySettings, policy: IntervalPolicy) -> SocketFacts:
    """Scan the globs once. Connects to nothing. `policy` is that of monitors without their own."""
    return await in_thread(partial(_look, settings, policy))


async def probe_monitors(
    facts: SocketFacts, host_id: str, polling: PollSettings, qmp: QmpSettings
) -> tuple[Sequence[VmFact], int]:
    """Read the state of each VM once, through the sockets that this user may connect to.

    Return also how many sockets were left out.

    A monitor that other clients wait for is not connected to. The link to any other one ends within 100 ms.
    """
    observing = replace(polling, policy=IntervalPolicy.OBSERVE, spread_ns=0)
    open_link = _opener(QmpOpener(qmp))
    may_connect = [each for each in facts.sockets if each.may_connect]
    sockets = may_connect[:PROBED_MAX]
    found: dict[str, Finding] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def look(each: SocketFile) -> None:
        async with limiter:
            found[each.path] = await probe(
                MonitorPath(each.path),
                host_id,
                observing,
                open_link,
                deadline_s=_DEADLINE_S,
                wait_for_update=False,
                access=Access.SHARE,
                mark=each.mark,
            )

    async with anyio.create_task_group() as group:
        for each in sockets:
            group.start_soon(look, each)
    return _vms([(each, found[each.path]) for each in sockets]), len(may_connect) - len(sockets)


def _opener(open_monitor: QmpOpener) -> Opener:
    def open_link(
        address: Address, *, look_first: bool, mark: SocketMark | None, owner: Owner = None
    ) -> AbstractAsyncContextManager[Link]:
        assert isinstance(address, MonitorPath)
        return open_monitor(address, look_first=look_first, mark=mark, owner=owner)

    return open_link


def _vms(found: Sequence[tuple[SocketFile, Finding]]) -> list[VmFact]:
    """Return the states, with the second monitor of a VM as a duplicate."""
    vms: list[VmFact] = []
    places: dict[str, str] = {}  # uuid -> the first path
    for each, finding in found:
        path, state = each.path, finding.state
        if state is None or state.reason == Reason.FIRST_ATTEMPT:
            detail = f"no answer within {_DEADLINE_S:g} s"
            vms.append(VmFact(path, State.UNREACHABLE, Reason.NO_ANSWER, detail))
            continue
        uuid = None if state.vm is None else state.vm.uuid
        if uuid is not None and places.setdefault(uuid, path) != path:
            detail = f"the VM at {places[uuid]} has the same uuid {uuid}"
            vms.append(VmFact(path, State.DUPLICATE, Reason.UUID_IN_USE, detail))
            continue
        vms.append(VmFact(path, state.state, state.reason, state.detail, each.agent_sets))
    return vms


def _look(settings: DiscoverySettings, policy: IntervalPolicy) -> SocketFacts:
    whole = scan(settings)
    empty: list[str] = []
    for monitor in settings.monitors:
        alone = scan(replace(settings, monitors=(monitor,)))
        if not alone.seen and not alone.refused:
            empty.append(monitor.glob)
    refused = [Refused(each.path, each.reason, each.detail) for each in whole.refused]
    return SocketFacts(
        globs=[each.glob for each in settings.monitors],
        empty=empty,
        sockets=_files(whole, policy),
        refused=refused[:_LISTED_MAX],
    )


def _files(found: Scan, policy: IntervalPolicy) -> list[SocketFile]:
    files: list[SocketFile] = []
    for each in found.seen:
        path = str(each.address)
        try:
            status = os.stat(path)
        except OSError:
            continue  # removed meanwhile, or its directory may not be entered: the scan has that
        # connect(2) needs write permission on the file, for the effective user.
        may = os.access(path, os.W_OK, effective_ids=True)
        sets = (each.policy or policy) is not IntervalPolicy.OBSERVE
        files.append(SocketFile(path, _owner(status), each.mark, may, sets))
    return files


def _owner(status: os.stat_result) -> str:
    try:
        user = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        user = str(status.st_uid)
    try:
        group = getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return f"{user}:{group} {stat.S_IMODE(status.st_mode):04o}"

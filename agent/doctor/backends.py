"""Connects to the destinations and the libvirts, for `barograph doctor`. Each attempt has a deadline."""

from collections.abc import Sequence
from functools import partial

import anyio

from agent.core.doctor.backends import LibvirtFact, OtlpFact
from agent.libvirt import reach as libvirt_reach
from agent.libvirt.targets import Place
from agent.redaction import Redactor
from agent.sinks import otlp_reach
from agent.sinks.otlp_settings import Settings as OtlpSettings
from agent.sinks.otlp_settings import authority
from agent.threads import in_thread

LIBVIRT_DEADLINE_S = 5.0

_OTLP_DEADLINE_S = otlp_reach.TIMEOUT_MAX_S + 3.0


async def reach_otlp(settings: Sequence[OtlpSettings], redact: Redactor) -> Sequence[OtlpFact]:
    """Send a request without content for each signal."""
    found: list[OtlpFact] = []
    for each in settings:
        setting, peer = each.endpoint_setting, authority(each.endpoint)
        detail = f"{setting}: no answer from {peer} within {_OTLP_DEADLINE_S:g} s; check {setting} and DNS"
        fact = OtlpFact(each.signal, peer, setting, stage="answer", detail=detail)
        with anyio.move_on_after(_OTLP_DEADLINE_S):
            fact = await in_thread(partial(otlp_reach.reach, each, redact.add, redact))
        found.append(fact)
    return found


async def reach_libvirts(places: Sequence[Place]) -> Sequence[LibvirtFact]:
    """Connect to each libvirt once, all at the same time."""
    found: dict[str, LibvirtFact] = {}

    async def look(target: str, place: Place) -> None:
        detail = f"no answer within {LIBVIRT_DEADLINE_S:g} s"
        found[target] = LibvirtFact(target, detail, is_late=True)
        with anyio.move_on_after(LIBVIRT_DEADLINE_S):
            found[target] = await in_thread(partial(libvirt_reach.reach, target, place.policy))

    async with anyio.create_task_group() as group:
        for place in places:
            targets = await in_thread(partial(libvirt_reach.targets, place))
            if not targets:
                name = place.sockets or ""
                found[name] = LibvirtFact(name, "no socket matches this glob")
            for target in targets:
                group.start_soon(look, target, place)
    return [found[each] for each in sorted(found)]

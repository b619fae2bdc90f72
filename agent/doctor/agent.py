"""Asks the agent on this host over HTTP, and tries its address, for `barograph doctor`. Blocks."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from agent.contract.foreign import decode_foreign
from agent.core.doctor.limits import AgentFacts
from agent.core.doctor.sockets import VmFact
from agent.local_agent import NoAnswerError, ask

ANSWER_WITHIN_S = 3.0
ANSWER_MAX_BYTES = 64 * 2**20


class _Component(msgspec.Struct, frozen=True):
    state: str
    why: str = ""


class _Health(msgspec.Struct, frozen=True):
    components: dict[str, _Component]


class _Vm(msgspec.Struct, frozen=True):
    path: str
    name: str | None = None


class _State(msgspec.Struct, frozen=True):
    vm: _Vm
    state: str
    reason: str
    detail: str = ""


class _VmStatus(msgspec.Struct, frozen=True):
    state: _State


class _Agent(msgspec.Struct, frozen=True):
    version: str


class _Status(msgspec.Struct, frozen=True):
    agent: _Agent
    health: _Health
    vms: list[_VmStatus]


@dataclass(frozen=True, slots=True)
class Answered:
    """What the agent answered."""

    facts: AgentFacts
    vms: Sequence[VmFact] = field(default=())


def ask_agent(host: str, port: int) -> Answered:
    """Return what the agent on this host reports of itself and of its VMs."""
    place = f"{host}:{port}"
    try:
        ready_status, reasons = _get(host, port, "/readyz")
        _, text = _get(host, port, "/status")
        status = decode_foreign(text, _Status)
    except NoAnswerError as error:
        return Answered(AgentFacts(place=place, fault=f"no answer: {error}"))
    except ValueError:
        return Answered(AgentFacts(place=place, fault="the answer is not that of an agent of this version"))
    degraded = [
        (name, each.why) for name, each in status.health.components.items() if each.state == "degraded"
    ]
    facts = AgentFacts(
        place=place,
        version=status.agent.version,
        is_ready=ready_status == 200,
        not_ready=reasons.decode(errors="replace").strip().replace("\n", "; "),
        degraded=degraded,
    )
    vms = [
        VmFact(_name(each.state.vm), each.state.state, each.state.reason, each.state.detail)
        for each in status.vms
    ]
    return Answered(facts, vms)


def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    return ask(host, port, path, within_s=ANSWER_WITHIN_S, bytes_max=ANSWER_MAX_BYTES)


def _name(vm: _Vm) -> str:
    return vm.path if vm.name is None else f"{vm.name} ({vm.path})"


def port_fault(host: str, port: int) -> str:
    """Return why the agent could not listen on the address now; "": it could. Listens for no client."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        return f"cannot listen: {error.strerror or error}"
    return ""

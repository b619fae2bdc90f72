"""Parses the values of barograph.states: docs/contract.md and schemas/state, schemas/agent."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from barograph_streams.core.documents import Host, Labels, Name, Sequence, Uuid

TimeMs = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
Word = Annotated[str, Meta(max_length=64)]

GONE = "gone"
REPORTING = "reporting"


class StateVm(Struct, frozen=True, omit_defaults=True):
    """The VM of a state: only the path while it has not been identified."""

    path: Annotated[str, Meta(max_length=4096)]
    id: Uuid | UnsetType = UNSET
    id_source: Word | UnsetType = UNSET
    uuid: Uuid | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET


class VmStateDocument(Struct, frozen=True):
    """What the jobs use of a VM's state."""

    schema: str
    vm: StateVm
    host: Host
    run: Uuid
    sequence: Sequence
    state: Word
    reason: Annotated[str, Meta(max_length=1024)]
    since_ms: TimeMs
    observed_at_ms: TimeMs
    next_heartbeat_by_ms: TimeMs
    redelivered: bool = False


class AgentStateDocument(Struct, frozen=True):
    """What the jobs use of an agent's own state."""

    schema: str
    host: Host
    run: Uuid
    sequence: Sequence
    state: Word
    since_ms: TimeMs
    observed_at_ms: TimeMs
    next_heartbeat_by_ms: TimeMs
    redelivered: bool = False


VM_STATE = "barograph.vm.state"

DECODERS: "dict[str, msgspec.json.Decoder[VmStateDocument] | msgspec.json.Decoder[AgentStateDocument]]" = {
    VM_STATE: msgspec.json.Decoder(VmStateDocument),
    "barograph.agent.state": msgspec.json.Decoder(AgentStateDocument),
}

"""The first step of the jobs on hosts: it tells each host what the records of its VMs show.

The records of a VM have the VM's key. This step keeps the reader's state of each VM and the host that it is
counted on, so that a VM in migration is counted once. `host_steps` is the second step.
"""

from typing import Any

import msgspec
from msgspec import Struct, UnsetType

from barograph_streams.core import documents, memory_documents, states
from barograph_streams.core.documents import Outcome, Sample, parse
from barograph_streams.core.facts import Fact, Guest, encode, host_fact
from barograph_streams.core.memory_documents import HostMemoryDocument, VmMemoryDocument
from barograph_streams.core.placement import Placement, fact_of, note_memory, note_sample, note_state
from barograph_streams.core.reader import ReaderState, new_state, take
from barograph_streams.core.states import VmStateDocument
from barograph_streams.core.steps import Sent, Step

_DECODERS: "dict[str, msgspec.json.Decoder[Any]]" = {
    **documents.DECODERS,
    states.VM_STATE: states.DECODERS[states.VM_STATE],
    **memory_documents.DECODERS,
}


class KeyState(Struct, array_like=True):
    """What the first step keeps of one VM, or of a host."""

    reader: ReaderState
    placement: Placement
    run: str = ""  # of a host's newest record
    sequence: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(KeyState)


class FactsByVm:
    """The first step of each job on hosts."""

    def step(self, kept: bytes | None, key: str, value: bytes, now_ms: int) -> Step:
        """Return what one record changes, and what its hosts are told. The time has no influence."""
        document: Sample | VmStateDocument | VmMemoryDocument | HostMemoryDocument | Outcome
        document = parse(value, _DECODERS)
        if isinstance(document, Outcome):
            return Step(document, None)
        vm = "" if isinstance(document, HostMemoryDocument) else document.vm.id
        if isinstance(vm, UnsetType):
            return Step(Outcome.UNIDENTIFIED, None)
        if key != (vm or document.host.id):
            return Step(Outcome.KEY, None)
        if not isinstance(document, Sample) and document.redelivered:
            return Step(Outcome.REDELIVERED, None)
        state = KeyState(new_state(), Placement({})) if kept is None else _decoder.decode(kept)
        if isinstance(document, HostMemoryDocument):
            return _of_host(state, document)
        return _of_vm(state, vm, document)

    def on_timer(self, kept: bytes | None, key: str, now_ms: int) -> Step:
        """Return no change: the first step sets no timer."""
        return Step(Outcome.KEPT, None)


def _of_host(state: KeyState, document: HostMemoryDocument) -> Step:
    if document.run == state.run and document.sequence <= state.sequence:
        return Step(Outcome.REPEAT, None)
    state.run, state.sequence = document.run, document.sequence
    return Step(Outcome.KEPT, _encoder.encode(state), sent=(_sent(document.host.id, host_fact(document)),))


def _of_vm(state: KeyState, vm: str, document: Sample | VmStateDocument | VmMemoryDocument) -> Step:
    placement, host = state.placement, document.host.id
    before, outcome, lost = placement.counted_on, Outcome.KEPT, 0
    told: set[str] = set()
    if isinstance(document, Sample):
        reading = take(state.reader, document)
        outcome, lost = reading.outcome, reading.lost
        if outcome is Outcome.KEPT:
            note_sample(placement, _guest(document))
    elif (
        note_memory(placement, document)
        if isinstance(document, VmMemoryDocument)
        else note_state(placement, document)
    ):
        told.add(host)
    else:
        outcome = Outcome.REPEAT
    if placement.counted_on != before:
        told |= {before, placement.counted_on} - {""}
    found = {each: fact_of(placement, vm, each) for each in sorted(told)}
    sent = tuple(_sent(each, fact) for each, fact in found.items() if fact is not None)
    return Step(outcome, _encoder.encode(state), lost=lost, sent=sent)


def _sent(host: str, fact: Fact) -> Sent:
    return Sent(host, encode(fact))


def _guest(sample: Sample) -> Guest:
    find = sample.statistics.get
    swapped_in, swapped_out = find("swap_in"), find("swap_out")
    return Guest(
        host=sample.host.id,
        epoch=sample.epoch,
        observed_at_ms=sample.observed_at_ms,
        polling_interval_s=sample.polling_interval_s,
        used=None if sample.used is None else sample.used.used,
        swapped=None if swapped_in is None or swapped_out is None else swapped_in + swapped_out,
    )

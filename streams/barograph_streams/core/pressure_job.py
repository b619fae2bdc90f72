"""The pressure job: samples in, a record at each change of a VM's pressure level and as a heartbeat.

Its results depend on the samples of a VM and their order alone, never on the time of processing: a replay
gives the same records.
"""

import msgspec
from msgspec import Struct

from barograph_streams.core.documents import Outcome, Sample, parse_sample
from barograph_streams.core.pressure import Level, Pressure, PressureState, advance
from barograph_streams.core.reader import ReaderState, new_state, take
from barograph_streams.core.records import Record, pressure_record

HEARTBEAT_S = 300
"""A level that has not changed is written again after so much `last_update`."""


class Reported(Struct, array_like=True, frozen=True):
    """The last record that was written for a VM."""

    level: Level
    last_update_s: int


class VmState(Struct, array_like=True):
    """What the job keeps of one VM."""

    reader: ReaderState
    pressure: PressureState | None = None
    reported: Reported | None = None


class Step(Struct, frozen=True):
    """What one record changed."""

    outcome: Outcome
    state: bytes | None  # to be kept for the VM; None: as before
    records: tuple[Record, ...] = ()
    lost: int = 0  # change of the number of lost samples


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(VmState)


def decode_state(content: bytes) -> VmState:
    """Return the state of a VM."""
    return _decoder.decode(content)


def step(kept: bytes | None, key: str, value: bytes) -> Step:
    """Return what one record of barograph.samples changes.

    Args:
        kept: the state of the VM; `None`: no sample has arrived.
        key: of the record: the VM's id.
        value: of the record.
    """
    sample = parse_sample(key, value)
    if isinstance(sample, Outcome):
        return Step(sample, None)
    vm = VmState(new_state()) if kept is None else _decoder.decode(kept)
    reading = take(vm.reader, sample)
    records: tuple[Record, ...] = ()
    if reading.outcome is Outcome.KEPT and sample.is_polled:
        pressure = advance(
            vm.pressure,
            epoch=sample.epoch,
            last_update_s=sample.last_update,
            statistics=sample.statistics,
        )
        if pressure is not None:
            vm.pressure = pressure.state
            records = _due(vm, sample, pressure)
    return Step(reading.outcome, _encoder.encode(vm), records, reading.lost)


def _due(vm: VmState, sample: Sample, pressure: Pressure) -> tuple[Record, ...]:
    """Return the record that is due after a sample, and note it in the state."""
    last, level = vm.reported, pressure.state.level
    if last is not None and last.level is level:
        # Below 0 after the host's clock was set back, when `since` has changed as well.
        if 0 <= sample.last_update - last.last_update_s < HEARTBEAT_S:
            return ()
        record = pressure_record(sample, pressure, None, heartbeat=True)
    else:
        record = pressure_record(sample, pressure, last and last.level, heartbeat=False)
    vm.reported = Reported(level, sample.last_update)
    return (record,)

"""Samples for the tests of the stream jobs, as the agent encodes them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from agent.contract.encode import Mode, encode_sample
from agent.contract.payloads import Agent
from agent.contract.redelivered import redelivered
from agent.core.address import MonitorPath
from agent.core.reading import EpochEnd, Origin, Sample, VmId, VmIdentity

T0_S = 1_795_404_000
AGENTS = [
    Agent(f"9b1d4c1f0e6a4f0fa1f6f1c6c9a4b7d{n}", f"node-{n}", "0199f2ff-1234-7abc-8def-0123456789ab", "0.1.0")
    for n in range(3)
]


def vm_id(number: int) -> str:
    """Return the id of a VM."""
    return str(UUID(int=1000 + number))


def epoch_name(number: int) -> str:
    """Return the name of an epoch."""
    return str(UUID(int=number + 1))


@dataclass(frozen=True)
class Made:
    """A sample, and how it is sent."""

    sample: Sample
    agent: Agent = AGENTS[0]
    again: bool = False
    mode: Mode = Mode.BINARY

    @property
    def key(self) -> str:
        """Return the key of the record."""
        return self.sample.vm.id

    @property
    def record(self) -> tuple[str, bytes]:
        """Return key and value of the record."""
        return self.key, self.value

    @property
    def value(self) -> bytes:
        """Return the value of the record."""
        record = encode_sample(self.sample, self.agent, self.mode)
        return redelivered(record).value if self.again else record.value


def make(
    sequence: int,
    *,
    vm: int = 0,
    epoch: int = 0,
    host: int = 0,
    previous: tuple[int, int] | None = None,
    last_update_s: int | None = None,
    origin: Origin = Origin.POLL,
    statistics: Mapping[str, int] | None = None,
    again: bool = False,
    mode: Mode = Mode.BINARY,
) -> Made:
    """Return a sample; `previous`: an epoch and its last sequence."""
    at_s = T0_S + 10 * sequence if last_update_s is None else last_update_s
    sample = Sample(
        vm=VmIdentity(VmId(vm_id(vm)), "uuid", vm_id(vm), None),
        address=MonitorPath("/run/vm/a.qmp"),
        epoch=epoch_name(epoch),
        epoch_start_s=T0_S,
        sequence=sequence,
        previous=None if previous is None else EpochEnd(epoch_name(previous[0]), previous[1]),
        last_update_s=at_s,
        observed_at_ms=at_s * 1000 + 123,
        origin=origin,
        missed_at_most=0,
        interval_s=10,
        run_state="running",
        balloon=None,
        statistics={"free_memory": sequence} if statistics is None else statistics,
    )
    return Made(sample, AGENTS[host], again, mode)


def starved(sequence: int) -> Mapping[str, int]:
    """Return the statistics of a guest with 2 % available and 10 major faults per second."""
    return {"available_memory": 20_000_000, "total_memory": 1_000_000_000, "major_faults": 100 * sequence}


def redeliver(made: Made) -> Made:
    """Return the sample as it is sent again by hand."""
    return replace(made, again=True)
